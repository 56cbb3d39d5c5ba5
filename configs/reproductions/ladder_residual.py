"""Ladder residual against the plain one, in pairs of seeds.

    python -m launch.reproduce ladder_residual --workdir runs/reproductions/ladder_residual

Results that arrive one part late leave the products of the next part nothing to wait for (tests/models/test_ladder.py
reads that from compiled programs); this asks what it costs in loss.
"""

import dataclasses
from collections.abc import Sequence

from models.config import ModelConfig
from models.wiring import Ladder, PreNorm
from scaling import arms
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.sweep.config import SweepConfig
from scaling.train.config import TrainConfig

MODEL = ModelConfig(d_model=64, n_layers=6, n_heads=4)
MODELS = {"plain": dataclasses.replace(MODEL, wiring=PreNorm()), "ladder": dataclasses.replace(MODEL, wiring=Ladder())}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="ladder_residual", methods=(46,), claim="the loss of a ladder is within 1 % of the plain residual's",
        source="Zhang et al. 2025, arXiv:2501.06589", smallest_effect=0.0, minutes=5,
        unit="percentage points of loss below the 1 % that it may cost",
        not_covered="more than 6 layers and 300 steps; the time that is saved, which takes devices; conversion of a "
        "trained model", simulated=False, run=run, sweeps=planned,
    )  # fmt: skip


def base(quick: bool) -> SweepConfig:
    train = TrainConfig(steps=20 if quick else 300, batch_size=8, seq_len=64, learning_rate=3e-3)
    return SweepConfig(train=train, seeds=2 if quick else 5, workers=1)


def planned(quick: bool) -> Sequence[SweepConfig]:
    return arms.sweeps(base(quick), MODELS)


def run(work: Workspace) -> Measured:
    found = arms.train(work, base(work.quick), MODELS)
    margin = 1 - found.excess("ladder", "plain")
    return Measured(float(margin.mean()), t_interval(margin), found.flops, found.details())
