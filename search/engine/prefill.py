"""Prefill: prompts of any lengths, cut and packed into chunks of one length, their keys and values put into pages."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from models import cache, transformer
from models.cache import Pool, Store, Tiles
from models.config import ModelConfig
from models.context import Lead
from models.errors import require
from models.kept import Kept
from models.past import Arrays, Past, Read, Step, keys_and_values, reach
from models.span import Span
from models.transformer import Params, logits
from search.engine.precision import computed
from search.engine.program import Program


@dataclass(frozen=True)
class Region:
    """Consecutive positions of one sequence in consecutive pages: the first `base + i` lies at place i of the pages."""

    base: int  # position of the first token of the first page
    pages: tuple[int, ...]  # places in the pool


@dataclass(frozen=True)
class Segment:
    """Tokens of one sequence that a chunk reads.

    tokens: what to read, from position `start` on, into the last region. regions: where everything up to the last of
    these tokens lies, in order, each ending where the next begins. targets: the tokens to score, one per token.
    """

    tokens: Sequence[int]
    start: int
    regions: tuple[Region, ...]
    targets: Sequence[int] = ()

    def page_of(self, position: int, page_size: int) -> int:
        """The page in which an earlier token of the sequence lies."""
        region = next(region for region in reversed(self.regions) if region.base <= position)
        return region.pages[(position - region.base) // page_size]

    def tiles(self, page_size: int) -> list[tuple[int, int, int]]:
        """(page, base, filled) of every page that the tokens may attend to, in order of positions."""
        stop = self.start + len(self.tokens)
        ends = [*(region.base for region in self.regions[1:]), stop]
        found = []
        for region, end in zip(self.regions, ends, strict=True):
            for i, page in enumerate(region.pages):
                base = region.base + i * page_size
                if base < end:
                    found.append((page, base, min(page_size, end - base)))
        return found


def tile_room(max_len: int, chunk: int, page_size: int) -> int:
    """Pages that one chunk can attend to: four full contexts and a page for each of its tokens."""
    return 4 * -(-max_len // page_size) + chunk


@dataclass(frozen=True)
class Layout:
    """How chunks are laid out: `chunk` tokens, in blocks of `align` of one sequence each where states are carried.

    A block ends where the positions are a multiple of align, so that it ends inside of a page or with it. Models that
    keep no state have align 1: nothing is wasted.
    """

    chunk: int
    page_size: int
    align: int = 1

    @staticmethod
    def of(model: ModelConfig, chunk: int, page_size: int) -> Layout:
        """The layout for a model as it runs; ConfigError where states would go through a chunk token by token."""
        sizes = [layer.mixer.block for layer in model.layers if layer.mixer.block]
        both = math.gcd(chunk, page_size)
        fitting = [n for n in range(1, both + 1) if both % n == 0 and n <= min(sizes)] if sizes else [1]
        problem = f"is {chunk}, which with pages of {page_size} cuts blocks of states into single tokens"
        fix = f"use a multiple of engine.page_size, such as {-(-chunk // page_size) * page_size}"
        single = max(fitting) == 1 and min(sizes, default=1) > 1 and chunk > 1 and page_size > 1
        require(not single, "engine.prefill_chunk", problem, fix)
        return Layout(chunk, page_size, max(fitting))

    def takes(self, start: int, tokens: int) -> int:
        """Tokens of a chunk that a segment of so many tokens from position `start` on takes up."""
        first, last = start // self.align, (start + tokens - 1) // self.align
        return (last - first + 1) * self.align if tokens else 0

    def most(self, start: int, room: int) -> int:
        """Tokens from position `start` on that fit into `room`, a multiple of `align`."""
        return max(0, room - start % self.align)


CONTINUES, FROM_NOTHING = -2, -1  # instead of the page that a block's state comes from


@dataclass(frozen=True)
class Chunk:
    """One packed chunk, numpy: tokens, positions, segments, page, offset, targets `[chunk]` int32, and its tiles.

    before, after `[chunk / align]` int32: the page with the state that each block begins with (or CONTINUES,
    FROM_NOTHING), and the page that its own goes to. index: places of the segments' tokens, in order.
    """

    tokens: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    page: np.ndarray
    offset: np.ndarray
    targets: np.ndarray
    before: np.ndarray
    after: np.ndarray
    tiles: Tiles
    index: np.ndarray

    @property
    def inputs(self) -> tuple:
        """What the program reads of it."""
        arrays = self.tokens, self.positions, self.segments, self.page, self.offset, self.targets
        return *arrays, self.before, self.after, self.tiles


def pack(segments: Sequence[Segment], layout: Layout, room: int, pool: int) -> Chunk:
    """Lay the segments one after the other in a chunk; they must fit. `pool`: pages that exist."""
    chunk, page_size, align = layout.chunk, layout.page_size, layout.align
    tokens, positions, owner, offset, targets = (np.zeros(chunk, np.int32) for _ in range(5))
    owner[:] = -1
    page = np.full(chunk, pool, np.int32)  # padding is written nowhere
    before, after = np.full(chunk // align, CONTINUES, np.int32), np.full(chunk // align, pool, np.int32)
    tile_page, tile_owner, base, filled = (np.zeros(room, np.int32) for _ in range(4))
    at, tile, places = 0, 0, [np.zeros(0, np.int64)]
    for i, segment in enumerate(segments):
        n, start, region = len(segment.tokens), segment.start, segment.regions[-1]
        position = start + np.arange(n)
        block = position // align - start // align
        where = at + block * align + position % align - np.where(block == 0, start % align, 0)
        tokens[where], positions[where], owner[where] = segment.tokens, position, i
        inside = position - region.base
        page[where] = np.asarray(region.pages, np.int32)[inside // page_size]
        offset[where] = inside % page_size
        targets[where[: len(segment.targets)]] = segment.targets
        if n:
            before[at // align] = segment.page_of(start - 1, page_size) if start else FROM_NOTHING
            after[where // align] = page[where]  # the last token of a block decides
        at += layout.takes(start, n)
        places.append(where)
        for place, first, count in segment.tiles(page_size):
            tile_page[tile], tile_owner[tile], base[tile], filled[tile] = place, i, first, count
            tile += 1
    tiles = Tiles(tile_page, tile_owner, base, filled, np.int32(tile))
    return Chunk(
        tokens, positions, owner, page, offset, targets, before, after, tiles, np.concatenate(places)
    )  # fmt: skip


@dataclass(frozen=True)
class ChunkPast(Past):
    """One layer of the pages that the segments of a chunk read and write; segments, page, offset `[chunk]`, before and
    after `[blocks]` as in `Chunk`."""

    positions: jax.Array
    pages: Store
    states: Store
    segments: jax.Array
    page: jax.Array
    offset: jax.Array
    before: jax.Array
    after: jax.Array
    tiles: Tiles

    def attend(
        self, q: jax.Array, new: Arrays, span: Span, read: Read = keys_and_values, lead: Lead | None = None
    ) -> tuple[jax.Array, ChunkPast]:  # fmt: skip
        """Over the pages of each token's segment, in which the chunk's own tokens are written first."""
        pages = cache.write(self.pages, {k: x[0] for k, x in new.items()}, cache.write_pages, self.page, self.offset)
        y = cache.paged_chunk(q[0], self.positions[0], self.segments, pages, self.tiles, span, read, lead)
        return y[None].astype(q.dtype), dataclasses.replace(self, pages=pages)

    def carry(self, step: Step, inputs: Any, kept: Mapping[str, Kept], size: int) -> tuple[Any, ChunkPast]:
        """Block by block, each from the state of the block before it or of the page that it goes on from."""
        blocks = len(self.before)

        def cut(x: jax.Array) -> jax.Array:  # [1, chunk, ...] -> [blocks, 1, align, ...]
            return x.reshape(blocks, 1, -1, *x.shape[2:])

        def one(carry: tuple[Store, Store], block: tuple) -> tuple[tuple[Store, Store], Any]:
            state, states = carry
            given, valid, before, after = block

            def begin(now: jax.Array, pool: jax.Array) -> jax.Array:
                found = jax.lax.dynamic_index_in_dim(pool, jnp.maximum(before, 0), 0)
                return jnp.where(before >= 0, found, jnp.where(before == FROM_NOTHING, 0, now))

            state = jax.tree.map(begin, state, states)
            nothing = jnp.zeros(valid.shape, jnp.int32)
            y, state = step(state, given, reach(nothing, valid, nothing[:, 0])[0])
            states = jax.tree.map(lambda pool, new: pool.at[after].set(new[0], mode="drop"), states, state)
            return (state, states), y

        own: Store = {name: self.states[name] for name in kept}
        state = jax.tree.map(lambda pool: jnp.zeros_like(pool[:1]), own)
        rows = (jax.tree.map(cut, inputs), cut(self.segments[None] >= 0), self.before, self.after)
        (_, states), y = jax.lax.scan(one, (state, own), rows)
        y = jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[3:]), y)
        return y, dataclasses.replace(self, states={**self.states, **states})


@lru_cache(maxsize=64)
def make_prefill(config: ModelConfig, score: bool) -> Program:
    """The compiled chunk: (params, pool, *Chunk.inputs) -> pool, scores.

    scores `[chunk]` float32: log-probability of each target after its token, zeros unless `score`. The pool is
    donated. Engines of one model share their programs.
    """

    def prefill(
        params: Params,
        pool: Pool,
        tokens: jax.Array,
        positions: jax.Array,
        segments: jax.Array,
        page: jax.Array,
        offset: jax.Array,
        targets: jax.Array,
        before: jax.Array,
        after: jax.Array,
        tiles: Tiles,
    ) -> tuple[Pool, jax.Array]:
        params = computed(config, params)
        pasts = [
            ChunkPast(positions[None], pages, states, segments, page, offset, before, after, tiles)
            for pages, states in zip(pool.pages, pool.states)
        ]
        output = transformer.forward(config, params, tokens[None], positions[None], pasts=pasts)
        written = cast(tuple[ChunkPast, ...], output.pasts)
        pool = Pool(tuple(past.pages for past in written), tuple(past.states for past in written))
        if not score:
            return pool, jnp.zeros(tokens.shape)
        scores = logits(config, output.hidden[0], output.head)
        logprobs = jnp.take_along_axis(scores, targets[:, None], axis=-1)[:, 0]
        return pool, logprobs - jax.nn.logsumexp(scores, axis=-1)

    return Program(prefill, donate_argnums=1)
