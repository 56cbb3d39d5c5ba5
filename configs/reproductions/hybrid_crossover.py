"""Hydra: states, rare attention, experts by chunks and a product-key memory overtake attention as texts grow.

    python -m launch.reproduce hybrid_crossover --workdir runs/reproductions/hybrid_crossover

As many tokens are read in texts of 128 to 4,096, by the hybrid of configs/hydra.py at width 64 and by attention of no
more active parameters, in turn; times are of the processor. A smaller hybrid is trained with and without a loss of
balance, to see whether its chunks can be made to share the experts.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from configs.hydra import hydra
from models import counts
from models.channels import Experts, ProductKeys
from models.config import Layer, ModelConfig
from models.mixers import Mamba2
from scaling import arms
from scaling.reproduction import Measured, Reproduction, Workspace, least
from scaling.sweep.config import SweepConfig
from scaling.train.config import TrainConfig

LENGTHS, TOKENS, REPEATS, FIRST, SEEDS = (128, 512, 2048, 4096), 4096, 6, 4, 8
MEMORY, FOUR = ProductKeys(keys=32, top_k=4, half=16), Experts(4, 1, 64, dispatch="dropless", normalize=False)
HYBRID = hydra(64, dataclasses.replace(FOUR, d_ff=128), 64, MEMORY, Mamba2(head_dim=32, state=32, block=64))


def attention_of(hybrid: ModelConfig) -> ModelConfig:
    """As many layers of attention and feed-forward blocks, as wide as the active parameters allow."""
    plain = dataclasses.replace(hybrid, pattern=(Layer(),), d_ff=8)
    spare = counts.params_active(hybrid) - counts.params(plain)
    return dataclasses.replace(plain, d_ff=8 + spare // (3 * hybrid.d_model * hybrid.n_layers))


MODELS = {"hybrid": HYBRID, "attention": attention_of(HYBRID)}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="hybrid_crossover", methods=(88,), smallest_effect=0.1, minutes=8,
        claim="a hybrid reads 4,096 tokens faster than attention of no more active parameters, which is faster at 128, "
        "and a loss of balance lowers the load of the busiest expert that chunks are sent to",
        source="Chaudhary et al. 2025, Hydra: a modular architecture for efficient long-context reasoning, "
        "arXiv:2508.15099",
        unit="doublings, the least of speed at 4,096 tokens, attention's speed at 128, and lowered load",
        not_covered="accelerators, training time, widths above 64, attention that is sparse within its layer, and what "
        "the hybrid learns beside attention; seeds 0 to 3, which are not among these, could not tell about the load "
        "(0.74 [0.036, 1.1], with 0.1 asked, while speeds could)", simulated=False, run=run, sweeps=planned,
    )  # fmt: skip


def seconds(quick: bool) -> dict[str, Any]:
    """Processor seconds of reading TOKENS tokens, `[lengths][repeats]` of each model, one after the other."""
    import jax
    import jax.numpy as jnp

    from models import transformer

    read = jax.jit(transformer.loss, static_argnums=0)
    params = {name: jax.jit(partial(transformer.init, m))(jax.random.key(0)) for name, m in MODELS.items()}
    found: dict[str, list[list[float]]] = {name: [] for name in MODELS}
    for length in (32, 128) if quick else LENGTHS:
        tokens = jnp.zeros((max(1, (256 if quick else TOKENS) // length), length + 1), jnp.int32)
        tokens = tokens + jnp.arange(length + 1) % 251
        for name in MODELS:
            found[name].append([])
        for repeat in range(REPEATS + 1):  # the first compiles
            for name, model in MODELS.items():
                start = time.process_time()
                jax.block_until_ready(read(model, params[name], tokens))
                if repeat:
                    found[name][-1].append(time.process_time() - start)
    return found


def sweep(balance: float, quick: bool) -> SweepConfig:
    experts = dataclasses.replace(FOUR, balance_coefficient=balance)
    model = hydra(32, experts, 8, dataclasses.replace(MEMORY, keys=16), Mamba2(head_dim=16, state=8, block=32))
    model = dataclasses.replace(model, n_layers=5)
    train = TrainConfig(steps=10 if quick else 150, batch_size=8, seq_len=64, learning_rate=3e-3, seed=FIRST)
    # ragged products of several seeds at once are not to be had
    name = "even" if balance else "loose"
    return SweepConfig(name, model, train=train, seeds=2 if quick else SEEDS, workers=1, stack_size=1)


def planned(quick: bool) -> Sequence[SweepConfig]:
    return [sweep(balance, quick) for balance in (0.0, 0.1)]


def peaks(work: Workspace, config: SweepConfig) -> list[float]:
    """Load of the busiest expert over the mean, on held-out text, for every seed."""
    tokens = arms.heldout(config, 32)
    return [arms.routing(config.model, params, tokens)["peak"] for params in arms.trained(work, config)]


def run(work: Workspace) -> Measured:
    table = work.keep("seconds", partial(seconds, work.quick))
    ahead = np.log2(np.divide(table["attention"], table["hybrid"]))  # [lengths, repeats]
    flops, load, loss = 0.0, [], {}
    for config in planned(work.quick):
        done = work.sweep(config, config.name).sort_values("seed")
        flops += float(done["flops"].sum())
        loss[config.name] = done["loss"].tolist()
        load.append(np.array(work.keep(f"peak_{config.name}", partial(peaks, work, config))))
    lowered = np.log2(load[0] / load[1])
    effect, interval = least([ahead[-1], -ahead[0], lowered])
    lengths = LENGTHS[: len(ahead)]
    flops += sum((REPEATS + 1) * TOKENS // length * counts.forward_flops(model, length)
                 for model in MODELS.values() for length in lengths)  # fmt: skip
    crossings = [float(2 ** np.interp(0.0, one, np.log2(lengths))) for one in ahead.T]
    lines = {name: {"x": list(lengths), "y": (TOKENS / np.median(times, axis=1)).tolist()}
             for name, times in table.items()}  # fmt: skip
    faster = np.median(2**ahead, axis=1).tolist()
    details = {
        "speed over attention's, median": dict(zip(map(str, lengths), faster, strict=True)),
        "length at which both are as fast, by repetition": crossings, "seconds": table, "loss": loss,
        "busiest expert's load over the mean": {"loose": load[0].tolist(), "even": load[1].tolist()},
        "params": {name: [counts.params(m), counts.params_active(m)] for name, m in MODELS.items()},
        "curves": [{"x": "tokens of a text", "y": "tokens/s of the processor", "log": "xy", "lines": lines}],
    }  # fmt: skip
    return Measured(effect, interval, flops, details)
