"""mLSTM in blocks equals the published recurrence with its running maximum; test_parts.py has the rest."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from models import counts
from models.errors import ConfigError
from models.mixers.mlstm import MLSTM
from models.past import WholeSequence
from tests.models.mixing import STREAM, alone, drawn, products, through

# float32 sums of some dozens of terms of order 1, whose decays are differences of sums as large as the block is long
CLOSE = 2e-5
MIXER = MLSTM(key_dim=3, value_dim=4, block=5)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def published(mixer: MLSTM, w, x, start=0.0, eps=STREAM.norm_eps):
    """One document x [seq, d_model] token by token in float64, stabilised: C and n are kept divided by e^m.

    start: the first m, which may be any number.
    """
    w = {name: np.asarray(value, np.float64) for name, value in w.items()}
    q, k = np.moveaxis(np.einsum("td,dghf->tghf", x, w["qk"]), 1, 0)
    v, o = np.moveaxis(np.einsum("td,dghf->tghf", x, w["vo"]), 1, 0)
    enter, forget = np.moveaxis(np.einsum("td,dgh->tgh", x, w["gates"]), 1, 0)
    heads, key = q.shape[1:]
    y = np.zeros(v.shape)
    for h in range(heads):
        c, n, m = np.zeros((key, v.shape[2])), np.zeros(key), start
        for t in range(len(x)):
            i = mixer.cap * np.tanh((enter[t, h] + w["input_bias"][h]) / mixer.cap)
            f = -np.log1p(np.exp(-mixer.cap * np.tanh((forget[t, h] + w["forget_bias"][h]) / mixer.cap)))
            new = max(f + m, i)
            c = np.exp(f + m - new) * c + np.exp(i - new) * np.outer(k[t, h], v[t, h])
            n = np.exp(f + m - new) * n + np.exp(i - new) * k[t, h]
            m, scaled = new, q[t, h] / np.sqrt(key)
            y[t, h] = c.T @ scaled / max(abs(n @ scaled), np.exp(-m))
    y = y - y.mean(-1, keepdims=True)
    y = y / np.sqrt((y**2).mean(-1, keepdims=True) + eps) * w["gain"] * sigmoid(o)
    return np.einsum("thv,hvd->td", y, w["out"])


@pytest.mark.parametrize("block", [1, 5, 64])
def test_blocks_of_any_size_equal_the_stabilised_recurrence(block):
    mixer = dataclasses.replace(MIXER, block=block)
    w, x = drawn(mixer), np.random.default_rng(1).standard_normal((1, 13, 16))
    segments = np.array([[0] * 4 + [1] * 9])
    expected = np.concatenate([published(mixer, w, x[0, :4]), published(mixer, w, x[0, 4:])])
    np.testing.assert_allclose(through(mixer, w, x, segments)[0], expected, atol=CLOSE * np.abs(expected).max())
    other = published(mixer, w, x[0, :4], start=-7.0)
    np.testing.assert_allclose(other, expected[:4], atol=1e-12)


@pytest.mark.parametrize("bias", [-40.0, 40.0])
def test_gates_at_their_caps_neither_overflow_nor_lose_their_gradients(bias):
    mixer = dataclasses.replace(MIXER, block=16)
    w, x = drawn(mixer), np.random.default_rng(2).standard_normal((1, 40, 16))
    w["input_bias"] = w["input_bias"] + np.float32(bias)
    stream = dataclasses.replace(STREAM, norm_eps=1e-20)  # states of e^-15 are not muted
    expected = published(mixer, w, x[0], eps=1e-20)
    past = WholeSequence(np.arange(40)[None])

    def total(w):
        y = mixer.apply(stream, w, np.float32(x), past)[0]
        return (y * y).sum(), y

    slopes, y = jax.jit(jax.grad(total, has_aux=True))(w)
    np.testing.assert_allclose(y[0], expected, atol=1e-4 * np.abs(expected).max())
    assert all(np.isfinite(slope).all() for slope in slopes.values()) and np.abs(slopes["qk"]).max() > 0


@pytest.mark.parametrize("seq", [1, 5, 13])
def test_flops_are_those_of_the_products(seq):
    assert MIXER.flops(STREAM, seq, causal=False) == products(MIXER, seq)


def test_sizes_are_those_of_the_published_model():
    """xLSTM 7B: 8 heads of 256 and 512 in 4096: 4 d^2 weights a layer, beside gates, and 4 MiB of state a row."""
    mixer, stream = MLSTM(8, 256, 512), dataclasses.replace(STREAM, d_model=4096)
    assert mixer == dataclasses.replace(MLSTM(8, value_dim=512).resolved(stream))
    assert sum(w.size for w in mixer.weights(stream).values()) == 4 * 4096**2 + 2 * 4096 * 8 + 2 * 8 + 4096
    assert mixer.kept(stream)["state"].bytes("bfloat16") == 4 * 2**20 + 4 * 8 * 256
    assert mixer.flops(stream, 1, before=10**6) == 8 * 4 * 256 * 513
    assert counts.state_bytes_per_row(alone(MIXER)) == 2 * 4 * 2 * 3 * 5


def test_gates_at_the_start_do_not_depend_on_the_token():
    w = {name: np.asarray(weight.initial(jax.random.key(0))) for name, weight in MIXER.weights(STREAM).items()}
    assert not w["gates"].any() and w["forget_bias"].tolist() == [3.0, 6.0] and 0 < np.abs(w["input_bias"]).max() < 0.5


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"cap": 30.0}, "cap: is 30.0, under which gates may leave float32: give a number above 0, 20 at most"),
        ({"heads": 0}, "heads: is 0: give a positive integer or None"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(fields, told):
    with pytest.raises(ConfigError) as error:
        dataclasses.replace(MIXER, **fields)
    assert str(error.value) == told
