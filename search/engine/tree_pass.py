"""One pass of a model over the nodes of a tree of guesses: each sees the text before the tree and what is above it.

Keys and values of the nodes stay outside of the cache until it is known which of them stand.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import cast

import jax
import jax.numpy as jnp

from models import cache, transformer
from models.cache import Blocks, Layers, QuantizedCache, Store, Stored
from models.config import ModelConfig
from models.context import Lead
from models.past import Arrays, Past, Read, keys_and_values
from models.span import Span
from models.transformer import Params, logits
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
    before (None: there are none yet, and they will be kept as the blocks are). pages, prefixes: the rows' shared
    prefixes (None: they have none).
    """
    c = config.resolved()
    slots, _, total = path.shape
    int8 = any(isinstance(x, QuantizedCache) for block in blocks for layer in block for x in layer.values())
    held = nodes if nodes is not None else cache.empty(c, slots, total, int8)
    assert nodes is not None or depth.shape[1] == total, "without earlier nodes a pass covers the whole tree"
    depths, shared = depth if nodes is None else None, prefixes or ()
    pasts = [
        TreePast(
            positions=(start + length)[:, None] + depth,
            pages=pages[i] if pages is not None else {},
            prefixes=shared if pages is not None else (),
            blocks=tuple(block[i] for block in blocks),
            nodes=held[i],
            start=start, length=length, depth=depth, depths=depths, path=path, place=place,
        )
        for i in range(c.n_layers)
    ]  # fmt: skip
    output = transformer.forward(c, params, tokens, pasts[0].positions, pasts=pasts)
    after = cast(tuple[TreePast, ...], output.pasts)
    return logits(c, output.hidden, output.head), tuple(past.nodes for past in after)


@dataclass(frozen=True)
class TreePast(Past):
    """One layer of rows with a tree of guesses after their text: pages of shared prefixes, own blocks, then nodes."""

    positions: jax.Array
    pages: Store
    prefixes: Prefixes
    blocks: tuple[Store, ...]
    nodes: Store
    start: jax.Array
    length: jax.Array
    depth: jax.Array
    depths: jax.Array | None
    path: jax.Array
    place: jax.Array | int

    def attend(
        self, q: jax.Array, new: Arrays, span: Span, read: Read = keys_and_values, lead: Lead | None = None
    ) -> tuple[jax.Array, TreePast]:  # fmt: skip
        """Over the text before the tree, and the nodes on each node's path."""
        keys, values = read(new)
        kv_heads, group = keys.shape[2], q.shape[2] // keys.shape[2]
        queries = cache.split_queries(q, kv_heads)
        at = self.length[:, None] + self.depth  # [slots, m]: each query's place in its row's own text
        begin = self.start[:, None, None]
        part = cache.nothing(queries, values.shape[-1])
        positions = jnp.tile(self.start[:, None] + at, (1, group))
        for groups in self.prefixes:
            part = cache.shared_prefix(queries, positions, self.pages, groups, span, part, read)
        first = 0
        for block in self.blocks:
            index = first + jnp.arange(cache.length_of(block))
            visible = jnp.broadcast_to((index < self.length[:, None])[:, None], (*at.shape, len(index)))
            if span.window is not None:
                visible = visible & span.near(begin + at[..., None], begin + index)
            own = cache.own_block(queries, block, jnp.tile(visible, (1, group, 1)), span, read)
            part = cache.merge(part, own)
            first += len(index)
        nodes = {name: _put(old, new[name], self.place) for name, old in self.nodes.items()}
        visible = self.path
        if span.window is not None:
            assert self.depths is not None, "a window needs all nodes in one pass"
            before = begin + self.length[:, None, None]
            visible = visible & span.near(before + self.depth[..., None], before + self.depths[:, None, :])
        own = cache.own_block(queries, nodes, jnp.tile(visible, (1, group, 1)), span, read)
        part = cache.with_lead(cache.merge(part, own), lead, span)
        y = cache.join_queries(cache.finish(part), q.shape[1]).astype(q.dtype)
        return y, dataclasses.replace(self, nodes=nodes)


def commit(blocks: Blocks, nodes: Layers, path: jax.Array, count: jax.Array, length: jax.Array) -> Blocks:
    """The rows' caches with the first `count` `[slots]` nodes of each path `[slots, t]` written at `length`."""
    index = jnp.arange(path.shape[1])
    at = jnp.where(index < count[:, None], length[:, None] + index, NOWHERE)

    def taken(x: Stored) -> Stored:
        return jax.tree.map(lambda x: jnp.take_along_axis(x, path[:, None, :, None], axis=2).swapaxes(1, 2), x)

    found = [{name: taken(x) for name, x in layer.items()} for layer in nodes]
    first, written = 0, []
    for block in blocks:
        written.append(tuple(cache.write(old, new, cache.write_block, at - first) for old, new in zip(block, found)))
        first += max(map(cache.length_of, block))
    return tuple(written)


def chain_path(slots: int, nodes: int) -> tuple[jax.Array, jax.Array]:
    """(depth `[slots, nodes]`, path `[slots, nodes, nodes]`) of tokens that follow one another."""
    depth = jnp.broadcast_to(jnp.arange(nodes, dtype=jnp.int32), (slots, nodes))
    return depth, jnp.broadcast_to(jnp.tril(jnp.ones((nodes, nodes), bool)), (slots, nodes, nodes))


def _put(nodes: Stored, new: jax.Array, place: jax.Array | int) -> Stored:
    """nodes `[slots, kv_heads, t, head_dim]` with new `[slots, m, kv_heads, head_dim]` from `place` on."""
    added = cache.stored_as(nodes, new.swapaxes(1, 2))
    return jax.tree.map(lambda old, x: jax.lax.dynamic_update_slice_in_dim(old, x, place, axis=2), nodes, added)
