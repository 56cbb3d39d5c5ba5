"""The nonlinearity of a feed-forward block, alone or as the gate of a product."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from models.stream import Activation


def nonlinearity(activation: Activation) -> Callable[[jax.Array], jax.Array]:
    """SiLU, squared ReLU (So et al. 2021), or GELU by tanh (GPT-2's) or by the error function."""
    if activation == "swiglu":
        return jax.nn.silu
    if activation == "relu2":
        return lambda x: jnp.square(jax.nn.relu(x))
    return partial(jax.nn.gelu, approximate=activation in ("gelu", "geglu"))


def activated(activation: Activation, y: jax.Array) -> jax.Array:
    """`[..., 2, width]` (gated: gate, then up) or `[..., width]` -> `[..., width]`."""
    act = nonlinearity(activation)
    return act(y[..., 0, :]) * y[..., 1, :] if activation in ("swiglu", "geglu", "geglu_exact") else act(y)
