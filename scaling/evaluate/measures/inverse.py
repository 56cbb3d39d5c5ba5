"""Inverse scaling: whether scores fall with size, by a signed slope with its interval (McKenzie et al. 2023)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from models.errors import require
from scaling.fitting.bootstrap import resample_weights

Trend = Literal["standard", "inverse", "U-shaped", "inverted U", "none"]


class Slopes(NamedTuple):
    """Slope per decade of size with its interval, over all sizes, the smaller half and the larger half."""

    whole: tuple[float, float, float]  # (slope, low, high)
    smaller: tuple[float, float, float]
    larger: tuple[float, float, float]

    @property
    def trend(self) -> Trend:
        """What the intervals say: both halves clear of 0 with opposite signs make a U, else the whole decides."""
        first, second = _sign(self.smaller), _sign(self.larger)
        if first * second < 0:
            return "U-shaped" if first < 0 else "inverted U"
        return {1: "standard", -1: "inverse", 0: "none"}[_sign(self.whole)]  # type: ignore[return-value]


def slopes(values: ArrayLike, sizes: ArrayLike, level: float = 0.9, bootstrap: int = 2000, seed: int = 0) -> Slopes:
    """Least-squares slopes of the mean score on log10 size, with intervals over items.

    values: per-item scores [models, items], the same items for all; sizes [models], of which there may be several
    models each. The halves share the middle size.
    """
    v, x = np.asarray(values, float), np.log10(np.asarray(sizes, float))
    levels = np.unique(x)
    problem = f"have shape {v.shape} for {len(levels)} sizes"
    require(v.ndim == 2 and len(v) == len(x) and len(levels) >= 3, "values", problem, "give three or more sizes")
    weights = resample_weights(v.shape[1], bootstrap, np.random.default_rng(seed)) / v.shape[1]
    draws = weights @ v.T  # [bootstrap, models]
    middle = levels[len(levels) // 2]
    parts = [np.ones(len(x), bool), x <= middle, x >= middle]
    found = []
    for rows in parts:
        centred = x[rows] - x[rows].mean()
        estimate = centred / (centred**2).sum()
        low, high = np.quantile(draws[:, rows] @ estimate, [(1 - level) / 2, (1 + level) / 2])
        found.append((float(v[rows].mean(1) @ estimate), float(low), float(high)))
    return Slopes(*found)


def _sign(slope: tuple[float, float, float]) -> int:
    return (slope[1] > 0) - (slope[2] < 0)
