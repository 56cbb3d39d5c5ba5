"""Products with weights of -1, 0 and 1 and activations of 8 bits (BitLinear, Ma et al. 2024, "The era of 1-bit LLMs",
arXiv:2402.17764, as in Zhu et al. 2024, "Scalable MatMul-free language modeling", arXiv:2406.02528).

What is rounded are weights that train in full precision: the gradient passes through both roundings as if they were
not there. A product of rounded numbers is one of small integers, so it is exact in every dtype, and adds alone.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from models.contraction import contract
from models.norm import normalize

EPS = 1e-8  # of the norm before a product, as published
LEAST = 1e-5  # of a scale, so that zeros stay zeros
LEVELS = 127.0  # of an activation on either side of zero
TRITS = 5  # in a byte: 3^5 = 243


def ternary_contract(x: jax.Array, w: jax.Array, gain: jax.Array, dims: int = 1) -> jax.Array:
    """x `[..., *in]`, normed over its last dim with `gain`, times the rounded w `[*in, *out]`: `[..., *out]`."""
    return _product(normalize(x, gain, None, "rmsnorm", EPS), w, dims)


def levels(x: jax.Array, dims: int = 1) -> tuple[jax.Array, jax.Array]:
    """(x rounded to integers of -127 to 127, the float32 step between two of them, one for the last `dims` dims)."""
    y = x.astype(jnp.float32)
    most = jnp.abs(y).max(range(y.ndim - dims, y.ndim), keepdims=True)
    step = jnp.maximum(most, LEAST) / LEVELS
    return jnp.round(y / step).astype(x.dtype), step


def trits(w: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(w / mean|w| rounded to -1, 0 or 1, mean|w| in float32): one scale for the whole weight."""
    y = w.astype(jnp.float32)
    scale = jnp.maximum(jnp.abs(y).mean(), LEAST)
    return jnp.clip(jnp.round(y / scale), -1, 1).astype(w.dtype), scale


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: jax.Array, w: jax.Array, dims: int) -> jax.Array:
    return _forward(x, w, dims)[0]


def _forward(x: jax.Array, w: jax.Array, dims: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    (whole, step), (signs, scale) = levels(x, dims), trits(w)
    y = contract(whole, signs, dims)
    factor = (step * scale).reshape(step.shape[: x.ndim - dims] + (1,) * (w.ndim - dims))
    rounded = (whole * step).astype(x.dtype), (signs * scale).astype(w.dtype)
    return (y * factor).astype(x.dtype), rounded


def _backward(dims: int, rounded: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.vjp(partial(contract, dims=dims), *rounded)[1](dy)


_product.defvjp(_forward, _backward)


def pack(signs: np.ndarray) -> np.ndarray:
    """Weights of -1, 0 and 1 of any shape, five in a byte, row by row: `[ceil(size / 5)]` uint8."""
    digits = np.asarray(signs).astype(np.int64).ravel() + 1
    filled = np.pad(digits, (0, -len(digits) % TRITS), constant_values=1)
    return (filled.reshape(-1, TRITS) @ 3 ** np.arange(TRITS)).astype(np.uint8)


def unpack(packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The weights that `pack` was given, `[*shape]` int8."""
    digits = packed[:, None].astype(np.int64) // 3 ** np.arange(TRITS) % 3 - 1
    return digits.ravel()[: int(np.prod(shape))].reshape(shape).astype(np.int8)
