"""A span shows each query the keys that a loop over positions finds, and counts as many pairs."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.span import Span


@given(st.integers(1, 12), st.integers(0, 12), st.one_of(st.none(), st.integers(1, 15)), st.booleans())
def test_visible_keys_and_counted_pairs_are_those_of_a_loop(seq, before, window, causal):
    span, total = Span(1.0, window, causal=causal), before + seq
    seen = [
        [(key <= query or not causal) and (window is None or abs(query - key) < window) for key in range(total)]
        for query in range(before, total)
    ]
    found = np.asarray(span.visible(np.arange(before, total)[:, None], np.arange(total)))
    np.testing.assert_array_equal(found, seen)
    assert span.pairs(seq, before) == np.sum(seen)
