"""Whether longer samples of one problem are right less often: a logistic slope at the problems' own difficulties."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from models.errors import require

SPREAD = 2.0  # standard deviation of the problems' log-odds in the prior that keeps those always right finite


def length_slope(correct: ArrayLike, length: ArrayLike, iterations: int = 50) -> float:
    """Log-odds of being right per unit of length, of samples `[problems, n]`.

    log-odds = a_problem + slope (length - the problem's mean length), by Newton's method; the a_problem are normal
    around their mean with deviation SPREAD, so that a problem whose samples are all right says nothing of the slope
    and does no harm; 0 where all samples are right, or all wrong. Raises ConfigError when no problem's lengths vary.
    """
    y, x = np.asarray(correct, float), np.asarray(length, float)
    x = x - x.mean(1, keepdims=True)
    scale = x.std()
    require(scale > 0, "length", "is the same for all samples of every problem", "give samples of different lengths")
    if y.min() == y.max():
        return 0.0
    x = x / scale
    a, slope, weight = np.zeros((len(y), 1)), 0.0, 1 / SPREAD**2
    for _ in range(iterations):
        p = expit(a + slope * x)
        v = p * (1 - p)
        grad_a = (y - p).sum(1) - weight * (a - a.mean())[:, 0]
        curve_a, cross = v.sum(1) + weight, (v * x).sum(1)
        left = (v * x * x).sum() - (cross**2 / curve_a).sum()
        step = (((y - p) * x).sum() - (cross * grad_a / curve_a).sum()) / left
        a = a + ((grad_a - cross * step) / curve_a)[:, None]
        slope += step
    return float(slope / scale)
