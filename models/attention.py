"""Multi-head attention with grouped queries: one fused q, k, v weight, stored so that heads split without a gather."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.causal_attention import causal_attention
from models.config import ModelConfig
from models.context import self_attention
from models.contraction import contract
from models.layers import Norm, declare, hidden_std, norm_weights
from models.positions import rotary_angles, rotate
from models.sharding import axis_size, split, whole
from models.weight import Weight, WeightTree

# (q [batch, seq, n_heads, head_dim], k, v [batch, seq, n_kv_heads, head_dim]) -> [batch, seq, n_heads, head_dim].
# Two keywords come with it where the layer has them: `window` (int: a query sees that many keys, its own included) and
# `softcap` (float c: scaled scores s become c tanh(s / c) before the mask).
Attend = Callable[..., jax.Array]


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
    if c.bias != "none":
        weights["qkv_bias"] = Weight((c.n_kv_heads, group + 2, c.head_dim), ("kv_heads", "qkv", "head_dim"), "vector")
    if c.bias in ("attention", "all"):
        weights["out_bias"] = Weight((c.d_model,), ("embed",), "vector")
    if c.qk_norm:
        weights["q_norm"] = norm_weights(c, c.head_dim, "head_dim")
        weights["k_norm"] = norm_weights(c, c.head_dim, "head_dim")
    return weights


def attention_scale(config: ModelConfig) -> float:
    """Factor on q.k: head_dim^-1/2, in muP head_dim^-1 scaled to agree at the base (Yang et al. 2022).

    `query_pre_attn_scalar` stands in for head_dim where it is set.
    """
    assert config.head_dim
    if config.query_pre_attn_scalar is not None:
        return config.query_pre_attn_scalar**-0.5
    base = config.mup_base_head_dim if config.mup_base_width else None
    return config.head_dim**-0.5 if base is None else base**0.5 / config.head_dim


def attend_heads(
    config: ModelConfig,
    sliding: bool,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions: jax.Array,
    segments: jax.Array | None,
    attend: Attend | None = None,
) -> jax.Array:
    """Rotary positions and attention of one layer's heads; `config` is resolved.

    q `[batch, seq, n_heads, head_dim]`; k, v `[batch, seq, n_kv_heads, head_dim]` -> as q.
    """
    c = config
    assert c.head_dim
    if c.positions == "rope":
        theta, scaling = c.rope_theta, c.rope_scaling
        if sliding and c.rope_theta_local is not None:
            theta, scaling = c.rope_theta_local, None
        cos, sin = rotary_angles(positions, int(c.head_dim * c.partial_rotary_factor), theta, scaling)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    limits: dict[str, Any] = {"window": c.sliding_window if sliding else None, "softcap": c.attention_softcap}
    limits = {name: limit for name, limit in limits.items() if limit is not None}
    if attend is not None:
        return attend(q, k, v, **limits)
    if axis_size("context") > 1:
        return self_attention(c.context, q, k, v, segments=segments, scale=attention_scale(c), **limits)
    return causal_attention(q, k, v, segments=segments, scale=attention_scale(c), **limits)


class Attention(nn.Module):
    """Causal self-attention of x `[batch, seq, d_model]`; positions `[batch or 1, seq]`, segments `[batch, seq]`.

    `attend` replaces the attention over x itself, for instance by one over a cache that it also extends.
    `sliding`: the layer has a window; `kind` decides it instead in a scan over layers of both kinds.
    """

    config: ModelConfig
    sliding: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        segments: jax.Array | None = None,
        attend: Attend | None = None,
        kind: jax.Array | None = None,
    ) -> jax.Array:
        c = self.config
        assert c.n_kv_heads and c.head_dim
        w = declare(self, {k: v for k, v in attention_weights(c).items() if isinstance(v, Weight)}, c)
        qkv = contract(whole(x), w["qkv"])
        if "qkv_bias" in w:
            qkv = qkv + w["qkv_bias"]
        batch, seq = x.shape[:2]
        group = c.n_heads // c.n_kv_heads
        q, k, v = jnp.split(qkv, [group, group + 1], axis=-2)  # one concatenation backwards, where slices would pad
        q, k, v = q.reshape(batch, seq, c.n_heads, c.head_dim), k.squeeze(-2), v.squeeze(-2)
        if c.qk_norm:
            q, k = Norm(c, "head_dim", name="q_norm")(q), Norm(c, "head_dim", name="k_norm")(k)
        if kind is None:
            y = attend_heads(c, self.sliding, q, k, v, positions, segments, attend)
        else:
            windowed, full = partial(attend_heads, c, True), partial(attend_heads, c, False)
            y = jax.lax.cond(kind, windowed, full, q, k, v, positions, segments)
        y = split(contract(y.reshape(batch, seq, c.n_kv_heads, -1, c.head_dim), w["out"], dims=3))
        return y + w["out_bias"] if "out_bias" in w else y
