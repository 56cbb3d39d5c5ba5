"""Sets of equal tokens are the longest beginnings that fit, and hard is what a policy seldom solves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError
from search.posttrain.selection import hard, within_tokens


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12), share=st.floats(0, 1), seed=st.integers(0, 9))
def test_a_set_is_the_longest_beginning_that_fits(lengths: list[int], share: float, seed: int) -> None:
    """Against a loop."""
    order, budget = np.random.default_rng(seed).permutation(len(lengths)), int(share * sum(lengths))
    expected, spent = [], 0
    for i in order.tolist():
        if spent + lengths[i] > budget:
            break
        expected, spent = [*expected, i], spent + lengths[i]
    assert within_tokens(order, np.array(lengths), budget).tolist() == expected


def test_too_few_examples_are_an_error_and_hard_is_below_a_rate() -> None:
    assert hard(np.array([0.1, 0.3, 0.29, 1.0]), 0.3).tolist() == [0, 2]
    for order in ([0, 1], []):
        with pytest.raises(ConfigError, match="examples: of . tokens are fewer than 9"):
            within_tokens(np.array(order, int), np.array([2, 3]), 9)
    with pytest.raises(ConfigError, match="below: is 0"):
        hard(np.zeros(2), 0)
