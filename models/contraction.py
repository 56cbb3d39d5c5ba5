"""x @ w with a hand-written backward pass: every product accumulates in float32 and reads its operands as they lie."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from models.platform import on_cpu
from models.sharding import current_mesh

PRODUCT = "product"  # the name under which a rematerialisation policy can save what `contract` returns


class Factor(Protocol):
    """A weight that is more than an array, and multiplies itself."""

    def contracted(self, x: jax.Array, dims: int) -> jax.Array:
        """The contraction of the last `dims` dims of x with its first ones, in x's dtype."""

    def ready(self, whole: Callable[[Any], Any], dtype: str) -> Factor:
        """Itself as products read it: `whole` does that for an array, and `dtype` is that of the computation."""


def contract(x: jax.Array, w: jax.Array | Factor, dims: int = 1) -> jax.Array:
    """Contract the last `dims` dims of x with the first `dims` of w, accumulating in float32.

    x `[..., *in]`, w `[*in, *out]` -> `[..., *out]` in x's dtype.
    """
    if not isinstance(w, jax.Array | np.ndarray):
        return w.contracted(x, dims)
    return checkpoint_name(_contract(x, w, dims), PRODUCT)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _contract(x: jax.Array, w: jax.Array, dims: int) -> jax.Array:
    lhs = tuple(range(x.ndim - dims, x.ndim))
    y = jax.lax.dot_general(x, w, ((lhs, tuple(range(dims))), ((), ())), preferred_element_type=jnp.float32)
    return y.astype(x.dtype)


def _forward(x: jax.Array, w: jax.Array, dims: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _contract(x, w, dims), (x, w)


def _backward(dims: int, residuals: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = residuals
    shared = x.ndim - dims
    # As matrices: with more dims, XLA's CPU backend copies w transposed before the product. On a mesh the dims may be
    # split, and flattening them would gather.
    if on_cpu() and current_mesh() is None:
        dy_rows, matrix = dy.reshape(*dy.shape[:shared], -1), w.reshape(math.prod(w.shape[:dims]), -1)
        contracted = ((shared,), (1,))
        dx = jax.lax.dot_general(dy_rows, matrix, (contracted, ((), ())), preferred_element_type=jnp.float32)
        dx = dx.reshape(x.shape)
    else:
        out = tuple(range(shared, dy.ndim)), tuple(range(dims, w.ndim))
        dx = jax.lax.dot_general(dy, w, (out, ((), ())), preferred_element_type=jnp.float32)
    return dx.astype(x.dtype), weight_gradient(x, dy, dims).astype(w.dtype)


_contract.defvjp(_forward, _backward)


def weight_gradient(x: jax.Array, dy: jax.Array, dims: int = 1) -> jax.Array:
    """Sum over the shared leading dims of x `[..., *in]` times dy `[..., *out]`: `[*in, *out]` float32."""
    shared = tuple(range(x.ndim - dims))
    fan_in, fan_out = math.prod(x.shape[len(shared) :]), math.prod(dy.shape[len(shared) :])
    dot = partial(jax.lax.dot_general, dimension_numbers=((shared, shared), ((), ())))
    if fan_in < fan_out or not on_cpu():
        return dot(x, dy, preferred_element_type=jnp.float32)
    # XLA's CPU matmul with a transposed left operand reaches 104 GFLOP/s with few rows and 56 with many. The first
    # barrier keeps XLA from folding the transpose back into the product; the second has it done once, not by the
    # norm and by each of the optimiser's reads of the gradient.
    transposed = jax.lax.optimization_barrier(dot(dy, x, preferred_element_type=jnp.float32))
    n_out = dy.ndim - len(shared)
    return jax.lax.optimization_barrier(transposed.transpose(*range(n_out, transposed.ndim), *range(n_out)))
