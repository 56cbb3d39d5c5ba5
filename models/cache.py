"""Cached attention: keys and values of shared prefixes in pages, and of every row's own suffix in blocks.

A softmax over keys that lie in different places is computed in parts, each a running maximum, a sum and a weighted
value (`Partial`), merged by log-sum-exp (Dao et al. 2022; Juravsky et al. 2024 for shared prefixes). Keys are taken in
tiles of fixed sizes in the order of their positions, and a masked key adds exactly 0. So what a query gets does not
depend, to the last bit, on how many blocks a row's cache has, on which tiles of other prompts lie between its own, or
on the other rows; only the shape of the products can change it.

Keys and values are kept in the compute dtype, or in int8 with a scale per token and head (`QuantizedCache`). Integers
are multiplied as they lie and the scales put on scores and weights: one product per key instead of one per entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from models.config import ModelConfig
from models.context import Lead
from models.kept import Kept
from models.past import Arrays, Read, keys_and_values, zeros
from models.quantized import dequantize_rows, quantize_rows
from models.span import Span

MASKED = -1e30  # below every score, and finite, so that MASKED - MASKED is 0
Ints = Any  # an int32 array: jax.Array inside of a program, numpy.ndarray where the host makes it


class QuantizedCache(NamedTuple):
    """Keys or values in int8: values `[..., head_dim]` int8, scale `[..., 1]` float32 per token and head."""

    values: jax.Array
    scale: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the keys or values."""
        return self.values.shape

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays."""
        return self.values.nbytes + self.scale.nbytes


Stored = jax.Array | QuantizedCache  # keys or values as a cache keeps them


def quantize_cache(x: jax.Array) -> QuantizedCache:
    """Keys or values `[..., head_dim]` in int8; each entry is off by at most 1 / 254 of its vector's largest."""
    return QuantizedCache(*quantize_rows(x))


def dequantize_cache(cache: QuantizedCache, dtype: Any = jnp.float32) -> jax.Array:
    """`[..., head_dim]` in `dtype`."""
    return dequantize_rows(cache.values, cache.scale, dtype)


Store = Mapping[str, Any]  # what one layer keeps, by the names of `Kept`
Layers = tuple[Store, ...]  # of all layers: pages `[pages, heads, page, features]`, rows `[rows, heads, length, ...]`
Blocks = tuple[Layers, ...]  # the rows' own caches, one Layers per stretch of tokens


class Pool(NamedTuple):
    """Pages: what all layers keep of their tokens, and of the row after the last token of each `[pages, *shape]`."""

    pages: Layers
    states: Layers


class Partial(NamedTuple):
    """A softmax over some of the keys: `highest`, `total` `[..., queries]`, `value` `[..., queries, head_dim]`.

    All float32; value and total are relative to exp(highest), so the result is value / total.
    """

    highest: jax.Array
    total: jax.Array
    value: jax.Array


class Groups(NamedTuple):
    """Rows that read one prefix together; int32 arrays, padded to one shape.

    rows `[groups, lanes]`: row of each lane (out of range: no row); pages `[groups, tiles]`: where the prefix lies;
    tiles, length `[groups]`: pages in use and tokens in them; count `[]`: groups in use.
    """

    rows: Ints
    pages: Ints
    tiles: Ints
    length: Ints
    count: Ints


class Tiles(NamedTuple):
    """Pages that the tokens of one prefill chunk attend to, `[tiles]` int32 each, `count` `[]` of them in use.

    page: where it lies; segment: whose it is; base: position of its first key; filled: keys in it.
    """

    page: Ints
    segment: Ints
    base: Ints
    filled: Ints
    count: Ints


def kept(config: ModelConfig, per: Literal["token", "row"]) -> tuple[dict[str, Kept], ...]:
    """What every layer keeps per token, or per row."""
    stream = config.stream
    made = {layer: layer.mixer.kept(stream) for layer in dict.fromkeys(config.layers)}
    return tuple({name: k for name, k in made[layer].items() if k.per == per} for layer in config.layers)


