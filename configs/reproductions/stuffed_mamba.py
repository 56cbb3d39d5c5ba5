"""Stuffed Mamba: a state too large for what it was trained on is never emptied, 20 minutes on two busy cores.

    python -m launch.reproduce stuffed_mamba --workdir runs/reproductions/stuffed_mamba

One layer of Mamba-2 learns Markov chains in context from as many tokens each: with a state of 4 or 64 per feature, on
sequences of 32 or 256. All are then read up to 256 tokens, where more context can only help who knows what to forget.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from models import counts
from models.config import Layer, ModelConfig
from models.mixers import Mamba2
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.tasks.sequences import Chains
from scaling.train.config import TrainConfig

SHORT, LONG, SEEDS, TOKENS = 32, 256, (1, 2, 3, 4), 1024
TRAINED = {"small, short": (4, SHORT), "large, short": (64, SHORT), "large, long": (64, LONG)}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="stuffed_mamba", methods=(195,),
        claim="past the length it was trained on an oversized state raises the loss, more than a small one does, and "
        "training on longer sequences cures it",
        source="Chen et al. 2024, Stuffed Mamba: state collapse and state capacity of RNN-based long-context modeling",
        smallest_effect=0.05, unit="nats/token at positions 128 to 256, the smallest of the three differences",
        minutes=20,
        not_covered="states above 64 and runs above 300 steps, after which context is still used little; long "
        "sequences beyond the tokens of the short ones, so that the third difference also pays for fewer of them; "
        "language, passkeys, and forgetting added to pretrained models", simulated=False, run=run,
    )  # fmt: skip


def model_of(state: int) -> ModelConfig:
    layer = Layer(Mamba2(head_dim=16, state=state, block=32), None)
    return ModelConfig(8, d_model=32, n_layers=1, n_heads=1, positions="none", pattern=(layer,))


def train_of(length: int, seed: int, quick: bool) -> TrainConfig:
    """The same tokens per step at every length."""
    steps = 10 if quick else 300
    return TrainConfig(steps, TOKENS // length, length, seed, 5e-3, optimizer="muon", weight_decay=0.0)


def losses(state: int, length: int, seed: int, quick: bool) -> list[float]:
    """Nats at every position of 256 unseen sequences of LONG tokens."""
    from scaling.tasks.probe import probe, surprise

    model = model_of(state)
    params = probe(model, Chains(8, length), train_of(length, seed, quick))
    return surprise(model, params, Chains(8, LONG), 256, seed).tolist()


def run(work: Workspace) -> Measured:
    found: dict[str, list[Any]] = {name: [] for name in TRAINED}
    for seed in SEEDS[:2] if work.quick else SEEDS:
        for name, (state, length) in TRAINED.items():
            make = partial(losses, state, length, seed, work.quick)
            found[name].append(work.keep(f"state{state}_length{length}_seed{seed}", make))
            one = np.array(found[name][-1])
            work.say(f"{name}, seed {seed}: {one[16:32].mean():.3f} nats at 16 to 32, {one[128:].mean():.3f} later")
    nats = {name: np.array(rows) for name, rows in found.items()}
    late, known = ({name: rows[:, part].mean(1) for name, rows in nats.items()}
                   for part in (slice(4 * SHORT, None), slice(SHORT // 2, SHORT)))  # fmt: skip
    rise = {name: late[name] - known[name] for name in TRAINED}
    differences = {
        "rise past the training length": rise["large, short"],
        "beyond a small state's": rise["large, short"] - rise["small, short"],
        "cured by length": late["large, short"] - late["large, long"],
    }
    smallest = np.min(list(differences.values()), axis=0)
    flops = sum(counts.train_flops(model_of(state), train_of(length, 0, work.quick).tokens, length)
                for state, length in TRAINED.values()) * len(smallest)  # fmt: skip
    lines = {name: {"x": list(range(1, LONG + 1)), "y": rows.mean(0).tolist()} for name, rows in nats.items()}
    details = {
        "differences by seed": {name: values.tolist() for name, values in differences.items()},
        "curves": [{"x": "position", "y": "nats/token", "log": "x", "lines": lines}],
    }
    return Measured(float(smallest.mean()), t_interval(smallest), float(flops), details)
