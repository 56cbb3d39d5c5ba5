"""The fused unembedding and cross-entropy equals the plain one, values and gradients, in one chunk or many."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import cross_entropy as module
from models.cross_entropy import chunk_length, cross_entropy, sharpness

TOLERANCE = 1e-5  # float32 sums of at most a few hundred terms of order 1, relative to the largest entry


def plain(hidden, head, targets, weights, softcap=None):
    logits = jnp.einsum("btd,dv->btv", hidden.astype(jnp.float32), head.astype(jnp.float32), precision="highest")
    logits = logits if softcap is None else softcap * jnp.tanh(logits / softcap)
    losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
    return (losses * weights).sum(), weights.sum()


def arrays(seed, batch, seq, d_model, vocab, dtype=np.float32):
    rng = np.random.default_rng(seed)
    hidden = jnp.asarray(rng.standard_normal((batch, seq, d_model)), dtype)
    head = jnp.asarray(rng.standard_normal((d_model, vocab)), dtype)
    targets = jnp.asarray(rng.integers(0, vocab, (batch, seq)), jnp.int32)
    weights = jnp.asarray(rng.random((batch, seq)) * (rng.random((batch, seq)) < 0.7), jnp.float32)
    return hidden, head, targets, weights


def value_and_gradients(f, *inputs):
    @jax.jit
    def compute(hidden, head, targets, weights):
        def mean(hidden, head, weights):
            total, count = f(hidden, head, targets, weights)
            return total / (count + 1)

        value, gradients = jax.value_and_grad(mean, argnums=(0, 1, 2))(hidden, head, weights)
        return value, *gradients

    return compute(*inputs)


def assert_agree(got, expected, tolerance=TOLERANCE):
    for a, b in zip(got, expected, strict=True):
        scale = max(1e-3, float(jnp.abs(b).max()))
        np.testing.assert_allclose(np.asarray(a, np.float32) / scale, np.asarray(b, np.float32) / scale, atol=tolerance)


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 3),
    seq=st.integers(1, 9),
    d_model=st.integers(1, 16),
    vocab=st.integers(1, 40),
    limit=st.sampled_from([1, 64, 200, 2**24]),
)
def test_values_and_gradients_equal_the_plain_ones_in_any_chunks(seed, batch, seq, d_model, vocab, limit):
    inputs = arrays(seed, batch, seq, d_model, vocab)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CPU_LOGITS", limit)
        got = value_and_gradients(cross_entropy, *inputs)
        total, count = jax.jit(cross_entropy)(*inputs)
    assert_agree(got, value_and_gradients(plain, *inputs))
    assert_agree((total, count), plain(*inputs))


@pytest.mark.parametrize("limit", [60, 2**24])
def test_soft_capped_logits_have_their_own_gradient(monkeypatch, limit):
    monkeypatch.setattr(module, "CPU_LOGITS", limit)
    inputs = arrays(2, 2, 7, 9, 30)
    got = value_and_gradients(partial(cross_entropy, softcap=1.5), *inputs)
    expected = value_and_gradients(partial(plain, softcap=1.5), *inputs)
    assert_agree(got, expected)
    assert not np.allclose(got[0], value_and_gradients(plain, *inputs)[0])


def test_a_large_vocabulary_is_chunked_and_exact():
    inputs = arrays(0, 2, 200, 8, 50_257)
    assert chunk_length(2, 200, 50_257) < 200
    assert_agree(value_and_gradients(cross_entropy, *inputs), value_and_gradients(plain, *inputs))


def test_a_tied_table_gets_its_gradient_transposed():
    hidden, head, targets, weights = arrays(1, 2, 5, 4, 16)
    gradient = jax.grad(lambda table: cross_entropy(hidden, table.T, targets, weights)[0])(head.T)
    expected = jax.grad(lambda head: plain(hidden, head, targets, weights)[0])(head)
    assert_agree([gradient], [expected.T])


def test_vmap_over_trials_equals_one_by_one():
    trials = [arrays(seed, 2, 6, 8, 12) for seed in range(3)]
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *trials)
    together = jax.vmap(lambda *xs: value_and_gradients(cross_entropy, *xs))(*stacked)
    for i, inputs in enumerate(trials):
        assert_agree([x[i] for x in together], value_and_gradients(plain, *inputs))


def test_bfloat16_accumulates_in_float32():
    inputs = arrays(2, 2, 50, 64, 32, dtype=jnp.bfloat16)
    got = value_and_gradients(cross_entropy, *inputs)
    assert [x.dtype for x in got] == [jnp.float32, jnp.bfloat16, jnp.bfloat16, jnp.float32]
    expected = value_and_gradients(plain, *inputs)
    assert_agree(got[:1] + got[3:], expected[:1] + expected[3:])  # losses: nothing but the inputs is rounded
    assert_agree(got[1:3], expected[1:3], tolerance=2**-7)


def test_huge_logits_stay_finite():
    hidden, head, targets, weights = arrays(3, 1, 4, 4, 8)
    assert all(
        bool(jnp.isfinite(x).all()) for x in value_and_gradients(cross_entropy, 1e4 * hidden, head, targets, weights)
    )


def test_sharpness_is_the_most_of_all_corners_of_the_box() -> None:
    rng, epsilon = np.random.default_rng(3), 0.05
    logits, targets = rng.standard_normal((3, 5)).astype(np.float32), np.array([0, 4, 2])
    corners = np.array(list(itertools.product((-1, 1), repeat=5)))
    found = sharpness(logits, targets, epsilon)
    for z, target, got in zip(np.float64(logits), targets, found, strict=True):
        at = z + np.concatenate([np.zeros((1, 5)), epsilon * corners * (abs(z) + 1)])
        loss = np.log(np.exp(at).sum(1)) - at[:, target]
        assert got == pytest.approx(100 * (loss.max() - loss[0]) / (1 + loss[0]), rel=1e-4)  # a difference in float32
