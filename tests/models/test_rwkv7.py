"""RWKV-7 in blocks equals its equations, token by token; test_parts.py has the rest."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import counts
from models.errors import ConfigError
from models.mixers.rwkv7 import READ, RWKV7
from models.past import WholeSequence, carry_blocks, zeros
from models.recurrence import corrected, gated_delta
from search.decoder import PromptPast
from tests.models.mixing import STREAM, alone, drawn, products, through

CLOSE = 2e-5  # float32 sums of some dozens of terms of order 1
MIXER = RWKV7(heads=3, head_dim=4, decay_rank=5, rate_rank=6, gate_rank=7, block=6)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def published(w, x):
    """One document x [seq, d_model] through the equations of the paper in float64, whose state is [value, key]."""
    w = {name: np.asarray(value, np.float64) for name, value in w.items()}
    heads, size = w["bonus"].shape
    states, before, rows = np.zeros((heads, size, size)), np.zeros(x.shape[1]), []
    for token in x:
        of = {name: (1 - w["mix"][i]) * token + w["mix"][i] * before for i, name in enumerate(READ)}
        r, k, v = (np.einsum("d,dhf->hf", of[name], w[name]) for name in "rkv")
        inner = w["decay_bias"] + np.einsum("l,lhf->hf", np.tanh(of["decay"] @ w["decay_down"]), w["decay_up"])
        decay = np.exp(-np.exp(-np.log1p(np.exp(-inner)) - 0.5))
        rate = sigmoid(w["rate_bias"] + np.einsum("l,lhf->hf", of["rate"] @ w["rate_down"], w["rate_up"]))
        gate = np.einsum("l,lhf->hf", sigmoid(of["gate"] @ w["gate_down"]), w["gate_up"])
        y = np.zeros((heads, size))
        for h in range(heads):
            removed = k[h] * w["key_scale"][h]
            removed /= np.linalg.norm(removed)
            key = k[h] * (1 + (rate[h] - 1) * w["key_share"][h])
            transition = np.diag(decay[h]) - np.outer(removed, rate[h] * removed)
            states[h] = states[h] @ transition + np.outer(v[h], key)
            o = states[h] @ r[h]
            o = (o - o.mean()) / np.sqrt(o.var() + 64e-5) * w["gain"][h] + w["bias"][h]
            y[h] = (o + (r[h] * key * w["bonus"][h]).sum() * v[h]) * gate[h]
        rows.append(np.einsum("hf,hfd->d", y, w["out"]))
        before = token
    return np.array(rows)


@pytest.mark.parametrize("block", [1, 6, 64])
def test_blocks_of_any_size_equal_the_published_recurrence_and_documents_begin_anew(block):
    w, x = drawn(MIXER), np.random.default_rng(1).standard_normal((1, 13, 16))
    segments = np.array([[0] * 4 + [1] * 9])
    expected = np.concatenate([published(w, x[0, :4]), published(w, x[0, 4:])])
    found = through(dataclasses.replace(MIXER, block=block), w, x, segments)[0]
    np.testing.assert_allclose(found, expected, atol=CLOSE * np.abs(expected).max())


def test_a_padded_prompt_goes_on_from_both_of_its_states():
    w, x = drawn(MIXER), np.random.default_rng(6).standard_normal((1, 16, 16))
    at = jnp.arange(8)[None]

    @jax.jit
    def read(state, x, live):
        y, past, _ = MIXER.apply(STREAM, w, x, PromptPast(at, {}, ({},), state, (), at, live))
        return y, past.state

    state, found = zeros(MIXER.kept(STREAM), 1, jnp.float32), []
    for first, count in ((0, 8), (8, 5)):
        y, state = read(state, np.float32(x[:, first : first + 8]), at < count)
        found.append(y[0, :count])
    expected = published(w, x[0, :13])
    np.testing.assert_allclose(np.concatenate(found), expected, atol=CLOSE * np.abs(expected).max())
    np.testing.assert_array_equal(state["before"][0, 0], np.float32(x[0, 12]))


def carried(f, inputs, size):
    def step(state, inputs, reach):
        y, after = f(state["s"], *inputs, reach)
        return y, {"s": after}

    rows, heads, key, value = 1, inputs[0].shape[2], inputs[0].shape[3], inputs[2].shape[3]
    y, state = carry_blocks(step, {"s": jnp.zeros((rows, heads, key, value))}, inputs, size)
    return y, state["s"]


def test_it_holds_the_delta_rule_with_decays_of_channels_whose_three_directions_are_one():
    rng = np.random.default_rng(2)
    q, k = (rng.standard_normal((1, 17, 2, 4)).astype(np.float32) for _ in range(2))
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    v, beta = rng.standard_normal((1, 17, 2, 3)).astype(np.float32), rng.uniform(0, 2, (1, 17, 2)).astype(np.float32)
    g = -rng.uniform(0, 0.6, k.shape).astype(np.float32)
    moved = beta[..., None] * k
    want = jax.jit(partial(carried, gated_delta, size=8))((q, k, v, beta, g))
    found = jax.jit(partial(carried, corrected, size=8))((q, moved, v, np.exp(g) * k, moved, g))
    for ours, other in zip(found, want, strict=True):
        np.testing.assert_allclose(ours, other, atol=CLOSE * np.abs(np.asarray(other)).max())


def test_fastest_decays_over_the_longest_block_are_exact_in_values_and_gradients():
    mixer = dataclasses.replace(MIXER, block=128)
    w, x = drawn(mixer), np.random.default_rng(3).standard_normal((1, 128, 16)).astype(np.float32)
    w["decay_bias"] += 9
    past = WholeSequence(jnp.arange(128)[None])

    def total(chosen):
        y = mixer.apply(STREAM, {**w, **chosen}, x, past)[0]
        return jnp.square(y).sum(), y

    chosen = {name: w[name] for name in ("decay_bias", "rate_bias", "key_share")}
    slopes, y = jax.jit(jax.grad(total, has_aux=True))(chosen)
    expected = published(w, x[0].astype(np.float64))
    np.testing.assert_allclose(y[0], expected, atol=5 * CLOSE * np.abs(expected).max())
    rng = np.random.default_rng(5)  # against a central difference along one direction of them all
    along = {name: rng.standard_normal(value.shape) * np.sign(slopes[name]) for name, value in chosen.items()}
    ends = [
        np.square(published({**w, **{name: w[name] + step * along[name] for name in along}}, x[0])).sum()
        for step in (1e-5, -1e-5)
    ]
    slope = sum((np.asarray(slopes[name], np.float64) * along[name]).sum() for name in along)
    np.testing.assert_allclose((ends[0] - ends[1]) / 2e-5, slope, rtol=1e-4)


@pytest.mark.parametrize("seq", [1, 6, 13])
def test_flops_are_those_of_the_products(seq):
    assert MIXER.flops(STREAM, seq, causal=False) == products(MIXER, seq)


def test_sizes_are_those_of_the_published_model():
    """0.1B of World: d_model 768, 12 heads of 64; ranks 64, 64 and 128, without the latent of value residuals."""
    stream = dataclasses.replace(STREAM, d_model=768, n_heads=12, head_dim=64)
    mixer = RWKV7().resolved(stream)
    assert (mixer.decay_rank, mixer.rate_rank, mixer.gate_rank) == (64, 64, 128)
    size = sum(w.size for w in mixer.weights(stream).values())
    assert size == 4 * 768**2 + 2 * 768 * (64 + 64 + 128) + 6 * 768 + 7 * 768
    assert mixer.flops(stream, 1, before=10**6) == 8 * 12 * 64**2
    assert counts.state_bytes_per_row(alone(MIXER)) == 2 * 4 * (3 * 4 * 4 + 16)
    assert counts.kv_cache_bytes_per_token(alone(MIXER)) == 0


def test_initial_values_are_those_published_for_the_middle_of_a_model():
    stream = dataclasses.replace(STREAM, d_model=768, n_heads=12, head_dim=64)
    weights, key = RWKV7().weights(stream), jax.random.key(0)
    found = {name: np.asarray(w.initial(key), np.float64) for name, w in weights.items() if w.role == "gate"}
    tokens = np.exp(0.5) / sigmoid(found["decay_bias"])
    np.testing.assert_allclose((tokens.min(), tokens.max()), (1.73, 4917), rtol=1e-3)
    place, inside = np.linspace(-0.5, 0.5, 768), np.tile(np.linspace(-1, 1, 64) * np.abs(np.linspace(-1, 1, 64)), 12)
    np.testing.assert_allclose(found["rate_bias"].ravel(), -0.19 + 0.3 * inside + 0.4 * place, atol=1e-6)
    np.testing.assert_allclose(found["key_scale"].ravel(), 0.71 - 0.1 * place, atol=1e-6)
    mix = np.asarray(weights["mix"].initial(key))
    np.testing.assert_allclose(mix[:, 768 // 4], 1 - 0.25 ** (np.array([0.2, 0.7, 0.7, 0.9, 0.9, 0.2]) / 2), atol=1e-6)


def test_the_recurrence_can_turn_a_state_over_and_back_as_parity_needs_it():
    """With e_1 as found and moved twice over, S = (1 - 2 bit) S of one head exactly: the parity of the bits so far."""
    bits = np.random.default_rng(4).integers(0, 2, 200)
    one = np.zeros((1, 201, 1, 2), np.float32)
    one[..., 0] = 1
    v = np.zeros((1, 201, 1, 1), np.float32)
    v[0, 0] = 1
    moved = one * np.append(0, 2 * bits)[None, :, None, None].astype(np.float32)
    y, _ = jax.jit(partial(carried, corrected, size=64))((one, one, v, one, moved, 0 * one))
    np.testing.assert_allclose(np.asarray(y)[0, 1:, 0, 0], 1 - 2 * (np.cumsum(bits) % 2), atol=1e-6)


def test_what_cannot_be_is_said_in_one_line_with_a_fix():
    with pytest.raises(ConfigError, match=r"^block: is 256, over which decays of every channel leave float32: use at"):
        RWKV7(block=256)
    with pytest.raises(ConfigError, match=r"^gate_rank: is 0: give a positive integer or None$"):
        RWKV7(gate_rank=0)
    with pytest.raises(ConfigError, match=r"^model.bias: 'all' asks for biases that RWKV7 does not have: use 'none'$"):
        MIXER.resolved(dataclasses.replace(STREAM, bias="all"))
