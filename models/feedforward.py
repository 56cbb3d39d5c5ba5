"""The position-wise feed-forward block: GELU, or gated (SwiGLU, GeGLU; Shazeer 2020)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax

from models.config import ModelConfig
from models.contraction import contract
from models.layers import declare, hidden_std
from models.sharding import split, whole
from models.weight import Weight


def feedforward_weights(config: ModelConfig) -> dict[str, Weight]:
    """Declarations of one dense block; a gated block stores gate and up as one `[d_model, 2, d_ff]` matrix."""
    c = config
    assert c.d_ff
    up_std, down_std = hidden_std(c, c.d_model), hidden_std(c, c.d_ff) * (2 * c.n_layers) ** -0.5
    if c.gated:
        weights = {"gate_up": Weight((c.d_model, 2, c.d_ff), ("embed", "gate", "mlp"), "matrix", std=up_std)}
    else:
        weights = {"up": Weight((c.d_model, c.d_ff), ("embed", "mlp"), "matrix", std=up_std)}
    weights["down"] = Weight((c.d_ff, c.d_model), ("mlp", "embed"), "matrix", std=down_std)
    if c.bias == "all":
        if c.gated:
            weights["gate_up_bias"] = Weight((2, c.d_ff), ("gate", "mlp"), "vector")
        else:
            weights["up_bias"] = Weight((c.d_ff,), ("mlp",), "vector")
        weights["down_bias"] = Weight((c.d_model,), ("embed",), "vector")
    return weights


def nonlinearity(config: ModelConfig) -> Callable[[jax.Array], jax.Array]:
    """SiLU, or GELU by tanh (GPT-2's) or by the error function."""
    if config.activation == "swiglu":
        return jax.nn.silu
    return partial(jax.nn.gelu, approximate=config.activation in ("gelu", "geglu"))


class FeedForward(nn.Module):
    """x `[batch, seq, d_model]` -> `[batch, seq, d_model]`."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        w = declare(self, feedforward_weights(c), c)
        x = whole(x)
        if c.gated:
            y = contract(x, w["gate_up"])
            if "gate_up_bias" in w:
                y = y + w["gate_up_bias"]
            hidden = nonlinearity(c)(y[..., 0, :]) * y[..., 1, :]
        else:
            y = contract(x, w["up"])
            if "up_bias" in w:
                y = y + w["up_bias"]
            hidden = nonlinearity(c)(y)
        out = split(contract(hidden, w["down"]))
        return out + w["down_bias"] if "down_bias" in w else out
