"""Quantised weights stay within their stated error, take the stated bytes, and run in the transformer unchanged."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import quantize, quantized, transformer
from models.config import ModelConfig
from models.contraction import contract
from models.errors import ConfigError
from models.quantized import QuantizedWeight, quantize_weight

QUANTIZED = ("int8", "w8a8", "int4")
TINY = ModelConfig(vocab_size=40, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48, max_seq_len=16)


def normal(*shape: int, seed: int = 0, outliers: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape)
    return (x * np.exp(rng.normal(0, 2, size=shape)) if outliers else x).astype(np.float32)


def weight_error(w: np.ndarray, mode: str) -> np.ndarray:
    """The stated largest error per entry of a matrix `[in, out]`."""
    column = np.abs(w).max(0)
    if mode != "int4":
        return np.broadcast_to(column / 127 / 2, w.shape)
    groups = w.shape[0] // np.gcd(w.shape[0] // 2, 128)
    group = np.abs(w.reshape(groups, -1, w.shape[1])).max(1)
    return np.repeat((group / 7 + column / 112) / 2, w.shape[0] // groups, axis=0)


@pytest.mark.parametrize("mode", QUANTIZED)
@pytest.mark.parametrize("shape", [(768, 24), (64, 5), (6, 3), (2, 1)])
def test_each_weight_is_off_by_at_most_half_a_step(mode, shape):
    w = normal(*shape, outliers=True)
    w[:, 0] = 0
    q = quantize_weight(jnp.asarray(w), mode)
    back = np.asarray(quantized.dequantize(q), np.float64)
    assert (np.abs(back - w) <= weight_error(w, mode) * (1 + 1e-5) + 1e-30).all()
    assert (back[:, 0] == 0).all()


@pytest.mark.parametrize("mode", QUANTIZED)
@pytest.mark.parametrize("rows", [1, 2, 8, 40])
def test_products_stay_within_the_bound_that_follows_from_both_roundings(mode, rows):
    x, w = normal(rows, 256, outliers=True), normal(256, 30, seed=1, outliers=True)
    q = quantize_weight(jnp.asarray(w), mode)
    y = np.asarray(jax.jit(contract)(x, q), np.float64)
    x64, kept = x.astype(np.float64), np.asarray(quantized.dequantize(q), np.float64)
    step = np.abs(x64).max(-1, keepdims=True) / 127 / (1 if mode == "w8a8" else 254)
    from_x = step / 2 * np.abs(kept).sum(0)
    from_w = np.abs(x64) @ weight_error(w, mode)
    float32 = 1e-5 * (np.abs(x64) @ np.abs(kept))
    assert (np.abs(y - x64 @ kept) <= from_x + float32).all()
    assert (np.abs(y - x64 @ w) <= from_x + from_w + float32).all()


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 24, 768]))
def test_int4_is_packed_two_to_a_byte_and_unpacks_exactly(seed, fan_in):
    w = normal(fan_in, 6, seed=seed, outliers=True)
    q = quantize_weight(jnp.asarray(w), "int4")
    groups = q.multiplier.shape[1]
    assert q.values.nbytes == fan_in * 6 // 2
    assert q.nbytes == fan_in * 6 // 2 + 6 * groups + 6 * 4
    raw = np.asarray(q.values)
    nibbles = np.concatenate([raw & 15, raw >> 4], axis=1).astype(int) - 8
    factors = np.repeat(np.asarray(q.multiplier, int), fan_in // groups, axis=1)
    assert np.abs(nibbles).max() <= 7 and factors.min() >= 1 and factors.max() <= 16
    expected = (nibbles * factors * np.asarray(q.scale, np.float64)[:, None]).T
    np.testing.assert_allclose(np.asarray(quantized.dequantize(q)), expected, rtol=1e-6)


def test_integer_sums_are_exact_at_the_largest_magnitudes():
    for mode in QUANTIZED:
        w, x = np.full((4096, 3), 1.0, np.float32), np.full((2, 4096), -1.0, np.float32)
        y = contract(jnp.asarray(x), quantize_weight(jnp.asarray(w), mode))
        np.testing.assert_allclose(y, -4096, rtol=1e-6)


GPT2 = {"bias": "all", "positions": "learned", "norm": "layernorm", "activation": "gelu"}


@pytest.mark.parametrize(
    ("mode", "change"),
    [("int8", {}), ("int4", {}), ("w8a8", {}), ("w8a8", {"tied_embeddings": False}), ("int8", GPT2)],
)
def test_a_quantised_model_equals_the_model_with_the_rounded_weights(mode, change):
    config = dataclasses.replace(TINY, **change)
    params = transformer.init(config, jax.random.key(0))
    made = quantize.quantize(params, config, mode)
    rounded = jax.tree.map(
        lambda x: quantized.dequantize(x) if isinstance(x, QuantizedWeight) else x,
        made,
        is_leaf=lambda x: isinstance(x, QuantizedWeight),
    )
    tokens = np.random.default_rng(0).integers(0, 40, (2, 9)).astype(np.int32)
    ours, expected = (jax.jit(transformer.apply, static_argnums=0)(config, p, tokens) for p in (made, rounded))
    error = np.sqrt(np.square(ours - expected).mean() / np.square(expected).mean())
    # two layers of four products and the head, each rounding its rows by 2^-16 (two digits) or 2^-8 of their largest
    assert error < (9 * 2**-8 if mode == "w8a8" else 9 * 2**-16)
    kinds = {type(x) for x in jax.tree.leaves(made, is_leaf=lambda x: isinstance(x, QuantizedWeight))}
    assert QuantizedWeight in kinds and isinstance(made["final_norm"]["gain"], jax.Array)


@pytest.mark.parametrize("mode", ["w8a8", "int4"])
def test_scanned_layers_are_quantised_layer_by_layer(mode):
    params = transformer.init(TINY, jax.random.key(0))
    scanned = dataclasses.replace(TINY, scan_layers=True)
    stacked = quantize.quantize(transformer.stack_layers(params, scanned), scanned, mode)
    tokens = np.arange(8, dtype=np.int32)[None]
    run = jax.jit(transformer.apply, static_argnums=0)
    unrolled = transformer.unstack_layers(stacked, scanned)
    for ours, expected in zip(jax.tree.leaves(unrolled), jax.tree.leaves(quantize.quantize(params, TINY, mode))):
        assert (ours == expected).all()
    one, other = run(scanned, stacked, tokens), run(TINY, unrolled, tokens)
    # another order of float32 sums can move a rounded activation by one step
    assert np.sqrt(np.square(one - other).mean()) < (2**-8 if mode == "w8a8" else 2**-12)


def test_bytes_are_those_of_the_arrays_and_follow_from_the_declarations():
    params = transformer.init(TINY, jax.random.key(0))
    c = TINY.resolved()
    assert c.d_ff == 48 and c.head_dim == 8
    norms = 4 * 5 * 32
    # out x in of qkv, out, gate_up, down; the tied table has 40 outputs
    matrices = [(64, 32), (32, 32), (96, 32), (32, 48)] * 2 + [(40, 32)]
    int8 = sum(out * fan_in + 4 * out for out, fan_in in matrices) + norms
    groups = {32: 2, 48: 6}  # gcd(16, 128) = 16 inputs, gcd(24, 128) = 8 inputs
    int4 = sum(out * fan_in // 2 + out * groups[fan_in] + 4 * out for out, fan_in in matrices) + norms
    for mode, expected in {"int8": int8, "w8a8": int8, "int4": int4}.items():
        assert quantize.param_bytes(quantize.quantize(params, TINY, mode)) == expected
        assert quantize.quantized_bytes(TINY, mode) == expected
    assert quantize.quantized_bytes(TINY, "float32") == quantize.param_bytes(params)
    assert quantize.product_shapes(TINY) == {(32, 64): 2, (32, 32): 2, (32, 96): 2, (48, 32): 2, (32, 40): 1}


def test_the_fastest_mode_is_the_most_precise_of_those_that_cost_the_same():
    assert quantize.fastest({"float32": 1.0, "int8": 1.2, "w8a8": 1.1, "int4": 3.0}) == "float32"
    assert quantize.fastest({"float32": 5.0, "int8": 1.01, "w8a8": 1.0, "int4": 3.0}) == "int8"
    assert quantize.fastest({"float32": 5.0, "int8": 2.0, "w8a8": 1.0, "int4": 3.0}) == "w8a8"
    measured = quantize.measure_modes(TINY, 2, rounds=1)
    assert set(measured) == set(quantize.MODES) and min(measured.values()) > 0


def test_an_unknown_mode_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"quantize.mode: is 'int88': use int8"):
        quantize.quantize({}, TINY, "int88")
