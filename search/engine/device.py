"""What lies on the device: the parameters, the pool of pages, the slots' own caches, and the programs over them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from models import cache
from models.cache import Blocks, Layers, Pool
from models.config import ModelConfig
from models.output_major import arrange
from models.platform import on_cpu
from models.transformer import Params, weights
from search.engine.config import EngineConfig
from search.engine.decode import Drawn, Prefixes, Rows, make_stage
from search.engine.placement import cache_shardings, check_slots
from search.engine.precision import running_config, stored_params
from search.engine.prefill import Chunk, make_prefill
from search.engine.program import Program
from search.engine.sampling import SamplingRows

FIRST_BLOCK = 256  # tokens of all slots together in the shortest block
Moves = Sequence[tuple[int, int, int]]  # (slot, number of a page in its own cache, place of that page in the pool)


class Device:
    """Arrays that live on and the compiled programs that change them in place.

    blocks: the slots' own caches, as many stretches of tokens as the longest sample needs, so that attention reads
    little more than what is there and growing copies nothing. compilations: programs compiled so far.
    """

    def __init__(self, model: ModelConfig, params: Params, config: EngineConfig, mesh: Mesh | None):
        self.config, self.mesh = config, mesh
        if mesh is not None:
            check_slots(mesh.shape, config.slots)
        self.model = running_config(model, config.precision)
        self.compilations = 0
        self.block_pages = block_pages(config.max_len, config.page_size, config.slots)
        if not any(cache.kept(self.model, "token")):  # blocks of nothing: one, so that growing compiles nothing
            self.block_pages = [sum(self.block_pages)]
        self._room = max(16, config.slots)  # moves between pages and blocks in one call
        self.use_params(params)
        with self._placed():
            sizes = config.page_count, config.page_size, config.quantized_cache
            self.pool: Pool = self._placed_zeros(partial(cache.empty_pool, self.model, *sizes), False)
            self.states: Layers = self._placed_zeros(partial(cache.empty_states, self.model, config.slots), True)
        self.blocks: Blocks = ()
        self.fit(1)
        gaps = config.precision == "layercast"
        stage = make_stage(self.model, config.stage_tokens, config.ends, gaps, config.recorded)
        self._stage: Callable[..., Any] = stage
        self._prefill = {score: make_prefill(self.model, score) for score in (False, True)}

    def prefill(self, chunk: Chunk, score: bool = False) -> jax.Array:
        """Read one chunk; the log-probabilities `[chunk]` of its targets if asked for."""
        self.pool, logprobs = self._run(self._prefill[score], self.params, self.pool, *chunk.inputs)
        return logprobs

    def stage(
        self, rows: Rows, settings: SamplingRows, prefixes: Prefixes, most: int, enough: int
    ) -> tuple[Rows, Drawn, int]:
        """Decode up to `most` tokens per running row; everything comes back as numpy arrays."""
        limits = np.int32(most), np.int32(enough)
        inputs = (self.params, self.pool, self.blocks, self.states, rows, settings, prefixes, *limits)
        self.blocks, self.states, rows, drawn, steps = self._run(self._stage, *inputs)
        rows, drawn, steps = jax.device_get((rows, drawn, steps))
        return rows, drawn, int(steps)

    def use_params(self, params: Params) -> None:
        """Go on with other parameters of the same model; what is in the caches is of those before."""
        with self._placed():
            self.params = stored_params(self.model, params, self.mesh)
            if self.mesh is None and on_cpu():
                self.params = arrange(self.params, weights(self.model))

    def use_stage(self, stage: Callable[..., Any]) -> None:
        """Decode with another program of the same arguments and results as `make_stage` gives."""
        self._stage = stage

    def fit(self, tokens: int) -> None:
        """Give every slot's own cache as many blocks as hold `tokens`, and no more."""
        size, room, needed = self.config.page_size, 0, 0
        while room < tokens:
            room, needed = room + self.block_pages[needed] * size, needed + 1
        self.blocks = self.blocks[:needed]
        with self._placed():
            for pages in self.block_pages[len(self.blocks) : needed]:
                self.blocks = (*self.blocks, self._zeros(self.config.slots, pages * size, own=True))

    def store(self, moves: Moves) -> None:
        """Copy pages' worth of slots' own caches into pages."""
        for i, where, count in self._batches(moves):
            self.pool = self._run(STORE, self.pool, self.blocks[i], where, count)

    def load(self, moves: Moves) -> None:
        """Copy pages into slots' own caches."""
        for i, where, count in self._batches(moves):
            block = self._run(LOAD, self.pool, self.blocks[i], where, count)
            self.blocks = (*self.blocks[:i], block, *self.blocks[i + 1 :])

    def store_states(self, moves: Sequence[tuple[int, int]]) -> None:
        """Copy slots' states to pages: (slot, place) each."""
        for slot, place in moves if self.keeps_states else ():
            self.pool = self._run(STORE_STATE, self.pool, self.states, np.int32(slot), np.int32(place))

    def load_states(self, moves: Sequence[tuple[int, int | None]]) -> None:
        """Copy pages' states into slots: (slot, place) each, None for a sequence that has not begun."""
        for slot, place in moves if self.keeps_states else ():
            where = np.int32(-1 if place is None else place)
            self.states = self._run(LOAD_STATE, self.pool, self.states, np.int32(slot), where)

    @property
    def keeps_states(self) -> bool:
        """Whether the model keeps anything per row."""
        return any(self.states)

    def read(self, places: list[int]) -> list[Any]:
        """Pages as host arrays, one pytree each."""
        return jax.device_get([self._run(READ, self.pool, np.int32(place)) for place in places])

    def write(self, places: list[int], copies: list[Any]) -> None:
        """Put host copies back at these places."""
        for place, copied in zip(places, copies, strict=True):
            self.pool = self._run(WRITE, self.pool, np.int32(place), copied)

    def warm_up(self, rows: Rows, settings: SamplingRows, prefixes: Prefixes, tokens: int) -> None:
        """Compile the decode stage for every number of blocks up to `tokens` tokens, and what moves pages."""
        room = 0
        for i, pages in enumerate(self.block_pages):
            self.fit(room + 1)
            self.stage(rows, settings, prefixes, 0, 0)
            nowhere = np.zeros((self._room, 3), np.int32), np.int32(0)
            self.pool = self._run(STORE, self.pool, self.blocks[i], *nowhere)
            block = self._run(LOAD, self.pool, self.blocks[i], *nowhere)
            self.blocks = (*self.blocks[:i], block)
            room += pages * self.config.page_size
            if room >= tokens:
                break
        self.load_states([(0, None)])
        self.store_states([(0, 0)])
        self.write([0], self.read([0]))

    @property
    def cache_bytes(self) -> int:
        """Bytes of pages and slots' caches on all devices together."""
        arrays = jax.tree.leaves((self.pool, self.blocks, self.states))
        shards = (shard for x in arrays for shard in x.addressable_shards)
        return sum(shard.data.nbytes for shard in shards)

    def _batches(self, moves: Moves) -> Iterator[tuple[int, np.ndarray, np.int32]]:
        """(block, the moves in it `[room, 3]`, how many) until all are done; pages are counted inside the block."""
        room, before = self._room, 0
        for i, pages in enumerate(self.block_pages):
            mine = [(slot, page - before, place) for slot, page, place in moves if before <= page < before + pages]
            for first in range(0, len(mine), room):
                part = mine[first : first + room]
                where = np.zeros((room, 3), np.int32)
                where[: len(part)] = part
                yield i, where, np.int32(len(part))
            before += pages

    def _run(self, program: Callable[..., Any], *args: Any) -> Any:
        before = program.compilations if isinstance(program, Program) else 0
        with self._placed():
            results = program(*args)
        if isinstance(program, Program):
            self.compilations += program.compilations - before
        return results

    def _placed(self) -> Any:
        return jax.set_mesh(self.mesh) if self.mesh is not None else contextlib.nullcontext()

    def _zeros(self, leading: int, length: int, own: bool) -> Layers:
        made: Layers = self._placed_zeros(
            partial(cache.empty, self.model, leading, length, self.config.quantized_cache), own
        )
        return made

    def _placed_zeros(self, make: Callable[[], Any], own: bool) -> Any:
        if self.mesh is None:
            return jax.jit(make)()
        return jax.jit(make, out_shardings=cache_shardings(self.model, self.mesh, jax.eval_shape(make), own))()


