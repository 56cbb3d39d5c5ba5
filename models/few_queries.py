"""An encoder of which few queries attend, and whose length halves behind each layer (Informer, Zhou et al. 2021,
arXiv:2012.07436): FLOPs of L log L where attention has L^2.

Of every head the u = c ceil(ln L) queries attend, to all L keys, that a sample of keys finds least alike to a mean:

    M_i = max_j q_i.k_j - 1/L sum_j q_i.k_j     over U = u keys j, drawn for each query with replacement,

the sum being over the sample, but divided by L, as in the published code. The others get the mean of all values, which
is what attention with equal weights gives. With u = L everything attends, whatever was drawn. Draws are of a key that
the caller gives, and shared by heads and rows.

Causal, query i draws from keys up to i and gets the mean of values up to i where it does not attend. (The published
code draws from later keys too, and gives the sum of the values.) Which queries attend still depends on later ones: this
is for tokens that are all given, as a one-shot decoder's are, and no language model.

Between layers x becomes max pool(ELU(conv(x))): three taps over neighbours, the ends being neighbours too, and maxima
of three at every other position. The published code's batch norm before the ELU is left out.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from models import transformer
from models.channels import Dense
from models.config import ModelConfig
from models.contraction import contract
from models.errors import require
from models.fewer_tokens import checked
from models.mixers.attention import Attention
from models.norm import norm
from models.weight import Weight, WeightTree, walk
from models.wiring.prenorm import PreNorm

TAPS = 3  # of the convolution, and positions of which one maximum is taken


def attending(factor: int, length: int) -> int:
    """How many of so many queries attend, and how many keys each of them draws."""
    require(factor >= 1, "factor", f"is {factor}", "give a positive integer")
    return min(length, max(1, factor * math.ceil(math.log(length))))


def draw(key: jax.Array, length: int, count: int, causal: bool = False) -> jax.Array:
    """Keys that every query draws, `[length, count]` int32: from all, or causal from those up to itself."""
    highest = jnp.arange(1, length + 1)[:, None] if causal else length
    return jax.random.randint(key, (length, count), 0, highest)


def sparsity(q: jax.Array, k: jax.Array, drawn: jax.Array) -> jax.Array:
    """M `[batch, heads, length]` float32 of q `[batch, length, heads, head_dim]` and the keys drawn from k `[batch,
    length, kv_heads, head_dim]`; no gradient passes."""
    batch, length, heads, features = q.shape
    grouped = jax.lax.stop_gradient(q).reshape(batch, length, k.shape[2], -1, features)
    sample = jax.lax.stop_gradient(k)[:, drawn]  # [batch, length, count, kv_heads, head_dim]
    scores = jnp.einsum("blgrd,blngd->bgrln", grouped, sample, preferred_element_type=jnp.float32)
    return (scores.max(-1) - scores.sum(-1) / length).reshape(batch, heads, length)


def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, drawn: jax.Array, u: int, scale: float, causal: bool = False
) -> jax.Array:  # fmt: skip
    """What u queries of every head attend to and the others get, `[batch, length, heads, head_dim]` in q's dtype.

    q `[batch, length, heads, head_dim]`; k, v `[batch, length, kv_heads, head_dim]`; drawn as `draw` gives it.
    """
    batch, length, heads, _ = q.shape
    _, chosen = jax.lax.top_k(sparsity(q, k, drawn), u)  # [batch, heads, u]
    k, v = (jnp.repeat(x, heads // x.shape[2], axis=2) for x in (k, v))
    picked = jnp.take_along_axis(q.swapaxes(1, 2), chosen[..., None], axis=2)
    scores = scale * jnp.einsum("bhud,blhd->bhul", picked, k, preferred_element_type=jnp.float32)
    values = v.astype(jnp.float32)
    if causal:
        scores = jnp.where(jnp.arange(length) <= chosen[..., None], scores, -jnp.inf)
        rest = jnp.cumsum(values, axis=1) / jnp.arange(1, length + 1)[:, None, None]
    else:
        rest = jnp.broadcast_to(values.mean(1, keepdims=True), v.shape)
    weights = jax.nn.softmax(scores).astype(v.dtype)
    found = jnp.einsum("bhul,blhd->bhud", weights, v, preferred_element_type=jnp.float32)
    rows, which = jnp.arange(batch)[:, None, None], jnp.arange(heads)[:, None]
    return rest.at[rows, chosen, which].set(found).astype(q.dtype)


def attention_flops(heads: int, head_dim: int, length: int, factor: int) -> int:
    """Of one sequence: 2 head_dim per head, query and drawn key, and 4 per query that attends and key."""
    u = attending(factor, length)
    return 2 * head_dim * heads * length * u + 4 * head_dim * heads * u * length


def distilled(w: Any, x: jax.Array) -> jax.Array:
    """x `[batch, length, d_model]` at every other position, the first among them: `[batch, ceil(length / 2), d_model]`.

    w: taps `[3, d_model, d_model]`, the first for the position before, and bias `[d_model]`.
    """
    near = jnp.stack([jnp.roll(x, 1 - tap, axis=1) for tap in range(TAPS)], axis=2)
    y = jax.nn.elu(contract(near, w["taps"], dims=2) + w["bias"])
    y = jnp.pad(y, [(0, 0), (1, 1), (0, 0)], constant_values=-jnp.inf)
    return jnp.stack([y[:, i : i + x.shape[1] : 2] for i in range(TAPS)]).max(0)


def weights(config: ModelConfig) -> WeightTree:
    """Those of every layer as of a model's, `block_0` .., and `distil_0` .. between them. ConfigError as `checked`."""
    c = checked(config)
    found: dict[str, Any] = {f"block_{i}": transformer.block_weights(c, layer) for i, layer in enumerate(c.layers)}
    std = c.stream.hidden_std(TAPS * c.d_model)
    taps = Weight((TAPS, c.d_model, c.d_model), ("tap", "embed", "distilled"), "matrix", inputs=2, std=std)
    bias = Weight((c.d_model,), ("embed",), "vector")
    return found | {f"distil_{i}": {"taps": taps, "bias": bias} for i in range(c.n_layers - 1)}


