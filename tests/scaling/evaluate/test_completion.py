"""Completions of held-out text: rates are the model's, sampling until r passes has its law, edits are counted."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError
from scaling.evaluate.completion import edit_distance, pass_until
from scaling.laws.pass_until import unbiased_rate

RATES = np.array([[0.9, 0.5, 0.4], [0.1, 0.05, 0.2]])  # products 0.18 and 1e-3


def test_sampling_until_r_passes_has_the_law_of_the_negative_binomial() -> None:
    """Mean r / p and variance r (1 - p) / p^2 of the number of samples, and (r - 1) / (m - 1) estimates p unbiased."""
    r, repeats = 5, 2000
    passes, samples = pass_until(np.repeat(RATES[:1], repeats, 0), r, 10**6, seed=1)
    p = 0.18
    assert (passes == r).all()
    assert samples.mean() == pytest.approx(r / p, abs=4 * np.sqrt(r * (1 - p) / p**2 / repeats))
    assert samples.var() == pytest.approx(r * (1 - p) / p**2, rel=0.2)
    found = unbiased_rate(passes, samples)
    assert found.mean() == pytest.approx(p, abs=4 * found.std() / np.sqrt(repeats))


def test_a_rate_below_one_in_ten_thousand_is_resolved_and_what_never_passes_is_censored() -> None:
    rates = np.array([[0.1, 0.1, 0.1, 0.09], [0.0, 1.0, 1.0, 1.0]])
    passes, samples = pass_until(rates, 20, 10**6)
    assert passes.tolist() == [20, 0] and samples[1] == 10**6
    assert unbiased_rate(passes, samples)[0] == pytest.approx(9e-5, rel=3 * 0.24)  # relative sd at r = 20


def test_sampling_is_repeatable_and_stops_at_the_most() -> None:
    one, again = (pass_until(RATES, 3, 1000, seed=7) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    passes, samples = pass_until(RATES[1:], 3, 10, seed=0)
    assert samples[0] <= 10 and (passes[0] == 3 or samples[0] == 10)
    with pytest.raises(ConfigError, match="give positive numbers"):
        pass_until(RATES, 0, 10)


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_the_edit_distance_is_that_of_the_recursion(a: str, b: str) -> None:
    @cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        change = distance(i - 1, j - 1) + (a[i - 1] != b[j - 1])
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, change)

    assert edit_distance(a, b) == distance(len(a), len(b))
