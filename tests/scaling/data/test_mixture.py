from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.data.mixture import MAX_PERIOD, Mixture, largest_remainders

WEIGHTS = st.lists(st.integers(1, 50), min_size=1, max_size=5)


@given(weights=WEIGHTS, seed=st.integers(0, 2**63 - 1), first=st.integers(0, 1000))
def test_every_block_holds_exactly_the_shares(weights, seed, first):
    mixture = Mixture.of(weights)
    source, _ = mixture.locate(np.arange(first, first + 3) * mixture.period + np.arange(mixture.period)[:, None], seed)
    for block in source.T:
        counts = np.bincount(block, minlength=len(weights))
        assert [Fraction(int(c), mixture.period) for c in counts] == [Fraction(w, sum(weights)) for w in weights]


@given(weights=WEIGHTS, seed=st.integers(0, 2**63 - 1))
def test_each_source_is_read_in_full_and_once(weights, seed):
    mixture = Mixture.of(weights)
    source, within = mixture.locate(np.arange(4 * mixture.period), seed)
    for number, quota in enumerate(mixture.quotas):
        assert sorted(within[source == number]) == list(range(4 * quota))


@given(weights=WEIGHTS, seed=st.integers(0, 2**63 - 1), examples=st.integers(0, 5000))
def test_counts_are_those_of_the_examples(weights, seed, examples):
    mixture = Mixture.of(weights)
    source, _ = mixture.locate(np.arange(examples), seed)
    assert mixture.counts(examples, seed) == np.bincount(source, minlength=len(weights)).tolist()


@pytest.mark.parametrize(
    ("weights", "quotas"),
    [((1.0,), (1,)), ((0.7, 0.3), (7, 3)), ((1, 2), (1, 2)), ((0.1, 0.2), (1, 2)), ((2.5, 2.5), (1, 1))],
)
def test_decimal_weights_are_exact(weights, quotas):
    assert Mixture.of(weights).quotas == quotas


def test_weights_without_a_short_period_are_held_to_one_part_in_the_longest():
    weights = (0.123456789, 0.876543211)
    mixture = Mixture.of(weights)
    assert mixture.period == MAX_PERIOD
    assert all(abs(q / MAX_PERIOD - w) < 1 / MAX_PERIOD for q, w in zip(mixture.quotas, weights, strict=True))


@given(weights=WEIGHTS, total=st.integers(0, 10**6))
def test_largest_remainders_add_up_and_stay_within_one(weights, total):
    shares = [Fraction(weight, sum(weights)) for weight in weights]
    counts = largest_remainders(shares, total)
    assert sum(counts) == total
    assert all(abs(count - share * total) < 1 for count, share in zip(counts, shares, strict=True))