def init(config: ModelConfig, key: jax.Array) -> dict[str, Any]:
    """Initial values of `weights`."""
    return transformer.drawn(config.resolved(), weights(config), key)


def apply(config: ModelConfig, params: dict[str, Any], x: jax.Array, factor: int, key: jax.Array) -> jax.Array:
    """The stream x `[batch, length, d_model]`, positions in it, behind the last layer: its length is halved, rounded
    up, as often as there are layers but one. ConfigError for layers beside `Attention` and `Dense`, as `checked`."""
    c, declared = checked(config), weights(config)
    for i, layer in enumerate(c.layers):
        w = transformer.ready(declared[f"block_{i}"], params[f"block_{i}"], c.dtype)
        assert isinstance(layer.mixer, Attention) and isinstance(layer.channel, Dense) and isinstance(c.wired, PreNorm)
        q, k, v = layer.mixer.projected(c.stream, w["attention"], norm(c.stream, w["attention_norm"], x))
        u = attending(factor, x.shape[1])
        drawn = draw(jax.random.fold_in(key, i), x.shape[1], u)
        y = attention(q, k, v, drawn, u, layer.mixer.scale(c.stream))
        y = y.reshape(*x.shape[:2], k.shape[2], -1, y.shape[-1])
        x = x + contract(y, w["attention"]["out"], dims=3)
        x = x + c.wired.transformed(c.stream, layer, w, x, jnp.zeros(x.shape[:2], jnp.int32))[0]
        if i < c.n_layers - 1:
            between = declared[f"distil_{i}"]
            x = distilled(transformer.ready(between, params[f"distil_{i}"], c.dtype), x)
    return x


def flops(config: ModelConfig, length: int, factor: int) -> int:
    """Forward FLOPs of one sequence of `length` tokens through `apply`."""
    c, total = checked(config), 0
    for i, layer in enumerate(c.layers):
        assert isinstance(layer.mixer, Attention)
        mixer = layer.mixer.resolved(c.stream)
        between = {f"distil_{i}": weights(c)[f"distil_{i}"]} if i < c.n_layers - 1 else {}
        declared = walk({"block": transformer.block_weights(c, layer), **between})
        total += length * sum(w.flops_per_token for _, w in declared)
        total += attention_flops(mixer.heads or 0, mixer.head_dim or 0, length, factor)
        length = (length + 1) // 2
    return total
