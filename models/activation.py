"""The nonlinearity of a feed-forward block, alone or as the gate of a product."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from models.channels.dense import is_gated
from models.stream import Activation

SLOPE, LIMIT = 1.702, 7.0  # of the clipped SwiGLU, in gpt-oss


def nonlinearity(activation: Activation) -> Callable[[jax.Array], jax.Array]:
    """SiLU, squared ReLU (So et al. 2021), or GELU by tanh (GPT-2's) or by the error function."""
    if activation == "swiglu":
        return jax.nn.silu
    if activation == "relu2":
        return lambda x: jnp.square(jax.nn.relu(x))
    return partial(jax.nn.gelu, approximate=activation in ("gelu", "geglu"))


def activated(activation: Activation, y: jax.Array) -> jax.Array:
    """`[..., 2, width]` (gated: gate, then up) or `[..., width]` -> `[..., width]`."""
    if activation == "swiglu_clipped":  # gpt-oss: neither half beyond LIMIT, and 1 + up
        gate, up = jnp.minimum(y[..., 0, :], LIMIT), jnp.clip(y[..., 1, :], -LIMIT, LIMIT)
        return gate * jax.nn.sigmoid(SLOPE * gate) * (up + 1)
    act = nonlinearity(activation)
    return act(y[..., 0, :]) * y[..., 1, :] if is_gated(activation) else act(y)
