"""Compute classes: tokens from throughput and time, and where curves cross against a scan over all places."""

from __future__ import annotations

import numpy as np
import pytest

from models.errors import ConfigError
from scaling.reproduction import t_interval
from scaling.sweep.classes import crossing, steps_in, throughput


def test_throughput_is_the_median_after_a_run_that_compiles() -> None:
    calls: list[int] = []
    now = iter([0.0, 2.0, 10.0, 14.0, 20.0, 21.0])  # three repetitions of 2, 4 and 1 s
    assert throughput(lambda: calls.append(1), 600, clock=lambda: next(now)) == 300.0
    assert len(calls) == 4


def test_steps_fill_the_class() -> None:
    assert steps_in(2.0, 1000.0, 64) == round(2000 / 64) and steps_in(1e-9, 1.0, 64) == 1


def test_curves_cross_where_the_interval_of_their_difference_holds_zero() -> None:
    rng = np.random.default_rng(0)
    x = np.log([1.0, 2.0, 4.0, 8.0])
    lines = 0.6 - 0.4 * x + 0.03 * rng.normal(size=(4, 1)) + 0.02 * rng.normal(size=(4, 4))
    place, (low, high) = crossing(x, lines)
    slopes, offsets = np.polyfit(x, lines.T, 1)
    held = []
    for at in np.linspace(0.5, 3.0, 2501):
        below, above = t_interval(offsets + slopes * at)
        if below <= 0 <= above:
            held.append(at)
    assert (low, high) == pytest.approx((min(held), max(held)), abs=0.002)
    assert place == pytest.approx(-offsets.mean() / slopes.mean()) and low < place < high


def test_lines_that_may_be_parallel_may_cross_anywhere() -> None:
    x = np.arange(4.0)
    assert crossing(x, np.stack([1 + 0.1 * x, 1 - 0.1 * x, 1 + 0.05 * x]))[1] == (-np.inf, np.inf)
    with pytest.raises(ConfigError, match="repeat with at least two seeds"):
        crossing(x, np.stack([1 + x]))
