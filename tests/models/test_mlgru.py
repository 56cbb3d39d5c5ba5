"""Ternary products and the MLGRU equal NumPy's; test_parts.py has the rest."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from models import counts, ternary
from models.channels import Ternary
from models.errors import ConfigError
from models.mixers.mlgru import MLGRU, READ
from tests.models.mixing import STREAM, alone, drawn, products, through

CLOSE = 2e-5  # float32 sums of some dozens of terms of order 1
MIXER = MLGRU(width=6, least=0.2, block=5)


def rounded(x, w):
    """What BitLinear multiplies, in float64: activations `[rows, in]` and weights `[in, out]`."""
    step = np.abs(x).max(-1, keepdims=True) / 127
    return np.round(x / step) * step, np.clip(np.round(w / np.abs(w).mean()), -1, 1) * np.abs(w).mean()


def normed(x, gain, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * gain


def bit_linear(x, w, gain):
    return np.matmul(*rounded(normed(x, gain, 1e-8), w))


def silu(x):
    return x / (1 + np.exp(-x))


def published(mixer, w, x):
    """One document x [seq, d_model] token by token in float64."""
    w = {name: np.asarray(value, np.float64) for name, value in w.items()}
    forget, candidate, gate = (bit_linear(x, w[name], w[f"{name}_gain"]) for name in READ)
    f, h, y = mixer.least + (1 - mixer.least) / (1 + np.exp(-forget)), 0.0, []
    for t in range(len(x)):
        h = f[t] * h + (1 - f[t]) * silu(candidate[t])
        ours, other = (gate[t], h) if mixer.normed == "gate" else (h, gate[t])
        y.append(normed(ours, w["gain"], STREAM.norm_eps) * silu(other))
    return bit_linear(np.array(y), w["out"], w["out_gain"])


def test_a_ternary_product_and_its_straight_through_gradients_are_those_of_the_rounded_numbers():
    rng = np.random.default_rng(0)
    x, w, dy = (rng.standard_normal(shape).astype(np.float32) for shape in ((7, 12), (12, 5), (7, 5)))
    y, back = jax.vjp(lambda x, w: ternary._product(x, w, 1), x, w)
    whole, signs = rounded(x.astype(np.float64), w.astype(np.float64))
    assert len(np.unique(np.asarray(ternary.trits(w)[0]))) == 3
    for found, want in zip((y, *back(dy)), (whole @ signs, dy @ signs.T, whole.T @ dy), strict=True):
        np.testing.assert_allclose(found, want, atol=CLOSE)
    np.testing.assert_array_equal(ternary._product(0 * x, w, 1), 0)
    half = ternary.levels(x.astype("bfloat16"))[0]
    assert np.asarray(half, np.float32).tolist() == np.round(np.asarray(half, np.float32)).tolist()


@pytest.mark.parametrize(("block", "kind"), [(1, "gate"), (5, "gate"), (5, "state"), (64, "gate")])
def test_blocks_of_any_size_equal_the_recurrence(block, kind):
    mixer = dataclasses.replace(MIXER, block=block, normed=kind)
    w, x = drawn(mixer), np.random.default_rng(1).standard_normal((1, 13, 16))
    segments = np.array([[0] * 4 + [1] * 9])
    expected = np.concatenate([published(mixer, w, x[0, :4]), published(mixer, w, x[0, 4:])])
    np.testing.assert_allclose(through(mixer, w, x, segments)[0], expected, atol=CLOSE * np.abs(expected).max())


def test_the_channel_is_the_gated_block_of_ternary_products():
    w, x = drawn(Ternary(10)), np.random.default_rng(2).standard_normal((3, 16))
    both = bit_linear(x, w["gate_up"].astype(np.float64).reshape(16, 20), w["gate_up_gain"])
    want = bit_linear(silu(both[:, :10]) * both[:, 10:], w["down"].astype(np.float64), w["down_gain"])
    found = jax.jit(lambda w, x: Ternary(10).apply(STREAM, w, x, None)[0])(w, np.float32(x)[None])
    np.testing.assert_allclose(found[0], want, atol=CLOSE * np.abs(want).max())


def test_it_costs_no_products_but_the_weights_and_keeps_one_number_a_feature():
    assert MIXER.flops(STREAM, 13) == products(MIXER, 13) == 0
    assert counts.state_bytes_per_row(alone(MIXER)) == 2 * 4 * 6 and counts.kv_cache_bytes_per_token(alone(MIXER)) == 0
    resolved = dataclasses.replace(MIXER, width=None).resolved(STREAM)
    assert resolved.width == 16 and sum(w.size for w in resolved.weights(STREAM).values()) == 4 * 256 + 5 * 16


@pytest.mark.parametrize("shape", [(3, 7), (5,), (2, 2, 2)])
def test_five_weights_lie_in_a_byte_and_come_back(shape):
    signs = np.random.default_rng(3).integers(-1, 2, shape)
    packed = ternary.pack(signs)
    assert packed.dtype == np.uint8 and len(packed) == -(-signs.size // 5)
    np.testing.assert_array_equal(ternary.unpack(packed, shape), signs)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"least": 1.0}, "least: is 1.0: give a share in [0, 1)"),
        ({"width": 0}, "width: is 0: give a positive integer or None"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(fields, told):
    with pytest.raises(ConfigError) as error:
        dataclasses.replace(MIXER, **fields)
    assert str(error.value) == told
