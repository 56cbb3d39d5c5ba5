"""The blocked attention equals the definition, values and gradients, whatever the shape."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import causal_attention as module
from models.causal_attention import blocks, causal_attention, reference_attention
from models.span import Span

# float32: the longest sums have 300 terms of order 1, so a few hundred units in the last place
TOLERANCE = 5e-5


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 8 queries let short sequences cross several of them."""
    monkeypatch.setattr(module, "BLOCK", 8)


def arrays(seed, batch, seq, heads, kv_heads, head_dim, documents=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    q, k, v, cotangent = (
        jnp.asarray(rng.standard_normal((batch, seq, n, head_dim)), dtype) for n in (heads, kv_heads, kv_heads, heads)
    )
    segments = jnp.asarray(np.sort(rng.integers(0, documents, (batch, seq)), 1), jnp.int32) if documents else None
    return q, k, v, segments, cotangent


def value_and_gradients(attention, *inputs, **limits):
    @jax.jit
    def compute(q, k, v, segments, cotangent):
        value, vjp = jax.vjp(lambda *x: attention(*x, Span(q.shape[-1] ** -0.5, **limits), segments), q, k, v)
        return value, *vjp(cotangent.astype(value.dtype))

    return compute(*inputs)


def assert_agree(got, expected, tolerance=TOLERANCE):
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        scale = max(1.0, float(jnp.abs(b).max()))
        np.testing.assert_allclose(np.asarray(a, np.float32) / scale, np.asarray(b, np.float32) / scale, atol=tolerance)


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 3),
    seq=st.integers(1, 40),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    head_dim=st.sampled_from([1, 4, 8]),
    documents=st.integers(0, 4),
)
def test_values_and_gradients_equal_the_definition(seed, batch, seq, kv_heads, group, head_dim, documents):
    inputs = arrays(seed, batch, seq, kv_heads * group, kv_heads, head_dim, documents)
    assert_agree(value_and_gradients(causal_attention, *inputs), value_and_gradients(reference_attention, *inputs))


@pytest.mark.parametrize(
    ("seq", "documents", "limits"),
    [
        (21, 0, {"window": 1}),
        (37, 3, {"window": 11}),
        (40, 2, {"window": 17, "softcap": 0.5}),
        (9, 0, {"window": 9, "softcap": 20.0}),
    ],
)
def test_windows_and_soft_caps_equal_the_definition(seq, documents, limits):
    inputs = arrays(seq, 2, seq, 4, 2, 4, documents)
    got = value_and_gradients(causal_attention, *inputs, **limits)
    assert_agree(got, value_and_gradients(reference_attention, *inputs, **limits))


def test_a_query_sees_exactly_the_last_keys_of_its_window():
    q, k, v, _, _ = arrays(1, 1, 24, 2, 1, 4)
    before = causal_attention(q, k, v, Span(0.5, window=5))
    hidden = (jnp.arange(24) > 15) | (jnp.arange(24) < 11)
    k, v = (jnp.where(hidden[None, :, None, None], 1e3, x) for x in (k, v))
    np.testing.assert_array_equal(before[:, 15], causal_attention(q, k, v, Span(0.5, window=5))[:, 15])
    v = v.at[:, 11].add(1.0)
    assert (before[:, 15] != causal_attention(q, k, v, Span(0.5, window=5))[:, 15]).any()


@pytest.mark.parametrize("seq", [64, 300])
def test_the_definition_holds_at_the_block_size_of_real_runs(monkeypatch, seq):
    monkeypatch.undo()
    inputs = arrays(seq, 2, seq, 4, 2, 32, documents=3)
    assert_agree(value_and_gradients(causal_attention, *inputs), value_and_gradients(reference_attention, *inputs))


def test_vmap_over_trials_equals_one_by_one():
    trials = [arrays(seed, 2, 21, 4, 2, 8, documents=2) for seed in range(3)]
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *trials)
    together = jax.vmap(lambda *xs: value_and_gradients(causal_attention, *xs))(*stacked)
    for i, inputs in enumerate(trials):
        one = value_and_gradients(reference_attention, *inputs)
        assert_agree([x[i] for x in together], one)


def test_bfloat16_accumulates_in_float32():
    inputs = arrays(0, 2, 40, 4, 2, 8, documents=2, dtype=jnp.bfloat16)
    exact = value_and_gradients(reference_attention, *inputs)
    got = value_and_gradients(causal_attention, *inputs)
    assert all(x.dtype == jnp.bfloat16 for x in got)
    assert_agree(got, exact, tolerance=2**-6)  # inputs of a product are rounded to 8 bits, its sum is not


def test_a_query_ignores_later_keys_and_other_documents():
    q, k, v, segments, _ = arrays(1, 1, 24, 2, 1, 4, documents=3)
    before = causal_attention(q, k, v, Span(0.5), segments)
    hidden = (jnp.arange(24) > 15) | (segments[0] != segments[0, 15])
    k, v = (jnp.where(hidden[None, :, None, None], 1e3, x) for x in (k, v))
    np.testing.assert_array_equal(before[:, 15], causal_attention(q, k, v, Span(0.5), segments)[:, 15])


def test_scores_of_any_size_give_finite_values_and_gradients():
    q, k, v, segments, cotangent = arrays(2, 1, 20, 2, 2, 8)
    got = value_and_gradients(causal_attention, 1e4 * q, 1e4 * k, v, segments, cotangent)
    assert all(bool(jnp.isfinite(x).all()) for x in got)


def test_repeated_runs_give_the_same_bits():
    first, second = (value_and_gradients(causal_attention, *arrays(3, 2, 40, 4, 4, 8)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@given(seq=st.integers(1, 5000))
def test_blocks_tile_the_sequence(seq):
    spans = blocks(seq)
    assert spans[0][0] == 0
    assert spans[-1][1] == seq
    assert all(stop == start for (_, stop), (start, _) in pairwise(spans))
    assert len(spans) <= module.MAX_BLOCKS
