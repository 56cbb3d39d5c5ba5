"""Gated DeltaNet in blocks equals its recurrence, token by token; test_parts.py has the rest."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import counts
from models.errors import ConfigError
from models.mixers.delta import Delta
from models.past import WholeSequence, carry_blocks
from models.recurrence import gated_delta, unit_lower_inverse
from tests.models.mixing import STREAM, alone, drawn, products, through

# float32 sums of some dozens of terms of order 1, whose decays are differences of sums as large as the block is long
CLOSE = 2e-5
SHARED = Delta(key_heads=2, value_heads=4, key_dim=3, value_dim=5, block=6)
CHANNEL = Delta(key_dim=3, value_dim=5, negative=True, decay="channel", block=6)


def unit(x):
    return x / np.sqrt((x**2).sum(-1, keepdims=True) + 1e-6)


def draw(seed, rows, seq, heads=2, key=4, value=3, channels=1):
    """q, k of length 1, v, beta in (0, 2) and log decays, some strong, some weak, float64."""
    rng = np.random.default_rng(seed)
    q, k = (unit(rng.standard_normal((rows, seq, heads, key))) for _ in range(2))
    v, beta = rng.standard_normal((rows, seq, heads, value)), rng.uniform(0, 2, (rows, seq, heads))
    return q, k, v, beta, -np.exp(rng.uniform(-6, 1.5, (rows, seq, heads, channels)))


def recurrence(q, k, v, beta, g, state=None, segments=None):
    """Token by token in float64: y [rows, seq, heads, value] and the state after the last."""
    rows, seq, heads, key = q.shape
    s = np.zeros((rows, heads, key, v.shape[3])) if state is None else np.array(state, np.float64)
    y = np.zeros(v.shape)
    for r in range(rows):
        for t in range(seq):
            if segments is not None and t and segments[r, t] != segments[r, t - 1]:
                s[r] = 0
            for h in range(heads):
                s[r, h] *= np.exp(g[r, t, h])[:, None]
                wrong = v[r, t, h] - s[r, h].T @ k[r, t, h]
                s[r, h] += beta[r, t, h] * np.outer(k[r, t, h], wrong)
                y[r, t, h] = s[r, h].T @ q[r, t, h]
    return y, s


@partial(jax.jit, static_argnums=1)
def carried(inputs, size, state, segments):
    def step(state, inputs, reach):
        y, after = gated_delta(state["s"], *inputs, reach)
        return y, {"s": after}

    y, state = carry_blocks(step, {"s": state}, inputs, size, segments)
    return y, state["s"]


@pytest.mark.parametrize(("size", "channels"), [(1, 1), (7, 1), (64, 1), (1, 4), (16, 4)])
def test_blocks_of_any_size_equal_the_recurrence_from_any_state_and_over_documents(size, channels):
    inputs = draw(0, 2, 23, channels=channels)
    start = np.random.default_rng(1).standard_normal((2, 2, 4, 3))
    segments = np.array([[0] * 23, [0] * 3 + [1] + [2] * 19])
    expected, after = recurrence(*inputs, state=start, segments=segments)
    y, state = carried(tuple(map(np.float32, inputs)), size, np.float32(start), segments)
    np.testing.assert_allclose(y, expected, atol=CLOSE * np.abs(expected).max())
    np.testing.assert_allclose(state, after, atol=CLOSE * np.abs(after).max())
    half, state = carried([np.float32(x[:1, :9]) for x in inputs], size, np.float32(start[:1]), segments[:1, :9])
    rest, state = carried([np.float32(x[:1, 9:]) for x in inputs], size, state, segments[:1, 9:])
    np.testing.assert_allclose(np.concatenate([half, rest], 1), expected[:1], atol=CLOSE * np.abs(expected).max())


def test_fast_channels_over_the_longest_block_neither_overflow_nor_lose_their_gradients():
    q, k, v, beta, g = map(np.float32, draw(2, 1, 32, channels=4))
    g = np.broadcast_to(np.float32([-5, -5, -1e-3, -5]), g.shape)
    expected, _ = recurrence(*map(np.float64, (q, k, v, beta, g)))
    zeros, one = np.zeros((1, 2, 4, 3), np.float32), np.zeros((1, 32), np.int32)

    def total(q, k, g):
        y = carried((q, k, v, beta, g), 32, zeros, one)[0]
        return y.sum(), y

    slopes, y = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(q, k, g)
    np.testing.assert_allclose(y, expected, atol=CLOSE * np.abs(expected).max())
    assert all(np.isfinite(x).all() and np.abs(x).max() > 0 for x in slopes)


@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_the_inverse_is_exact(size):
    below = np.tril(np.random.default_rng(size).standard_normal((3, size, size)), -1)
    found = np.float64(unit_lower_inverse(jnp.float32(below)))
    expected = np.linalg.inv(np.eye(size) + below)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert (found[..., np.triu_indices(size, 1)[0], np.triu_indices(size, 1)[1]] == 0).all()


def test_orthonormal_keys_hold_the_newest_value_of_each_and_no_write_leaves_nothing():
    k = np.tile(np.eye(4, dtype=np.float32), (3, 1))[None, :, None]  # every key three times
    v, ones = (
        np.random.default_rng(3).standard_normal((1, 12, 1, 3)).astype(np.float32),
        np.ones((1, 12, 1), np.float32),
    )
    zeros, segments = np.zeros((1, 1, 4, 3), np.float32), np.zeros((1, 12), np.int32)
    _, state = carried((k, k, v, ones, 0 * ones[..., None]), 5, zeros, segments)
    np.testing.assert_allclose(state[0, 0], v[0, 8:, 0], atol=1e-6)
    y, state = carried((k, k, v, 0 * ones, 0 * ones[..., None]), 5, zeros, segments)
    assert not np.asarray(y).any() and not np.asarray(state).any()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def naive(mixer: Delta, w, x):
    """One document x [seq, d_model] through the mixer as its docstring says, float64, token by token."""
    w = {name: np.asarray(value, np.float64) for name, value in w.items()}
    key_heads, heads, key, value = mixer.sizes(STREAM)
    shared = heads // key_heads
    q, k, v, z = np.split(np.einsum("td,dhf->thf", x, w["qkvz"]), [key, 2 * key, 2 * key + shared * value], axis=-1)
    ba = np.einsum("td,dhf->thf", x, w["ba"])

    def conv(u, weight):
        padded = np.concatenate([np.zeros((mixer.width - 1, *u.shape[1:])), u])
        y = sum(padded[i : i + len(u)] * weight[i] for i in range(mixer.width))
        return y * sigmoid(y)

    q, k = (np.repeat(unit(conv(u, w["conv_qk"][:, i])), shared, axis=1) for i, u in enumerate((q, k)))
    v, z = conv(v.reshape(len(x), heads, value), w["conv_v"]), z.reshape(len(x), heads, value)
    beta = sigmoid(ba[..., :shared].reshape(len(x), heads)) * (2 if mixer.negative else 1)
    if mixer.decay == "head":
        g = -np.exp(w["decay"]) * np.log1p(np.exp(ba[..., shared:].reshape(len(x), heads) + w["decay_bias"]))
        g = g[..., None]
    else:
        a = np.einsum("td,df,fhk->thk", x, w["decay_down"], w["decay_up"])
        g = -5 * sigmoid(np.exp(w["decay"])[:, None] * (a + w["decay_bias"]))
    y = recurrence(*(u[None] for u in (q * key**-0.5, k, v, beta, g)))[0][0]
    y = y / np.sqrt((y**2).mean(-1, keepdims=True) + STREAM.norm_eps) * w["gain"] * z * sigmoid(z)
    return np.einsum("thv,hvd->td", y, w["out"])


@pytest.mark.parametrize("mixer", [SHARED, CHANNEL], ids=["head", "channel"])
def test_the_mixer_equals_its_definition_token_by_token(mixer):
    w, x = drawn(mixer), np.random.default_rng(4).standard_normal((1, 13, 16))
    segments = np.array([[0] * 4 + [1] * 9])
    expected = np.concatenate([naive(mixer, w, x[0, :4]), naive(mixer, w, x[0, 4:])])
    found = through(mixer, w, x, segments)[0]
    np.testing.assert_allclose(found, expected, atol=CLOSE * np.abs(expected).max())


@pytest.mark.parametrize("mixer", [SHARED, CHANNEL], ids=["head", "channel"])
@pytest.mark.parametrize("seq", [1, 6, 13])
def test_flops_are_those_of_the_products(mixer, seq):
    assert mixer.flops(STREAM, seq, causal=False) == products(mixer, seq)


def test_sizes_are_those_of_the_published_model():
    """Qwen3-Next 80B-A3B: 16 heads of keys, 32 of values, all 128 wide: 2 MiB of state a layer and row."""
    mixer = Delta(16, 32, 128, 128)
    stream = dataclasses.replace(STREAM, d_model=2048)
    size = sum(w.size for w in mixer.weights(stream).values())
    assert size == 2048 * (2 * 2048 + 2 * 4096 + 64) + 4 * (4096 + 4096) + 2 * 32 + 128 + 4096 * 2048
    assert mixer.kept(stream)["state"].bytes("bfloat16") == 2 * 2**20
    assert mixer.flops(stream, 1, before=10**6) == 6 * 32 * 128 * 128
    assert counts.state_bytes_per_row(alone(SHARED)) == 2 * 4 * (4 * 3 * 5 + 3 * (2 * 2 * 3 + 4 * 5))


def test_rates_at_the_start_are_those_of_the_docstring():
    key, many = jax.random.key(0), dataclasses.replace(STREAM, n_heads=512)
    head, channel = (Delta(decay=kind, block=16).weights(many) for kind in ("head", "channel"))
    rates = np.exp(np.asarray(head["decay"].initial(key)))
    assert 0.01 <= rates.min() < 0.5 and 15 < rates.max() <= 16
    decays = 5 * sigmoid(np.asarray(channel["decay_bias"].initial(key), np.float64))
    assert 1e-3 * 0.99 < decays.min() < 1.2e-3 and 0.8 < decays.max() < 1.01 and abs(np.median(decays) - 0.03) < 0.01


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"key_heads": 4, "value_heads": 6}, "value_heads: 6 heads do not share 4 keys evenly"),
        ({"decay": "channel", "block": 16}, "decay: is 'channel', but 4 heads share 2 keys"),
        ({"decay": "channel", "block": 64}, "block: is 64, over which decays of every channel leave float32"),
        ({"width": 1}, "width: is 1, which leaves no token before its own"),
    ],
)
def test_what_cannot_be_is_said_in_one_line_with_a_fix(fields, told):
    with pytest.raises(ConfigError) as error:
        alone(dataclasses.replace(SHARED, **fields))
    said, fix = str(error.value).removeprefix("model.pattern[0].mixer.").rsplit(": ", 1)
    assert said == told and fix.startswith(("use ", "give "))


def test_gradients_of_blocks_are_those_of_the_recurrence():
    w, x = drawn(SHARED), np.random.default_rng(5).standard_normal((2, 11, 16)).astype(np.float32)
    past = WholeSequence(jnp.arange(11)[None])

    def total(mixer, w, x):
        return jnp.square(mixer.apply(STREAM, w, x, past)[0]).sum()

    forms = SHARED, dataclasses.replace(SHARED, block=1)
    slopes = [jax.jit(jax.grad(partial(total, mixer), (0, 1)))(w, x) for mixer in forms]
    for blocks, recurrent in zip(*map(jax.tree.leaves, slopes), strict=True):
        np.testing.assert_allclose(blocks, recurrent, atol=1e-4 * np.abs(recurrent).max())
