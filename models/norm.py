"""RMSNorm (Zhang & Sennrich 2019) and LayerNorm (Ba et al. 2016) over the last dim, statistics in float32."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp

from models.stream import Stream


def norm(s: Stream, w: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    """The model's norm of x `[..., d]` with gain `[d]`, and bias where `w` has one (Stream.norm_weights)."""
    if s.norm_plus_one:  # summed and multiplied in float32: bfloat16 would round 1 + gain to 8 bits
        gain = 1 + w["gain"].astype(jnp.float32)
        return normalize(x, gain, w.get("bias"), s.norm, s.norm_eps).astype(x.dtype)
    return normalize(x, w["gain"], w.get("bias"), s.norm, s.norm_eps)


def normalize(x: jax.Array, gain: jax.Array, bias: jax.Array | None, kind: str, eps: float) -> jax.Array:
    """Normalise the last dim of x `[..., d]`; gain and bias `[d]`."""
    y = _standardize(x, kind == "layernorm", eps) * gain
    return y if bias is None else y + bias


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _standardize(x: jax.Array, center: bool, eps: float) -> jax.Array:
    """x / rms(x) over the last dim, after subtracting the mean if `center`; float32 inside, x's dtype outside.

    The backward pass is by hand because it needs only the result and one scale per row; autodiff goes back through
    the mean and the variance one after the other, over the whole array each time.
    """
    return _standardize_forward(x, center, eps)[0]


def _standardize_forward(x: jax.Array, center: bool, eps: float) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = x.astype(jnp.float32)
    if center:
        y = y - y.mean(-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + eps)
    result = (y * scale).astype(x.dtype)
    return result, (result, scale)


def _standardize_backward(
    center: bool, eps: float, saved: tuple[jax.Array, jax.Array], d_result: jax.Array
) -> tuple[jax.Array]:
    result, scale = saved
    y, dy = result.astype(jnp.float32), d_result.astype(jnp.float32)
    dx = dy - y * (dy * y).mean(-1, keepdims=True)
    if center:
        dx = dx - dy.mean(-1, keepdims=True)
    return ((dx * scale).astype(result.dtype),)


_standardize.defvjp(_standardize_forward, _standardize_backward)
