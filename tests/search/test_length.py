"""The slope of length is where its penalised likelihood is stationary, and the one that made the samples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from models.errors import ConfigError
from search.metrics.length import SPREAD, length_slope


def drawn(problems: int, n: int, slope: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    length = rng.integers(20, 60, (problems, n)).astype(float)
    centred = length - length.mean(1, keepdims=True)
    return rng.random((problems, n)) < expit(rng.normal(1, 1.5, (problems, 1)) + slope * centred), length


def test_the_slope_is_that_of_a_general_optimiser() -> None:
    correct, length = drawn(12, 10, -0.05)
    x = length - length.mean(1, keepdims=True)

    def loss(theta: np.ndarray) -> float:
        a = theta[1:, None]
        z = a + theta[0] * x
        return float(-(correct * z - np.logaddexp(0, z)).sum() + ((a - a.mean()) ** 2).sum() / 2 / SPREAD**2)

    best = minimize(loss, np.zeros(13), tol=1e-10).x[0]
    assert length_slope(correct, length) == pytest.approx(best, abs=1e-5)


def test_the_slope_that_made_the_samples_comes_back() -> None:
    assert length_slope(*drawn(800, 40, -0.04)) == pytest.approx(-0.04, abs=0.004)


def test_samples_that_are_all_right_say_nothing() -> None:
    assert length_slope(np.ones((3, 4)), drawn(3, 4, 0.0)[1]) == 0


def test_equal_lengths_are_refused() -> None:
    with pytest.raises(ConfigError, match="length: is the same"):
        length_slope([[1, 0]], [[5, 5]])
