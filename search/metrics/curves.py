"""Means over problems with intervals: problems, not samples, are what a benchmark draws from its population."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from models.errors import require
from scaling.fitting.bootstrap import resample_weights
from scaling.fitting.fitted import check_level


def problem_means(values: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Means [size, ...] of values [problems, ...] over `size` resamples of problems."""
    weights = resample_weights(len(values), size, np.random.default_rng(seed)) / len(values)
    return np.tensordot(weights, values, 1)


def percentiles(draws: np.ndarray, interval: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the central `interval` of draws [B, ...]."""
    check_level(interval, "interval")
    low, high = np.quantile(draws, [(1 - interval) / 2, (1 + interval) / 2], axis=0)
    return low, high


def curve(
    values: np.ndarray, k: ArrayLike, *, interval: float = 0.9, bootstrap: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Accuracy at each k and its bootstrap interval over problems: columns k, accuracy, low, high, problems.

    values: [problems, len(k)], what each problem is expected to score. NaN in one problem makes the mean at that k NaN:
    a mean over the problems that happen to have enough samples is another benchmark's.
    """
    k = np.atleast_1d(np.asarray(k))
    require(values.shape == (len(values), len(k)), "values", f"have shape {values.shape}", f"give [problems, {len(k)}]")
    low, high = percentiles(problem_means(values, bootstrap, seed), interval)
    if len(values) == 1:  # its resamples are itself
        low, high = np.full((2, len(k)), np.nan)
        warnings.warn("NaN ends: one problem says nothing of others, give more for an interval", stacklevel=3)
    absent = np.isnan(values).sum(0)
    if absent.any():
        first = int(np.flatnonzero(absent)[0])
        warnings.warn(
            f"NaN from k = {k[first]:g} on: {absent[first]} of {len(values)} problems have fewer samples than that",
            stacklevel=3,
        )
    return pd.DataFrame({"k": k, "accuracy": values.mean(0), "low": low, "high": high, "problems": len(values)})


def powers_of_two(most: int) -> np.ndarray:
    """1, 2, 4, ... up to `most` [K] int64."""
    return 2 ** np.arange(int(np.log2(most)) + 1)
