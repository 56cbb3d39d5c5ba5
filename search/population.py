"""Population: every particle of every problem of a search, as arrays on the device."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from search.decoder import Outputs
from search.strategies.strategy import View

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


def take(population: Population, places: jax.Array) -> Population:
    """The particles at `places` `[problems, n]` int32."""

    def one(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, places.reshape(*places.shape, *(1,) * (x.ndim - 2)), axis=1, mode="clip")

    return jax.tree.map(one, population)


def put(population: Population, places: jax.Array, rows: Population) -> Population:
    """The population with `rows` at `places` `[problems, n]` int32; out of range: dropped."""
    problems = jnp.arange(places.shape[0])[:, None]
    return jax.tree.map(lambda all, new: all.at[problems, places].set(new, mode="drop"), population, rows)


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
