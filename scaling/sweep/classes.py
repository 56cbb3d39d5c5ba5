"""Compute classes: a run may take so many seconds of one device, and its tokens follow from measured throughput.

So models that compute different things are compared at equal cost (Stanić et al. 2023, The Languini Kitchen,
arXiv:2309.11197). Where two curves of loss against time cross is read off their differences.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from models.errors import require


def throughput(
    train: Callable[[], Any], tokens: int, repeats: int = 3, clock: Callable[[], float] | None = None
) -> float:
    """Tokens per second of `train`, which trains on so many: the median of repetitions after one that compiles.

    clock: seconds; the time of this process's threads by default, which others on the machine do not lengthen.
    """
    clock = clock or time.process_time
    train()
    taken = []
    for _ in range(repeats):
        begin = clock()
        train()
        taken.append(clock() - begin)
    return tokens / float(np.median(taken))


def steps_in(seconds: float, tokens_per_second: float, tokens_per_step: int) -> int:
    """Optimiser steps of a class, at least 1."""
    return max(1, round(seconds * tokens_per_second / tokens_per_step))


def crossing(x: Any, differences: Any, level: float = 0.9) -> tuple[float, tuple[float, float]]:
    """(where the mean line through `differences` `[seeds, points]` at x `[points]` is 0, the interval of that place).

    Fieller's interval: all places at which Student's interval of the lines' values over seeds holds 0. Both ends are
    infinite where the slope may be 0, so that the curves may never cross.
    """
    from scipy.stats import t

    x, differences = np.asarray(x, np.float64), np.asarray(differences, np.float64)
    require(len(differences) >= 2, "differences", f"has {len(differences)} seeds", "repeat with at least two seeds")
    slopes, offsets = np.polyfit(x, differences.T, 1)
    n = len(slopes)
    k = t.ppf((1 + level) / 2, n - 1) ** 2 / n
    (vs, cov), (_, vo) = np.cov(slopes, offsets)
    s, o = slopes.mean(), offsets.mean()
    # (o + s x)^2 <= k (vo + 2 cov x + vs x^2), a quadratic in x
    a, b, c = s**2 - k * vs, 2 * (o * s - k * cov), o**2 - k * vo
    place = float(-o / s) if s else np.inf
    if a <= 0:  # the slope may be 0
        return place, (-np.inf, np.inf)
    half = np.sqrt(max(b**2 - 4 * a * c, 0.0))
    return place, (float((-b - half) / (2 * a)), float((-b + half) / (2 * a)))
