"""Calibration: whether what is said with probability p is right in a share p of the cases."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from models.errors import require

BINS = 15


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> float:
    """sum over equal bins of [0, 1] of share x |accuracy - mean confidence| (Guo et al. 2017).

    Of few items it is not 0 for a perfect model: see `excess_calibration_error`.
    """
    p, right = np.asarray(confidence, float), np.asarray(correct, float)
    require(p.shape == right.shape and p.size > 0, "confidence", f"has shape {p.shape}", "give one for each item")
    inside = bool(((p >= 0) & (p <= 1)).all())
    require(inside, "confidence", "has values outside [0, 1]", "give probabilities")
    code = np.minimum((p * bins).astype(int), bins - 1)
    gaps = np.bincount(code, right - p, minlength=bins)
    return float(np.abs(gaps).sum() / len(p))


def excess_calibration_error(
    confidence: ArrayLike, correct: ArrayLike, bins: int = BINS, draws: int = 200, seed: int = 0
) -> tuple[float, float]:
    """(the error less its mean for a perfect model of the same confidences, the share of perfect models with at least
    as large an error): outcomes of a perfect model are drawn with the stated probabilities."""
    p = np.asarray(confidence, float)
    measured = expected_calibration_error(p, correct, bins)
    rng = np.random.default_rng(seed)
    null = [expected_calibration_error(p, rng.random(p.shape) < p, bins) for _ in range(draws)]
    return measured - float(np.mean(null)), float(np.mean(np.asarray(null) >= measured))
