"""Products of fewer and fewer bits: how much of the range of learning rates is then lost.

    python -m launch.reproduce rate_sensitivity --workdir runs/reproductions/rate_sensitivity

The sensitivity of Wortsman et al. (2023, "Small-scale proxies for large-scale transformer training instabilities",
arXiv:2309.14322): mean over a fixed grid of learning rates of min(loss, loss of knowing nothing), less the least loss
of the grid. It needs no threshold for what a failed run is, unlike the share of failures in few_bits.
"""

import math
from collections.abc import Sequence

import numpy as np

from models.config import ModelConfig
from scaling.reproduction import JSON, Measured, Reproduction, Workspace, t_interval
from scaling.sweep.config import SweepConfig, Value
from scaling.train.adaptation import LowPrecision
from scaling.train.config import TrainConfig

MODEL = ModelConfig(d_model=32, n_layers=4, n_heads=4)
ALL, BFLOAT16, NONE = 23, 7, 0  # bits of the mantissa
RATES = (1e-2, 3e-2, 1e-1, 3e-1)
FIRST, SEEDS = 200, 8


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="rate_sensitivity", methods=(260,), smallest_effect=0.05, minutes=8,
        claim="losses depend more on the learning rate with no bits of the mantissa than in bfloat16",
        source="Lee et al. 2024, To FP8 and back again, arXiv:2405.18710",
        unit="nats/token of sensitivity to the learning rate, no bits less bfloat16",
        not_covered="other measures: what few_bits asks of shares of failed runs is not told by this; fewer bits of "
        "the exponent and numbers that overflow; mantissas cut off instead of rounded to the nearest; products outside "
        "hidden matrices; more than 4 layers of width 32 and 80 steps; seeds 190 to 192, which are not among these, "
        "said beforehand that pairs differ by a standard deviation of 0.04, for which eight are enough",
        simulated=False, run=run, sweeps=planned,
    )  # fmt: skip


def sweep(bits: int, quick: bool) -> SweepConfig:
    train = TrainConfig(
        steps=10 if quick else 80, batch_size=8, seq_len=32, checkpoint_every=0, seed=FIRST,
        trains=LowPrecision(exponent=8, mantissa=bits, block=0),
    )  # fmt: skip
    points: tuple[dict[str, Value], ...] = tuple({"train.learning_rate": rate} for rate in RATES)
    seeds = 2 if quick else SEEDS
    return SweepConfig(f"bits_{bits}", MODEL, train=train, points=points, seeds=seeds, workers=1, stack_size=32)


def planned(quick: bool) -> Sequence[SweepConfig]:
    return [sweep(bits, quick) for bits in (ALL, BFLOAT16, NONE)]


def run(work: Workspace) -> Measured:
    nothing, flops, loss = math.log(MODEL.vocab_size), 0.0, {}
    for bits in (ALL, BFLOAT16, NONE):
        table = work.sweep(sweep(bits, work.quick), f"bits_{bits}")
        flops += float(table["flops"].sum())
        lost = table["loss"].where(table["status"] == "done").fillna(np.inf)
        found = table.assign(loss=lost).pivot(index="seed", columns="learning_rate", values="loss").to_numpy()
        loss[bits] = np.minimum(found, nothing)  # [seeds, rates]
    sensitivity = {bits: found.mean(1) - found.min(1) for bits, found in loss.items()}
    more = sensitivity[NONE] - sensitivity[BFLOAT16]
    robust = sensitivity[BFLOAT16] - sensitivity[ALL]
    details: dict[str, JSON] = {
        f"{bits} bits": {"rates": list(RATES), "mean loss": found.mean(0).tolist(),
                         "sensitivity": sensitivity[bits].tolist()}
        for bits, found in loss.items()
    }  # fmt: skip
    details["bfloat16 less all bits"] = [float(robust.mean()), *t_interval(robust)]
    return Measured(float(more.mean()), t_interval(more), flops, details)
