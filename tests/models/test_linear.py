"""Linear attention with Taylor features equals its sum of weights, pair by pair; test_parts.py has the rest."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from models import counts
from models.errors import ConfigError
from models.layer import Layer
from models.mixers.linear import LEAST, Linear, taylor_features
from tests.models.mixing import STREAM, alone, drawn, products, through

CLOSE = 1e-5  # float32 sums of some dozens of terms of order 1
MIXER = Linear(features=3, block=5)


def pairwise(w, x, features):
    """One document x [seq, d_model], float64: weighted values over weights, one pair of tokens at a time."""
    w = {name: np.asarray(value, np.float64) for name, value in w.items()}
    q, k = np.moveaxis(np.einsum("td,dghf->tghf", x, w["qk"]), 1, 0)
    v, y = np.einsum("td,dhv->thv", x, w["v"]), np.zeros((len(x), *w["v"].shape[1:]))
    for t in range(len(x)):
        for h in range(q.shape[1]):
            s = k[: t + 1, h] @ q[t, h] / np.sqrt(features)
            weights = 1 + s + s**2 / 2
            assert weights.min() >= 0.5 > LEAST
            y[t, h] = weights @ v[: t + 1, h] / weights.sum()
    return np.einsum("thv,hvd->td", y, w["out"])


@pytest.mark.parametrize("block", [1, 5, 64])
def test_blocks_of_any_size_equal_the_sum_over_pairs(block):
    mixer = dataclasses.replace(MIXER, block=block)
    w, x = drawn(mixer), np.random.default_rng(1).standard_normal((2, 13, 16))
    expected = np.stack([pairwise(w, row, 3) for row in x])
    np.testing.assert_allclose(through(mixer, w, x), expected, atol=CLOSE * np.abs(expected).max())


def test_documents_side_by_side_are_separate_ones():
    w, x = drawn(MIXER), np.random.default_rng(2).standard_normal((1, 13, 16))
    segments = np.array([[0] * 3 + [1] + [2] * 9])
    expected = np.concatenate([pairwise(w, x[0, a:b], 3) for a, b in ((0, 3), (3, 4), (4, 13))])
    found = through(MIXER, w, x, segments)[0]
    np.testing.assert_allclose(found, expected, atol=CLOSE * np.abs(expected).max())


@pytest.mark.parametrize(("d", "count"), [(8, 45), (16, 153), (24, 325)])
def test_products_of_features_are_the_exponential_to_second_order(d, count):
    q, k = np.random.default_rng(3).standard_normal((2, 40, d))
    found = np.einsum("if,jf->ij", *(np.float64(taylor_features(jnp.float32(x))) for x in (q, k)))
    s = q @ k.T / np.sqrt(d)
    assert Linear(features=d).expanded == count == taylor_features(jnp.ones(d)).size
    np.testing.assert_allclose(found, 1 + s + s**2 / 2, atol=1e-5)
    small = np.abs(s) < 0.1
    assert small.sum() > 20 and np.abs(found - np.exp(s))[small].max() < 0.1**3 / 6 * 1.1 + 1e-6


@pytest.mark.parametrize("seq", [1, 5, 13])
def test_flops_are_those_of_the_products(seq):
    assert MIXER.flops(STREAM, seq, causal=False) == products(MIXER, seq)


def test_flops_and_bytes_are_those_of_the_docstring():
    heads, value, state = 2, 4, 10
    assert MIXER.flops(STREAM, 1, before=10**6) == heads * 4 * state * (value + 1)
    pairs = 2 * (5 * 6 // 2) + 3 * 4 // 2
    assert MIXER.flops(STREAM, 13) == heads * (13 * 4 * state * (value + 1) + pairs * 2 * (3 + value + 1))
    assert counts.state_bytes_per_row(alone(MIXER)) == 2 * 4 * heads * state * (value + 1)
    assert counts.kv_cache_bytes_per_token(alone(MIXER)) == 0


def test_what_cannot_be_is_said_in_one_line():
    with pytest.raises(ConfigError) as error:
        Linear(features=0)
    assert str(error.value) == "features: is 0: give a positive integer"
    with pytest.raises(ConfigError) as error:
        dataclasses.replace(alone(MIXER), bias="qkv", pattern=(Layer(MIXER, None),))
    assert str(error.value) == "model.bias: 'qkv' asks for biases that Linear does not have: use 'none'"
