"""ParScale: four streams through the same weights against one of as many parameters, in pairs of seeds.

    python -m launch.reproduce parallel_streams --workdir runs/reproductions/parallel_streams
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from models import counts
from models.config import Layer, ModelConfig
from models.mixers import Streamed
from models.wiring import Streams
from scaling import arms
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.sweep.config import SweepConfig
from scaling.train.config import TrainConfig

BASE = ModelConfig(d_model=32, n_layers=4, n_heads=4)
FOUR = dataclasses.replace(BASE, pattern=(Layer(Streamed(streams=4, prefix=4)),), wiring=Streams(4))
# One stream with a feed-forward block that is wider by what prefixes and joining weigh, at least.
SURPLUS = counts.params(FOUR) - counts.params(BASE)
ONE = dataclasses.replace(BASE, d_ff=BASE.stream.d_ff + SURPLUS // (3 * BASE.d_model * BASE.n_layers) + 1)
MODELS = {"one": ONE, "four": FOUR}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="parallel_streams", methods=(144,), smallest_effect=0.25, minutes=8,
        claim="four streams have a lower loss than one at no more parameters", source="Chen et al. 2025, "
        "arXiv:2505.10475", unit="per cent of loss that four streams lie below one",
        not_covered="the law in N and P, more than 4 layers of width 32 and 300 steps; the time of reading weights "
        "that streams share", simulated=False, run=run, sweeps=planned,
    )  # fmt: skip


def base(quick: bool) -> SweepConfig:
    train = TrainConfig(steps=20 if quick else 300, batch_size=8, seq_len=64, learning_rate=3e-3)
    return SweepConfig(train=train, seeds=2 if quick else 4, workers=1)


def planned(quick: bool) -> Sequence[SweepConfig]:
    return arms.sweeps(base(quick), MODELS)


def run(work: Workspace) -> Measured:
    found = arms.train(work, base(work.quick), MODELS)
    below = -found.excess("four", "one")
    details = found.details() | {"params": {name: counts.params(m) for name, m in MODELS.items()}}
    return Measured(float(np.mean(below)), t_interval(below), found.flops, details)
