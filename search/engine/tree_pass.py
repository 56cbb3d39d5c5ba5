"""One pass of a model over the nodes of a tree of guesses: each sees the text before the tree and what is above it.

Keys and values of the nodes stay outside of the cache until it is known which of them stand.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from models import cache
from models.attention import Attend, attention_scale
from models.cache import Blocks, Layers, Limits, Stored
from models.config import ModelConfig
from models.transformer import Params, hidden_and_head, logits
from search.engine.decode import Prefixes

NOWHERE = 2**30  # a place that no block has


def forward_tree(
    config: ModelConfig,
    params: Params,
    blocks: Blocks,
    tokens: jax.Array,
    start: jax.Array,
    length: jax.Array,
    depth: jax.Array,
    path: jax.Array,
    *,
    nodes: Layers | None = None,
    place: jax.Array | int = 0,
    pages: Layers | None = None,
    prefixes: Prefixes | None = None,
) -> tuple[jax.Array, Layers]:
    """Logits `[slots, m, vocab]` float32 after m nodes, and the keys and values of all nodes.

    tokens, depth `[slots, m]` int32: nodes `place` to `place + m` of a tree of t; path `[slots, m, t]` bool: which of
    all nodes each of them sees, itself included. The tree stands after `length` tokens of a row's own, the first of
    which is at position `start`; both `[slots]`. nodes: keys and values `[slots, kv_heads, t, head_dim]` of the nodes
    before (None: there are none yet). pages, prefixes: the rows' shared prefixes (None: they have none).
    """
    c = config.resolved()
    slots, _, total = path.shape
    held = [nodes if nodes is not None else cache.empty(c, slots, total, blocks[0].quantized)]
    assert nodes is not None or depth.shape[1] == total, "without earlier nodes a pass covers the whole tree"
    depths = depth if nodes is None else None
    scale = attention_scale(c)

    def attend(
        layer: int, q: jax.Array, k: jax.Array, v: jax.Array, *, window: int | None = None, softcap: float | None = None
    ) -> jax.Array:
        limits, kv_heads = Limits(scale, window, softcap), k.shape[2]
        group = q.shape[2] // kv_heads
        queries = cache.split_queries(q, kv_heads)
        at = length[:, None] + depth  # [slots, m]: each query's place in its row's own text
        part = cache.nothing(queries)
        if pages is not None and prefixes is not None:
            positions = jnp.tile(start[:, None] + at, (1, group))
            for groups in prefixes:
                part = cache.shared_prefix(queries, positions, pages.k[layer], pages.v[layer], groups, limits, part)
        first = 0
        for block in blocks:
            index = first + jnp.arange(block.k[layer].shape[2])
            visible = jnp.broadcast_to((index < length[:, None])[:, None], (*at.shape, len(index)))
            if window is not None:
                visible = visible & (index > at[..., None] - window)
            own = cache.own_block(queries, block.k[layer], block.v[layer], jnp.tile(visible, (1, group, 1)), limits)
            part = cache.merge(part, own)
            first += len(index)
        keys, values = (_put(old, new, place) for old, new in ((held[0].k[layer], k), (held[0].v[layer], v)))
        held[0] = held[0].replace(layer, keys, values)
        visible = path
        if window is not None:
            assert depths is not None, "a window needs all nodes in one pass"
            visible = visible & (depths[:, None, :] > depth[..., None] - window)
        own = cache.own_block(queries, keys, values, jnp.tile(visible, (1, group, 1)), limits)
        return cache.join_queries(cache.finish(cache.merge(part, own)), q.shape[1]).astype(q.dtype)

    attends: list[Attend] = [partial(attend, layer) for layer in range(c.n_layers)]
    positions = (start + length)[:, None] + depth
    hidden, head = hidden_and_head(c, params, tokens, positions, None, attends)
    return logits(c, hidden, head), held[0]


def commit(blocks: Blocks, nodes: Layers, path: jax.Array, count: jax.Array, length: jax.Array) -> Blocks:
    """The rows' caches with the first `count` `[slots]` nodes of each path `[slots, t]` written at `length`."""
    index = jnp.arange(path.shape[1])
    at = jnp.where(index < count[:, None], length[:, None] + index, NOWHERE)

    def taken(x: Stored) -> Stored:
        return jax.tree.map(lambda x: jnp.take_along_axis(x, path[:, None, :, None], axis=2).swapaxes(1, 2), x)

    first, written = 0, []
    for block in blocks:
        k = tuple(cache.write_block(old, taken(new), at - first) for old, new in zip(block.k, nodes.k))
        v = tuple(cache.write_block(old, taken(new), at - first) for old, new in zip(block.v, nodes.v))
        written.append(Layers(k, v))
        first += block.k[0].shape[2]
    return tuple(written)


def chain_path(slots: int, nodes: int) -> tuple[jax.Array, jax.Array]:
    """(depth `[slots, nodes]`, path `[slots, nodes, nodes]`) of tokens that follow one another."""
    depth = jnp.broadcast_to(jnp.arange(nodes, dtype=jnp.int32), (slots, nodes))
    return depth, jnp.broadcast_to(jnp.tril(jnp.ones((nodes, nodes), bool)), (slots, nodes, nodes))


def _put(nodes: Stored, new: jax.Array, place: jax.Array | int) -> Stored:
    """nodes `[slots, kv_heads, t, head_dim]` with new `[slots, m, kv_heads, head_dim]` from `place` on."""
    added = cache.stored_as(nodes, new.swapaxes(1, 2))
    return jax.tree.map(lambda old, x: jax.lax.dynamic_update_slice_in_dim(old, x, place, axis=2), nodes, added)
