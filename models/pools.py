"""Attention and feed-forward blocks in pools of their own (Step-3, arXiv:2507.19427, "AFD"): two programs that exchange
the stream of every token, each with the weights of its own parts alone.

The attention pool keeps the tables, the mixers and what these keep of the past; it sends x `[batch, seq, d_model]` to
the channel pool and gets back what the channel adds: 2 d_model numbers per token and layer. The result is the model's.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from models import transformer
from models.config import Layer, ModelConfig
from models.errors import require
from models.wiring.prenorm import PreNorm


class Pools(NamedTuple):
    """The parameters of each pool, of unrolled layers."""

    attention: transformer.Params
    channels: transformer.Params


def pooled(config: ModelConfig, params: transformer.Params) -> Pools:
    """`params` divided; ConfigError for a wiring other than `PreNorm`, which alone has a sum to divide at."""
    c = config.resolved()
    problem, fix = f"is {type(c.wired).__name__}, whose layers pools do not divide", "use PreNorm"
    require(isinstance(c.wired, PreNorm), "model.wiring", problem, fix)
    attention, channels = dict(transformer.unstack_layers(params, c)), {}
    for i, layer in enumerate(c.layers):
        name = f"block_{i}"
        if layer.channel is not None:
            mine = {slot: w for slot, w in attention[name].items() if layer.channel.slot in slot}
            channels[name] = mine
            attention[name] = {slot: w for slot, w in attention[name].items() if slot not in mine}
    return Pools(attention, channels)


def apply(config: ModelConfig, pools: Pools, tokens: jax.Array) -> tuple[jax.Array, int]:
    """(logits `[batch, seq, vocab]` float32 of tokens `[batch, seq]`, bytes that passed between the pools)."""
    c, sent = dataclasses.replace(config.resolved(), scan_layers=False), 0
    at = jnp.arange(tokens.shape[1])[None]
    x = _embedded(c, pools.attention, tokens, at)
    for i, layer in enumerate(c.layers):
        x = _mixed(c, layer, pools.attention[f"block_{i}"], x, at, tokens)
        if layer.channel is not None:
            y = _transformed(c, layer, pools.channels[f"block_{i}"], x, tokens)
            sent += x.nbytes + y.nbytes
            x = _added(x, y)
    return _read(c, pools.attention, x), sent


@partial(jax.jit, static_argnums=0)
def _embedded(c: ModelConfig, params: Any, tokens: jax.Array, at: jax.Array) -> jax.Array:
    return transformer.embed(c, params, tokens, at)


@partial(jax.jit, static_argnums=(0, 1))
def _mixed(c: ModelConfig, layer: Layer, w: Any, x: jax.Array, at: jax.Array, tokens: jax.Array) -> jax.Array:
    return transformer.run_layer(c, Layer(layer.mixer, None), w, x, at, None, tokens)[0]


@partial(jax.jit, static_argnums=(0, 1))
def _transformed(c: ModelConfig, layer: Layer, w: Any, x: jax.Array, tokens: jax.Array) -> jax.Array:
    assert isinstance(c.wired, PreNorm) and layer.channel is not None
    declared = transformer.block_weights(c, layer)
    ready = transformer.ready({slot: declared[slot] for slot in w}, w, c.dtype)
    return c.wired.transformed(c.stream, layer, ready, x, tokens)[0]


@jax.jit
def _added(x: jax.Array, y: jax.Array) -> jax.Array:
    return x + y


@partial(jax.jit, static_argnums=0)
def _read(c: ModelConfig, params: Any, x: jax.Array) -> jax.Array:
    return transformer.logits(c, *transformer.unembed(c, params, x))
