"""Breakthroughness and linearity of a score over model sizes (BIG-bench, Srivastava et al. 2022, appendix B)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from models.errors import require

CAP = 100.0  # of breakthroughness: a step, of which the median difference is 0, would be infinite


def breakthroughness(scores: ArrayLike) -> float:
    """sign x (max - min) / sqrt(median of squared differences) of scores [sizes] from small to large, at most CAP.

    sign: of the way from the smallest score to the largest. A line over n + 1 sizes has n, a step has CAP.
    """
    y, steps = _differences(scores)
    if np.ptp(y) == 0:
        return 0.0
    middle = float(np.sqrt(np.median(steps**2)))
    size = np.ptp(y) / middle if middle > np.ptp(y) / CAP else CAP
    return float(_sign(y) * size)


def linearity(scores: ArrayLike) -> float:
    """sign x (max - min) / (n x root mean square of the n differences): 1 for a line, 1 / sqrt(n) for a step."""
    y, steps = _differences(scores)
    if np.ptp(y) == 0:
        return 0.0
    return float(_sign(y) * np.ptp(y) / (len(steps) * np.sqrt((steps**2).mean())))


def _differences(scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    y = np.asarray(scores, float)
    good = y.ndim == 1 and len(y) >= 3 and bool(np.isfinite(y).all())
    require(good, "scores", f"have shape {y.shape} or a missing value", "give one for each of three or more sizes")
    return y, np.diff(y)


def _sign(y: np.ndarray) -> float:
    return 1.0 if np.argmax(y) > np.argmin(y) else -1.0
