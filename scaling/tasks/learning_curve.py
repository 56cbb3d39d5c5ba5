"""Learning curve: the least held-out loss of models that read the first m of the same rows again and again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.config import ModelConfig
from scaling.tasks.probe import learned, losses
from scaling.tasks.sequences import Labelled
from scaling.train.config import TrainConfig


def held_out(model: ModelConfig, params: Any, test: Labelled) -> float:
    """Nats for each label of rows that were not trained on."""
    return float(losses(model, params, test).sum() / test.scored.sum())


def rows_of(data: Labelled, rows: Any) -> Labelled:
    """Some rows."""
    return Labelled(data.tokens[rows], data.labels[rows], data.scored[rows])


def learning_curve(
    model: ModelConfig, train: TrainConfig, data: Labelled, test: Labelled, sizes: Sequence[int]
) -> list[float]:
    """The least loss on `test`, over all looks, of a model for each size m, trained on the first m rows of `data`
    drawn with replacement. All start from the same parameters and share one program."""
    found = []
    for m in sizes:
        rng, seen = np.random.default_rng([train.seed, m]), [np.inf]

        def feed(step: int, rng: np.random.Generator = rng, m: int = m) -> Labelled:
            return rows_of(data, rng.integers(m, size=train.batch_size))

        def watch(steps: int, params: Any, seen: list[float] = seen) -> None:
            seen.append(held_out(model, params, test))

        learned(model, train, feed, watch=watch)
        found.append(float(min(seen)))
    return found


def needed(losses_by_size: Sequence[float], sizes: Sequence[float], floor: float, within: float) -> float:
    """The least size whose loss above the floor is at most 1 + `within` times the best of all, by a line between the
    logarithms of neighbouring sizes; sizes rise."""
    excess = np.log(np.asarray(losses_by_size) - floor)
    target = excess.min() + np.log1p(within)
    at = int(np.argmax(excess <= target))
    if at == 0:
        return float(sizes[0])
    part = (excess[at - 1] - target) / (excess[at - 1] - excess[at])
    return float(np.exp(np.log(sizes[at - 1]) + part * np.log(sizes[at] / sizes[at - 1])))
