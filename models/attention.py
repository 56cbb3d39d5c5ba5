"""Multi-head attention with grouped queries: one fused q, k, v weight, stored so that heads split without a gather."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.causal_attention import causal_attention
from models.config import ModelConfig
from models.contraction import contract
from models.layers import Norm, declare, hidden_std, norm_weights
from models.positions import rotary_angles, rotate
from models.weight import Weight, WeightTree

# (q [batch, seq, n_heads, head_dim], k, v [batch, seq, n_kv_heads, head_dim]) -> [batch, seq, n_heads, head_dim]
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def attention_weights(config: ModelConfig) -> WeightTree:
    """Declarations of one attention block; `config` is resolved.

    qkv `[d_model, kv_heads, group + 2, head_dim]`: for each key-value head its `group` query heads, then k, then v.
    """
    c = config
    assert c.n_kv_heads and c.head_dim
    group = c.n_heads // c.n_kv_heads
    residual_scale = (2 * c.n_layers) ** -0.5
    out_std = hidden_std(c, c.n_heads * c.head_dim) * residual_scale
    out_axes = ("kv_heads", "query_heads", "head_dim", "embed")
    weights: dict = {
        "qkv": Weight(
            (c.d_model, c.n_kv_heads, group + 2, c.head_dim),
            ("embed", "kv_heads", "qkv", "head_dim"),
            "matrix",
            std=hidden_std(c, c.d_model),
        ),
        "out": Weight((c.n_kv_heads, group, c.head_dim, c.d_model), out_axes, "matrix", inputs=3, std=out_std),
    }
    if c.bias in ("qkv", "all"):
        weights["qkv_bias"] = Weight((c.n_kv_heads, group + 2, c.head_dim), ("kv_heads", "qkv", "head_dim"), "vector")
    if c.bias == "all":
        weights["out_bias"] = Weight((c.d_model,), ("embed",), "vector")
    if c.qk_norm:
        weights["q_norm"] = norm_weights(c, c.head_dim, "head_dim")
        weights["k_norm"] = norm_weights(c, c.head_dim, "head_dim")
    return weights


def attention_scale(config: ModelConfig) -> float:
    """Factor on q.k: head_dim^-1/2, in muP head_dim^-1 scaled to agree at the base (Yang et al. 2022)."""
    assert config.head_dim
    base = config.mup_base_head_dim if config.mup_base_width else None
    return config.head_dim**-0.5 if base is None else base**0.5 / config.head_dim


class Attention(nn.Module):
    """Causal self-attention of x `[batch, seq, d_model]`; positions `[batch or 1, seq]`, segments `[batch, seq]`.

    `attend` replaces the attention over x itself, for instance by one over a cache that it also extends.
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self, x: jax.Array, positions: jax.Array, segments: jax.Array | None = None, attend: Attend | None = None
    ) -> jax.Array:
        c = self.config
        assert c.n_kv_heads and c.head_dim
        w = declare(self, {k: v for k, v in attention_weights(c).items() if isinstance(v, Weight)}, c)
        qkv = contract(x, w["qkv"])
        if "qkv_bias" in w:
            qkv = qkv + w["qkv_bias"]
        batch, seq = x.shape[:2]
        group = c.n_heads // c.n_kv_heads
        q, k, v = jnp.split(qkv, [group, group + 1], axis=-2)  # one concatenation backwards, where slices would pad
        q, k, v = q.reshape(batch, seq, c.n_heads, c.head_dim), k.squeeze(-2), v.squeeze(-2)
        if c.qk_norm:
            q, k = Norm(c, "head_dim", name="q_norm")(q), Norm(c, "head_dim", name="k_norm")(k)
        if c.positions == "rope":
            cos, sin = rotary_angles(positions, c.head_dim, c.rope_theta)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if attend is None:
            y = causal_attention(q, k, v, segments=segments, scale=attention_scale(c))
        else:
            y = attend(q, k, v)
        y = contract(y.reshape(batch, seq, c.n_kv_heads, -1, c.head_dim), w["out"], dims=3)
        return y + w["out_bias"] if "out_bias" in w else y
