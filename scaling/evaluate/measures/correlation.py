"""Correlations over models: score against compression, scores along the chain of probabilities, tasks over training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from models.errors import require

CHAIN = ("log_vocabulary", "choices", "brier", "accuracy")
"""From what training minimises to what is reported: log-probability of the right choice over the vocabulary,
probability among the choices, minus Brier score, accuracy (Schaeffer et al. 2024)."""


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's r of x and y [n]; 0 where one of them is constant."""
    a, b = np.asarray(x, float), np.asarray(y, float)
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a**2).sum() * (b**2).sum())
    return 0.0 if size < 1e-300 else float((a * b).sum() / size)


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's r of the ranks, ties averaged."""
    return pearson(rankdata(x), rankdata(y))


def cluster_interval(
    clusters: ArrayLike, statistic: Callable[[np.ndarray], float], level: float = 0.9, size: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Interval of statistic(row indices) over resampled clusters [rows] of rows, such as the checkpoints of one run.

    Draws of a statistic that is not finite (all resampled runs equal) are left out.
    """
    codes = np.unique(np.asarray(clusters), return_inverse=True)[1]
    groups = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    require(len(groups) >= 2, "clusters", "are one", "give rows of two or more independent runs")
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(size):
        picked = rng.integers(len(groups), size=len(groups))
        if len(set(picked.tolist())) > 1:
            draws.append(statistic(np.concatenate([groups[i] for i in picked])))
    kept = np.asarray(draws)[np.isfinite(draws)]
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def item_correlations(stages: ArrayLike, log_compute: ArrayLike) -> np.ndarray:
    """Spearman correlation of each stage of each item with log compute [stages, items].

    stages: [stages, models, items], in the order of CHAIN. An item on which a stage never changes counts as 0.
    """
    values, x = np.asarray(stages, float), np.asarray(log_compute, float)
    problem = f"have shape {values.shape} for {len(x)} models"
    require(values.ndim == 3 and values.shape[1] == len(x) >= 3, "stages", problem, "give [stages, models, items]")
    wanted = rankdata(x) - (len(x) + 1) / 2
    ranks = rankdata(values, axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    size = np.sqrt((ranks**2).sum(1) * (wanted**2).sum())
    together = np.einsum("smi,m->si", ranks, wanted)
    return np.divide(together, size, out=np.zeros_like(size), where=size > 0)


def trajectory_agreement(small: ArrayLike, large: ArrayLike) -> float:
    """Spearman correlation of the changes between checkpoints of two sizes over all tasks.

    small, large: [tasks, checkpoints], at equal tokens. Changes, not levels: curves that both rise correlate anyway.
    """
    a, b = np.diff(np.asarray(small, float), axis=1), np.diff(np.asarray(large, float), axis=1)
    problem = f"have shapes {a.shape} and {b.shape} of changes"
    require(a.shape == b.shape and a.size >= 3, "small, large", problem, "give the same tasks and checkpoints")
    return spearman(a.ravel(), b.ravel())


def shuffled_agreement(small: ArrayLike, large: ArrayLike, draws: int = 1000, seed: int = 0) -> np.ndarray:
    """`trajectory_agreement` [draws] after the tasks of the large model were exchanged at random: what any two sets of
    rising curves would give."""
    rng = np.random.default_rng(seed)
    b = np.asarray(large, float)
    return np.array([trajectory_agreement(small, b[rng.permutation(len(b))]) for _ in range(draws)])
