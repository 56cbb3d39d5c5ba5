"""Population: every particle of every problem of a search, as arrays on the device."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.platform import on_cpu
from search.decoder import Decoder, Outputs
from search.strategies.strategy import View

PIECE = 16  # positions of a cache that are moved at once
GOING, ENDED, FULL = range(3)  # why a particle does not go on: it wrote an end, or it has no room


class Population(NamedTuple):
    """Particles, `[problems, particles]` unless stated.

    tokens, logprobs, origins `[..., max_tokens]`: int32, float32, and uint32 the lineage that drew each token (FORCED
    for one that nobody drew); length, steps, reason, aux int32; lineage uint32; score float32; scores, ends
    `[..., max_steps]` float32 and int32; outputs: what follows the last token; caches: the decoder's.
    """

    tokens: jax.Array
    logprobs: jax.Array
    origins: jax.Array
    length: jax.Array
    steps: jax.Array
    reason: jax.Array
    aux: jax.Array
    lineage: jax.Array
    score: jax.Array
    scores: jax.Array
    ends: jax.Array
    outputs: Outputs
    caches: Any


FORCED = np.uint32(0xFFFFFFFF)  # of numpy: the host compares with it


def fresh(outputs: Outputs, caches: Any, shape: tuple[int, int], max_tokens: int, max_steps: int) -> Population:
    """Particles that have nothing but their prompts; outputs `[problems]` follow those. Lineages count from 0."""
    ints, floats = jnp.zeros(shape, jnp.int32), jnp.zeros(shape)
    lineage = jnp.broadcast_to(jnp.arange(shape[1], dtype=jnp.uint32), shape)
    return Population(
        tokens=jnp.full((*shape, max_tokens), -1, jnp.int32),
        logprobs=jnp.zeros((*shape, max_tokens)),
        origins=jnp.zeros((*shape, max_tokens), jnp.uint32),
        length=ints,
        steps=ints,
        reason=ints,
        aux=ints,
        lineage=lineage,
        score=floats + 0.5,
        scores=jnp.full((*shape, max_steps), jnp.nan, jnp.float32),
        ends=jnp.zeros((*shape, max_steps), jnp.int32),
        outputs=at_start(outputs, shape),
        caches=caches,
    )


def at_start(outputs: Outputs, shape: tuple[int, int]) -> Outputs:
    """What follows the prompts `[problems]`, for every particle `[problems, particles]`."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x[:, None], (*shape, *x.shape[1:])), outputs)


def position_axes(decoder: Decoder) -> Any:
    """The axis of positions in every array of the decoder's caches, -1 where it has none."""
    return decoder.position_axes(jax.eval_shape(partial(decoder.caches, 1, 1, 1)))


def take(population: Population, places: jax.Array) -> Population:
    """The particles at `places` `[problems, n]` int32."""
    return jax.tree.map(lambda x: _at(x, places), population)


def rearrange(population: Population, places: jax.Array, axes: Any) -> Population:
    """`take` of as many as there are, in the caches' own memory and no further than a moved particle was written.

    axes: `position_axes`. Of what has positions nothing is copied where nothing moves.
    """
    taken = take(population._replace(caches=()), places)
    moved = places != jnp.arange(places.shape[1])

    def piece(i: jax.Array, x: jax.Array, axis: int) -> jax.Array:
        if axis < 0:
            return x
        size, n = min(PIECE, x.shape[axis]), x.shape[axis]
        start = jnp.minimum(i * size, n - size)
        old = jax.lax.dynamic_slice_in_dim(x, start, size, axis)
        new = _at(old, places)
        if n % size:  # the last piece begins inside of the one before, which has moved already
            fresh = start + jnp.arange(size) >= i * size
            new = jnp.where(fresh.reshape(-1, *(1,) * (x.ndim - 1 - axis)), new, old)
        return jax.lax.dynamic_update_slice_in_dim(x, new, start, axis)

    caches = jax.lax.fori_loop(
        0,
        _pieces(taken.length, moved),
        lambda i, caches: jax.tree.map(partial(piece, i), caches, axes),
        population.caches,
    )
    return taken._replace(caches=jax.tree.map(lambda x, axis: _at(x, places) if axis < 0 else x, caches, axes))


def put(population: Population, places: jax.Array, rows: Population, axes: Any) -> Population:
    """The population with `rows` at `places` `[problems, n]` int32; out of range: dropped. axes: `position_axes`."""
    problems = jnp.arange(places.shape[0])[:, None]

    def scatter(all: Any, new: Any) -> Any:
        return jax.tree.map(lambda a, b: a.at[problems, places].set(b, mode="drop"), all, new)

    rest = scatter(population._replace(caches=()), rows._replace(caches=()))
    move = _copied if on_cpu() else lambda *given: scatter(given[0], given[2])
    return rest._replace(caches=move(population.caches, places, rows.caches, rows.length, population, axes))


def _copied(all: Any, places: jax.Array, new: Any, length: jax.Array, population: Population, axes: Any) -> Any:
    """The caches of `put` one row after the other, as far as it was written: a CPU's scatter is twice as slow."""
    inside = places < population.length.shape[1]
    order, pieces = jnp.argsort(~inside.reshape(-1), stable=True), _pieces(length, inside)

    def copy(j: jax.Array, caches: Any) -> Any:
        problem, row = jnp.divmod(order[j // pieces], places.shape[1])

        def one(a: jax.Array, b: jax.Array, axis: int) -> jax.Array:
            shape, start = [1, 1, *a.shape[2:]], [jnp.int32(0)] * a.ndim
            start[0], start[1] = problem, row
            if axis >= 0:
                shape[axis] = min(PIECE, a.shape[axis])
                start[axis] = jnp.minimum(j % pieces * PIECE, a.shape[axis] - shape[axis])
            part = jax.lax.dynamic_slice(b, start, shape)
            start[1] = places[problem, row]
            return jax.lax.dynamic_update_slice(a, part, start)

        return jax.tree.map(one, caches, new, axes)

    return jax.lax.fori_loop(0, inside.sum() * pieces, copy, all)


def _pieces(length: jax.Array, which: jax.Array) -> jax.Array:
    """Pieces of a cache that hold the longest of these particles."""
    return -(-jnp.where(which, length, 0).max() // PIECE)


def _at(x: jax.Array, places: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x, places.reshape(*places.shape, *(1,) * (x.ndim - 2)), axis=1, mode="clip")


def view(p: Population, round: jax.Array, left: jax.Array, last: jax.Array | None = None) -> View:
    """What strategies see; round, left, last `[problems]`."""
    written = jnp.arange(p.tokens.shape[-1]) < p.length[..., None]
    return View(
        tokens=jnp.where(written, p.tokens, -1),
        length=p.length,
        steps=p.steps,
        logprob=jnp.where(written, p.logprobs, 0.0).sum(-1),
        ended=p.reason != GOING,
        complete=p.reason == ENDED,
        score=p.score,
        scores=p.scores,
        ends=p.ends,
        aux=p.aux,
        round=round,
        left=left,
        logprobs=jnp.where(written, p.logprobs, 0.0),
        last=jnp.zeros(jnp.shape(round), bool) if last is None else last,
    )
