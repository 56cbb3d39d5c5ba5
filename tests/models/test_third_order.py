"""Third-order attention equals its sum over pairs of tokens; test_parts.py has the rest."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from models import counts
from models.errors import ConfigError
from models.layer import Layer
from models.mixers.third_order import LEAST, ThirdOrder
from tests.models.mixing import STREAM, alone, drawn, products, through

CLOSE = 1e-5  # float32 sums of some dozens of terms of order 1
MIXER = ThirdOrder(features=3, block=5)


def taylor(s, degree):
    return sum(s**n / math.factorial(n) for n in range(degree + 1))


def triplewise(w, x, weigh):
    """One document x [seq, d_model], float64: weighted products of values over weights, a pair of tokens at a time."""
    w = {name: np.asarray(value, np.float64) for name, value in w.items()}
    (q, k1, k2), (v1, v2) = (np.moveaxis(np.einsum("td,dghf->tghf", x, w[name]), 1, 0) for name in ("qkk", "vv"))
    y = np.zeros_like(v1)
    for i, h in np.ndindex(len(x), q.shape[1]):
        s = np.einsum("c,jc,kc->jk", q[i, h], k1[: i + 1, h], k2[: i + 1, h]) / np.sqrt(q.shape[-1])
        weights = weigh(s)
        assert weights.min() > LEAST
        y[i, h] = np.einsum("jk,jv,kv->v", weights, v1[: i + 1, h], v2[: i + 1, h]) / weights.sum()
    return np.einsum("thv,hvd->td", y, w["out"])


@pytest.mark.parametrize(("block", "degree"), [(1, 2), (5, 2), (64, 2), (5, 4)])
def test_blocks_of_any_size_equal_the_sum_over_pairs_of_tokens(block, degree):
    mixer = ThirdOrder(features=3, block=block, degree=degree)
    w, x = drawn(mixer), np.random.default_rng(1).standard_normal((1, 13, 16))
    segments = np.array([[0] * 4 + [1] * 9])
    parts = (x[0, :4], x[0, 4:])
    expected = np.concatenate([triplewise(w, part, lambda s: taylor(s, degree)) for part in parts])
    np.testing.assert_allclose(through(mixer, w, x, segments)[0], expected, atol=CLOSE * np.abs(expected).max())


def test_the_softmax_over_pairs_is_approached_as_the_remainder_of_the_exponential_falls():
    """Entries up to 0.3, as where the approximation is proved: an error of at most twice the largest remainder."""
    x = np.random.default_rng(2).uniform(-0.3, 0.3, (1, 12, 16))
    eye = np.eye(16).reshape(16, 4, 4)  # one head reads each of four parts of the stream
    w = {"qkk": np.stack([eye[:, :1], eye[:, 1:2], eye[:, 2:3]], 1), "vv": np.stack([eye[:, 3:], eye[:, 3:]], 1)}
    w = {name: np.float32(value) for name, value in w.items()} | {"out": np.float32(eye[:, 3:].transpose(1, 2, 0))}
    want = triplewise(w, x[0], np.exp)
    largest = 4 * 0.3**3 / 2  # of a score
    for degree in (2, 4):
        found = through(ThirdOrder(heads=1, features=4, value_dim=4, degree=degree), w, x)[0]
        remainder = np.exp(largest) * largest ** (degree + 1) / math.factorial(degree + 1)
        size = 0.3**2  # of a product of values
        assert np.abs(found - want).max() <= 2 * remainder * size / np.exp(-largest) + 1e-7
    np.testing.assert_allclose(found, want, atol=1e-7)
    assert np.abs(triplewise(w, x[0], np.ones_like) - want).max() > 1e-5  # scores do matter


def test_monomials_of_three_vectors_are_the_polynomial_of_their_product():
    mixer = ThirdOrder(features=5, degree=6)
    q, k1, k2 = three = np.random.default_rng(3).standard_normal((3, 30, 5))
    a, b, c = np.float64(jax.jit(mixer._expanded)(np.float32(three)))
    assert a.shape == (30, mixer.monomials) == (30, math.comb(11, 6))
    s = (q * k1 * k2).sum(-1) / np.sqrt(5)
    np.testing.assert_allclose((a * b * c * mixer._factors()).sum(-1), taylor(s, 6), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seq", [1, 5, 13])
def test_flops_and_bytes_are_those_of_the_docstring(seq):
    heads, value, count = 2, 4, 10
    padded = -(-seq // 5) * 5 if seq > 5 else seq
    assert products(MIXER, seq) == padded * 6 * count * (value + 1) * heads
    assert MIXER.flops(STREAM, seq) == seq * 6 * count * (value + 1) * heads
    assert counts.state_bytes_per_row(alone(MIXER)) == 2 * 8 * heads * count * (value + 1)
    assert counts.kv_cache_bytes_per_token(alone(MIXER)) == 0


def test_what_cannot_be_is_said_in_one_line():
    for fields, told in (({"degree": 3}, "degree: is 3: use 2, 4 or 6, whose weights are positive"),
                         ({"features": 0}, "features: is 0: give a positive integer")):  # fmt: skip
        with pytest.raises(ConfigError) as error:
            ThirdOrder(**fields)
        assert str(error.value) == told
    assert Layer(ThirdOrder()).mixer.resolved(STREAM).heads == 2
