"""Signal of a benchmark during training: whether its scores tell early checkpoints from late ones, and models apart."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import kendalltau, spearmanr

from models.errors import require


def monotonicity(scores: ArrayLike, steps: ArrayLike) -> float:
    """Spearman correlation of scores [checkpoints] with their steps; 0 for scores that never change."""
    y, x = _pair(scores, steps)
    return 0.0 if np.ptp(y) == 0 else float(spearmanr(x, y).statistic)


def signal_to_noise(values: ArrayLike) -> float:
    """(last - first) / standard error of a difference, from per-item scores [checkpoints, items] of one run.

    The standard error is that of the paired difference over items, so that a benchmark whose items all move together
    has more signal than one of as many points whose items flip at random. 0 where nothing changes.
    """
    v = np.asarray(values, float)
    require(
        v.ndim == 2 and min(v.shape) >= 2, "values", f"have shape {v.shape}", "give [checkpoints, items], 2 or more"
    )
    difference = v[-1] - v[0]
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return 0.0 if error == 0 else float(difference.mean() / error)


def ranking_consistency(scores: ArrayLike) -> float:
    """Mean Kendall's tau between the rankings of models [checkpoints, models] at one checkpoint and the next."""
    v = np.asarray(scores, float)
    require(
        v.ndim == 2 and min(v.shape) >= 2, "scores", f"have shape {v.shape}", "give [checkpoints, models], 2 or more"
    )
    taus = [kendalltau(before, after).statistic for before, after in itertools.pairwise(v)]
    return float(np.mean(np.nan_to_num(taus)))  # models that all tie say nothing


def _pair(scores: ArrayLike, steps: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.asarray(scores, float), np.asarray(steps, float)
    good = y.shape == x.shape and y.ndim == 1 and len(y) >= 3
    require(good, "scores", f"have shapes {y.shape} and {x.shape}", "give three or more checkpoints")
    return y, x
