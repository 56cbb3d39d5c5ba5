"""What reproductions with the ten skills share: the small models, and how right they are (launch.reproduce --list)."""

from __future__ import annotations

import numpy as np

from models.config import ModelConfig
from scaling.tasks.sequences import Labelled
from scaling.tasks.skills import Skills
from scaling.train.config import TrainConfig

ROWS = 64  # of a step
RATE = 1e-2


def model_of(width: int) -> ModelConfig:
    return ModelConfig(Skills().vocab_size, d_model=width, n_layers=2, n_heads=width // 8)


def train_of(steps: int, seed: int = 0, kind: Skills | None = None, rows: int = ROWS) -> TrainConfig:
    """At a constant rate, so that the model after half of the steps is that of half of the data."""
    size = (kind or Skills()).size
    return TrainConfig(steps, rows, size, seed, RATE, "constant", optimizer="muon", weight_decay=0.0)


def accuracy(model: ModelConfig, params: dict, test: Labelled) -> float:
    """Share of the labels that the model says."""
    from scaling.tasks.probe import said

    return float((said(model, params, test) == test.labels)[test.scored].mean())


def nats(model: ModelConfig, params: dict, test: Labelled) -> float:
    """Mean loss of a label."""
    from scaling.tasks.probe import losses

    return float(losses(model, params, test).sum() / test.scored.sum())


def late(kind: Skills, seed: int, rows: int) -> Labelled:
    """Rows that no training sees."""
    from scaling.tasks.probe import LATE

    return kind.draw(np.random.default_rng(seed + LATE), rows)
