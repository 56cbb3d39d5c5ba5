"""The pieces every block shares: declaring weights, matrix products in float32 accumulation, norms."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.config import ModelConfig
from models.output_major import OutputMajor
from models.quantized import QuantizedWeight
from models.sharding import gathered
from models.weight import Weight


def declare(module: nn.Module, weights: Mapping[str, Weight], config: ModelConfig) -> dict[str, jax.Array]:
    """Make every declared weight a linen parameter of `module`; returned in the compute dtype, gathered over `fsdp`."""
    param_dtype, dtype = jnp.dtype(config.param_dtype), jnp.dtype(config.dtype)
    stored: dict = {name: module.get_variable("params", name) for name in weights}
    # linen compares a parameter's shape with its declaration, which these do not have
    other: dict[str, Any] = {name: x for name, x in stored.items() if isinstance(x, QuantizedWeight | OutputMajor)}
    declared = {name: w for name, w in weights.items() if name not in other}
    params = {name: module.param(name, w.initial, param_dtype).astype(dtype) for name, w in declared.items()}
    return other | {name: gathered(x, weights[name].axes) for name, x in params.items()}


def hidden_std(config: ModelConfig, fan_in: int) -> float:
    """Initial standard deviation of a hidden matrix: fan_in^-1/2, or init_std, which muP lets fall as width^-1/2."""
    if config.init_std is None:
        return fan_in**-0.5
    return config.init_std * ((config.mup_base_width or config.d_model) / config.d_model) ** 0.5


def norm_weights(config: ModelConfig, size: int, axis: str) -> dict[str, Weight]:
    """Gain (and for a biased LayerNorm the bias) of one norm over `size` features."""
    weights = {"gain": Weight((size,), (axis,), "vector", std=0.0 if config.norm_plus_one else 1.0)}
    if config.norm == "layernorm" and config.bias == "all":
        weights["bias"] = Weight((size,), (axis,), "vector")
    return weights


class Norm(nn.Module):
    """RMSNorm (Zhang & Sennrich 2019) or LayerNorm (Ba et al. 2016) over the last dim, statistics in float32."""

    config: ModelConfig
    axis: str = "embed"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        w = declare(self, norm_weights(c, x.shape[-1], self.axis), c)
        if c.norm_plus_one:  # summed and multiplied in float32: bfloat16 would round 1 + gain to 8 bits
            gain = 1 + w["gain"].astype(jnp.float32)
            return normalize(x, gain, w.get("bias"), c.norm, c.norm_eps).astype(x.dtype)
        return normalize(x, w["gain"], w.get("bias"), c.norm, c.norm_eps)


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
