"""A span shows each query the keys that a loop over positions finds, and counts as many pairs."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.config import Layer, ModelConfig
from models.mixers import Attention
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


def test_windows_of_layers_add_up_and_one_full_layer_lets_everything_through():
    """MASFormer: of four layers that see three keys each, the ninth token back is out of reach."""
    at = np.arange(20)

    def reached(*windows):
        pattern = tuple(Layer(Attention(window=window), None) for window in windows)
        model = ModelConfig(n_layers=len(windows), pattern=pattern)
        seen = [layer.mixer.span(model.stream).visible(at[:, None], at) for layer in model.layers]
        return np.linalg.multi_dot(np.array(seen, int)) > 0

    back = at[:, None] - at
    np.testing.assert_array_equal(reached(3, 3, 3, 3), (back >= 0) & (back <= 8))
    np.testing.assert_array_equal(reached(3, None, 3, 3), back >= 0)
