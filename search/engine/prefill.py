"""Prefill: prompts of any lengths, cut and packed into chunks of one length, their keys and values put into pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from models import cache
from models.attention import Attend, attention_scale
from models.cache import Layers, Limits, Tiles
from models.config import ModelConfig
from models.transformer import Params, hidden_and_head, logits
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
class Chunk:
    """One packed chunk, numpy: tokens, positions, segments, page, offset, targets `[chunk]` int32, and its tiles."""

    tokens: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    page: np.ndarray
    offset: np.ndarray
    targets: np.ndarray
    tiles: Tiles


def pack(segments: Sequence[Segment], chunk: int, page_size: int, room: int, pool: int) -> Chunk:
    """Lay the segments one after the other in a chunk; they must fit (see `Packer`). `pool`: pages that exist."""
    tokens, positions, owner, offset, targets = (np.zeros(chunk, np.int32) for _ in range(5))
    owner[:] = -1
    page = np.full(chunk, pool, np.int32)  # padding is written nowhere
    tile_page, tile_owner, base, filled = (np.zeros(room, np.int32) for _ in range(4))
    at = tile = 0
    for i, segment in enumerate(segments):
        n, region = len(segment.tokens), segment.regions[-1]
        where = segment.start - region.base + np.arange(n)
        tokens[at : at + n] = segment.tokens
        positions[at : at + n] = segment.start + np.arange(n)
        owner[at : at + n] = i
        page[at : at + n] = np.asarray(region.pages, np.int32)[where // page_size]
        offset[at : at + n] = where % page_size
        targets[at : at + len(segment.targets)] = segment.targets
        at += n
        for place, first, count in segment.tiles(page_size):
            tile_page[tile], tile_owner[tile], base[tile], filled[tile] = place, i, first, count
            tile += 1
    return Chunk(
        tokens, positions, owner, page, offset, targets, Tiles(tile_page, tile_owner, base, filled, np.int32(tile))
    )


@lru_cache(maxsize=64)
def make_prefill(config: ModelConfig, score: bool) -> Program:
    """The compiled chunk: (params, pages, tokens, positions, segments, page, offset, targets, tiles) -> pages, scores.

    scores `[chunk]` float32: log-probability of each target after its token, zeros unless `score`. The pages are
    donated. Engines of one model share their programs.
    """
    scale = attention_scale(config)

    def prefill(
        params: Params,
        pages: Layers,
        tokens: jax.Array,
        positions: jax.Array,
        segments: jax.Array,
        page: jax.Array,
        offset: jax.Array,
        targets: jax.Array,
        tiles: Tiles,
    ) -> tuple[Layers, jax.Array]:
        params = computed(config, params)
        held = [pages]

        def attend(
            layer: int,
            q: jax.Array,
            k: jax.Array,
            v: jax.Array,
            *,
            window: int | None = None,
            softcap: float | None = None,
        ) -> jax.Array:
            keys = cache.write_pages(held[0].k[layer], k[0], page, offset)
            values = cache.write_pages(held[0].v[layer], v[0], page, offset)
            held[0] = held[0].replace(layer, keys, values)
            limits = Limits(scale, window, softcap)
            return cache.paged_chunk(q[0], positions, segments, keys, values, tiles, limits)[None].astype(q.dtype)

        attends: list[Attend] = [partial(attend, layer) for layer in range(config.n_layers)]
        hidden, head = hidden_and_head(config, params, tokens[None], positions[None], None, attends)
        if not score:
            return held[0], jnp.zeros(tokens.shape)
        scores = logits(config, hidden[0], head)
        logprobs = jnp.take_along_axis(scores, targets[:, None], axis=-1)[:, 0]
        return held[0], logprobs - jax.nn.logsumexp(scores, axis=-1)

    return Program(prefill, donate_argnums=1)