def empty(config: ModelConfig, leading: int, length: int, quantized: bool = False) -> Layers:
    """Zeros `[leading, heads, length, features]` for what all layers keep per token, in the compute dtype or int8."""

    def zeros(k: Kept) -> Stored:
        heads, features = k.shape
        shape = (leading, heads, length, features)
        if quantized and k.int8:
            return QuantizedCache(jnp.zeros(shape, jnp.int8), jnp.zeros((*shape[:-1], 1), jnp.float32))
        return jnp.zeros(shape, jnp.dtype(k.dtype or config.dtype))

    return tuple({name: zeros(k) for name, k in layer.items()} for layer in kept(config, "token"))


def empty_states(config: ModelConfig, leading: int) -> Layers:
    """Zeros `[leading, *shape]` for what all layers keep per row."""
    return tuple(zeros(layer, leading, config.dtype) for layer in kept(config, "row"))


def keeps_states(config: ModelConfig) -> bool:
    """Whether any layer keeps something per row."""
    return any(kept(config, "row"))


def windowed(config: ModelConfig) -> bool:
    """Whether any layer reads fewer tokens than it keeps."""
    return any(k.window is not None for layer in kept(config, "token") for k in layer.values())


def empty_pool(config: ModelConfig, pages: int, page_size: int, quantized: bool = False) -> Pool:
    """Zeros for so many pages."""
    return Pool(empty(config, pages, page_size, quantized), empty_states(config, pages))


def length_of(store: Store) -> int:
    """Tokens that a layer's store has room for; 0 where it keeps nothing per token."""
    return next((x.shape[2] for x in store.values()), 0)