def block_pages(max_len: int, page_size: int, slots: int) -> list[int]:
    """Pages per block of the slots' own caches: equal ones up to 8, then 4 blocks per doubling of the length.

    A block costs some ten kernels per layer whatever its size, and unused keys cost their reading: with few slots the
    blocks begin longer, so that the first part does not exceed the second.
    """
    step, total = max(1, FIRST_BLOCK // (page_size * slots)), 0
    pages = []
    while total * page_size < max_len:
        if total >= 8 * step:
            step *= 2
        pages.append(step)
        total += step
    return pages


def _store(pool: Pool, block: Layers, where: jax.Array, count: jax.Array) -> Pool:
    def body(i: jax.Array, pages: Layers) -> Layers:
        slot, number, place = where[i]

        def one(page: jax.Array, rows: jax.Array) -> jax.Array:
            size = page.shape[2]
            part = jax.lax.dynamic_slice(rows, (slot, 0, number * size, 0), (1, *page.shape[1:]))
            return jax.lax.dynamic_update_slice(page, part, (place, 0, 0, 0))

        return jax.tree.map(one, pages, block)

    return pool._replace(pages=jax.lax.fori_loop(0, count, body, pool.pages))


def _load(pool: Pool, block: Layers, where: jax.Array, count: jax.Array) -> Layers:
    def body(i: jax.Array, block: Layers) -> Layers:
        slot, number, place = where[i]

        def one(page: jax.Array, rows: jax.Array) -> jax.Array:
            part = jax.lax.dynamic_slice(page, (place, 0, 0, 0), (1, *page.shape[1:]))
            return jax.lax.dynamic_update_slice(rows, part, (slot, 0, number * page.shape[2], 0))

        return jax.tree.map(one, pool.pages, block)

    return jax.lax.fori_loop(0, count, body, block)


def _store_state(pool: Pool, states: Layers, slot: jax.Array, place: jax.Array) -> Pool:
    def one(pages: jax.Array, rows: jax.Array) -> jax.Array:
        return pages.at[place].set(jax.lax.dynamic_index_in_dim(rows, slot, 0, keepdims=False))

    return pool._replace(states=jax.tree.map(one, pool.states, states))


def _load_state(pool: Pool, states: Layers, slot: jax.Array, place: jax.Array) -> Layers:
    def one(pages: jax.Array, rows: jax.Array) -> jax.Array:
        found = jax.lax.dynamic_index_in_dim(pages, jnp.maximum(place, 0), 0, keepdims=False)
        return rows.at[slot].set(jnp.where(place >= 0, found, 0))

    return jax.tree.map(one, pool.states, states)


def _read(pages: Pool, place: jax.Array) -> Pool:
    return jax.tree.map(lambda page: jax.lax.dynamic_index_in_dim(page, place, 0, keepdims=False), pages)


def _write(pages: Pool, place: jax.Array, copied: Pool) -> Pool:
    return jax.tree.map(lambda page, new: jax.lax.dynamic_update_index_in_dim(page, new, place, 0), pages, copied)


STORE = Program(_store, donate_argnums=0)
LOAD = Program(_load, donate_argnums=1)
STORE_STATE = Program(_store_state, donate_argnums=0)
LOAD_STATE = Program(_load_state, donate_argnums=1)
READ = Program(_read)
WRITE = Program(_write, donate_argnums=0)