def split_queries(q: jax.Array, kv_heads: int) -> jax.Array:
    """q `[rows, n, heads, head_dim]` as `[rows, kv_heads, heads / kv_heads * n, head_dim]`."""
    rows, n, heads, head_dim = q.shape
    q = q.reshape(rows, n, kv_heads, heads // kv_heads, head_dim)
    return q.transpose(0, 2, 3, 1, 4).reshape(rows, kv_heads, -1, head_dim)


def join_queries(y: jax.Array, n: int) -> jax.Array:
    """The inverse of `split_queries`: `[rows, kv_heads, group * n, head_dim]` -> `[rows, n, heads, head_dim]`."""
    rows, kv_heads, _, head_dim = y.shape
    return y.reshape(rows, kv_heads, -1, n, head_dim).transpose(0, 3, 1, 2, 4).reshape(rows, n, -1, head_dim)


def nothing(q: jax.Array, features: int) -> Partial:
    """The softmax over no keys, for queries `[..., head_dim]` and values of so many features."""
    empty = jnp.zeros(q.shape[:-1], jnp.float32)
    return Partial(empty + MASKED, empty, jnp.zeros((*q.shape[:-1], features), jnp.float32))


def merge(a: Partial, b: Partial) -> Partial:
    """The softmax over the keys of both."""
    highest = jnp.maximum(a.highest, b.highest)
    of_a, of_b = jnp.exp(a.highest - highest), jnp.exp(b.highest - highest)
    value = a.value * of_a[..., None] + b.value * of_b[..., None]
    return Partial(highest, a.total * of_a + b.total * of_b, value)


def with_lead(part: Partial, lead: Lead | None, span: Span) -> Partial:
    """`part` of rows' tokens `[rows, kv_heads, m]` that also see `lead`."""
    if lead is None:
        return part
    q = split_queries(lead.q, lead.k.shape[1])
    keys, values = (x.astype(q.dtype) for x in lead[1:])
    scores = jnp.einsum("skmd,lkd->skml", q, keys, preferred_element_type=jnp.float32)
    weights, highest = _weights(scores, jnp.ones((), bool), span)
    value = jnp.einsum("skml,lkd->skmd", weights.astype(q.dtype), values, preferred_element_type=jnp.float32)
    return merge(part, Partial(highest, weights.sum(-1), value))


def finish(part: Partial) -> jax.Array:
    """The weighted mean of the values; 0 where no key was visible."""
    return part.value / jnp.maximum(part.total, 1e-30)[..., None]


def stored_as(place: Stored, new: Stored) -> Stored:
    """New keys or values as `place` keeps its own."""
    if isinstance(place, QuantizedCache):
        return new if isinstance(new, QuantizedCache) else quantize_cache(new)
    assert not isinstance(new, QuantizedCache), "what was rounded to int8 stays in int8"
    return new.astype(place.dtype)


def write_block(block: Stored, new: Stored, at: jax.Array) -> Stored:
    """block `[rows, kv_heads, length, head_dim]` with new `[rows, n, kv_heads, head_dim]` at `at` `[rows, n]`.

    Places outside of the block are dropped.
    """
    rows, heads = jnp.arange(block.shape[0])[:, None, None], jnp.arange(block.shape[1])
    at = jnp.where(at < 0, block.shape[2], at)[..., None]  # a negative index would count from the end
    # One index per head: XLA rewrites the scatter of a single row in a way that copies the whole block.
    return jax.tree.map(lambda old, x: old.at[rows, heads, at].set(x, mode="drop"), block, stored_as(block, new))


def write_pages(pages: Stored, new: jax.Array, page: jax.Array, offset: jax.Array) -> Stored:
    """pages `[pages, kv_heads, page, head_dim]` with new `[n, kv_heads, head_dim]` at page, offset `[n]`.

    Pages outside of the pool are dropped.
    """
    return jax.tree.map(lambda old, x: old.at[page, :, offset].set(x, mode="drop"), pages, stored_as(pages, new))


def write(store: Store, new: Arrays, writer: Callable[..., Stored], *where: jax.Array) -> Store:
    """A layer's store with what it keeps of new tokens, by `write_block` or `write_pages`."""
    return {name: writer(x, new[name], *where) for name, x in store.items()}


def _factors(x: Stored, dtype: Any) -> tuple[jax.Array, jax.Array | float]:
    """(what is multiplied `[..., keys, head_dim]`, what each key's products count `[..., 1, keys]`)."""
    if isinstance(x, QuantizedCache):
        return x.values.astype(dtype), x.scale.mT  # exact: bfloat16 holds every integer of 8 bits
    return x, 1.0


def features(x: Stored, count: int) -> Stored:
    """The first `count` features of every vector that a layer keeps."""
    if isinstance(x, QuantizedCache):
        return QuantizedCache(x.values[..., :count], x.scale)
    return x[..., :count]


def own_block(q: jax.Array, store: Store, visible: jax.Array, span: Span, read: Read = keys_and_values) -> Partial:
    """Every row's queries over one block of its own keys.

    q `[rows, kv_heads, m, head_dim]`; store `[rows, heads, block, features]`; visible `[rows, m, block]` bool.
    """
    k, v = read(store)
    keys, per_key = _factors(k, q.dtype)
    values, per_value = _factors(v, q.dtype)
    if q.shape[2] == 1:  # matrix-vector products, which XLA's CPU backend streams; as matrices they are copied first
        scores = jnp.einsum("skd,skld->skl", q[:, :, 0], keys, preferred_element_type=jnp.float32)[:, :, None]
        weights, highest = _weights(scores * per_key, visible[:, None], span)
        chosen = (weights * per_value)[:, :, 0].astype(values.dtype)
        value = jnp.einsum("skl,skld->skd", chosen, values, preferred_element_type=jnp.float32)[:, :, None]
    else:
        scores = jnp.einsum("skmd,skld->skml", q, keys, preferred_element_type=jnp.float32)
        weights, highest = _weights(scores * per_key, visible[:, None], span)
        chosen = (weights * per_value).astype(values.dtype)
        value = jnp.einsum("skml,skld->skmd", chosen, values, preferred_element_type=jnp.float32)
    return Partial(highest, weights.sum(-1), value)


def shared_prefix(
    q: jax.Array,
    positions: jax.Array,
    store: Store,
    groups: Groups,
    span: Span,
    start: Partial,
    read: Read = keys_and_values,
) -> Partial:
    """Rows' queries over the prefixes that they share, all rows of a group in one product per tile.

    q `[rows, kv_heads, m, head_dim]`, positions `[rows, m]`; store `[pages, heads, page, features]`; `start`: what rows
    outside of every group get.
    """
    lanes, (_, kv_heads, m, head_dim) = groups.rows.shape[1], q.shape
    size = length_of(store)

    def group(i: jax.Array, done: Partial) -> Partial:
        rows = groups.rows[i]
        queries = jnp.take(q, rows, axis=0, mode="clip").swapaxes(0, 1).reshape(kv_heads, lanes * m, head_dim)
        at = jnp.take(positions, rows, axis=0, mode="clip").reshape(lanes * m, 1)

        def tile(j: jax.Array, part: Partial) -> Partial:
            key = j * size + jnp.arange(size)
            visible = jnp.broadcast_to(key < groups.length[i], (lanes * m, size))
            if span.window is not None:
                visible = visible & span.near(at, key)
            return _next_tile(part, queries, store, groups.pages[i, j], visible, span, read)

        part = jax.lax.fori_loop(0, groups.tiles[i], tile, nothing(queries, start.value.shape[-1]))

        def spread(whole: jax.Array, mine: jax.Array) -> jax.Array:
            mine = mine.reshape(kv_heads, lanes, m, *mine.shape[2:]).swapaxes(0, 1)
            return whole.at[rows].set(mine, mode="drop")

        return jax.tree.map(spread, done, part)

    return jax.lax.fori_loop(0, groups.count, group, start)


def paged_chunk(
    q: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    store: Store,
    tiles: Tiles,
    span: Span,
    read: Read = keys_and_values,
    lead: Lead | None = None,
) -> jax.Array:
    """Attention of a packed chunk over the pages of its segments: `[n, heads, value features]` float32.

    q `[n, heads, head_dim]`, positions and segments `[n]`; store `[pages, heads, page, features]` already holds what
    the layer keeps of the chunk's own tokens.
    """
    k, v = jax.eval_shape(read, store)
    n, kv_heads = q.shape[0], k.shape[1]
    queries = split_queries(q[None], kv_heads)[0]  # [kv_heads, group * n, head_dim]
    group = queries.shape[1] // n

    def tile(i: jax.Array, part: Partial) -> Partial:
        index = jnp.arange(k.shape[2])
        visible = (segments[:, None] == tiles.segment[i]) & (index < tiles.filled[i])
        visible = jnp.tile(visible & span.visible(positions[:, None], tiles.base[i] + index), (group, 1))
        return _next_tile(part, queries, store, tiles.page[i], visible, span, read)

    part = jax.lax.fori_loop(0, tiles.count, tile, nothing(queries, v.shape[-1]))
    part = with_lead(jax.tree.map(lambda x: x[None], part), lead, span)
    return join_queries(finish(part), n)[0]


def _next_tile(
    part: Partial,
    q: jax.Array,
    store: Store,
    page: jax.Array,
    visible: jax.Array,
    span: Span,
    read: Read,
) -> Partial:
    """`part` with one more page: q `[kv_heads, m, head_dim]`, store of all pages, visible `[m, page]`."""
    tile = jax.tree.map(lambda pages: jax.lax.dynamic_index_in_dim(pages, page, 0, keepdims=False), store)
    (keys, per_key), (values, per_value) = (_factors(x, q.dtype) for x in read(tile))
    scores = jnp.einsum("kmd,ktd->kmt", q, keys, preferred_element_type=jnp.float32)
    weights, highest = _weights(scores * per_key, visible[None], span, part.highest)
    before = jnp.exp(part.highest - highest)
    chosen = (weights * per_value).astype(values.dtype)
    value = jnp.einsum("kmt,ktd->kmd", chosen, values, preferred_element_type=jnp.float32)
    return Partial(highest, part.total * before + weights.sum(-1), part.value * before[..., None] + value)


def _weights(
    scores: jax.Array, visible: jax.Array, span: Span, floor: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """exp(score - highest) `[..., keys]`, exactly 0 where not visible, and the highest score, `floor` at least."""
    scores = span.scale * scores
    if span.softcap is not None:
        scores = span.softcap * jnp.tanh(scores / span.softcap)
    scores = jnp.where(visible, scores, MASKED)
    highest = scores.max(-1)
    if floor is not None:
        highest = jnp.maximum(highest, floor)
    return jnp.where(visible, jnp.exp(scores - highest[..., None]), 0.0), highest
