"""Population: every particle of every problem of a search, as arrays on the device."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.errors import require
from models.platform import on_cpu
from search.decoder import Decoder, Outputs
from search.engine.text_stop import Spelling, just_completed, machine
from search.strategies.strategy import View

PIECE = 16  # positions of a cache that are moved at once
GOING, ENDED, FULL = range(3)  # why a particle does not go on: it wrote an end, or it has no room


class Placed(NamedTuple):
    """Caches, and where each particle's lie among them `[problems, particles]` int32; None: in the particles' order.

    So a particle that takes another's place in the order takes its caches along unmoved: what is copied is a clone's,
    to where those of somebody who is gone lay.
    """

    place: jax.Array | None
    rows: Any


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
    caches: Placed


FORCED = np.uint32(0xFFFFFFFF)  # of numpy: the host compares with it


class Written:
    """Whether particles have just written one of the tokens or texts of a field of the config."""

    def __init__(self, field: str, given: tuple[int | str, ...], spelling: Spelling, vocab_size: int):
        tokens = [token for token in given if not isinstance(token, str)]
        texts = [text for text in given if isinstance(text, str)]
        self._tokens = jnp.isin(jnp.arange(vocab_size), jnp.asarray(tokens or [-1]))
        self._width = max((len(text.encode()) for text in texts), default=0)
        if texts:
            field, problem = f"search.{field}", "holds texts, but the search does not know those of tokens"
            require(len(spelling) > 0, field, problem, "give Searcher(spelling=policy.spelling)")
            made = machine(texts, spelling, vocab_size)
            made.check(texts, field)
            self._moves = jnp.asarray(made.moves)

    def __call__(self, rows: Population, token: jax.Array) -> jax.Array:
        """`[problems, width]` bool; `token` is the last of the rows' own."""
        found = self._tokens[token]
        if not self._width:
            return found
        return found | just_completed(self._moves, rows.tokens, rows.length, self._width)


def fresh(
    outputs: Outputs, caches: Any, shape: tuple[int, int], max_tokens: int, max_steps: int, placed: bool
) -> Population:
    """Particles that have nothing but their prompts; outputs `[problems]` follow those. Lineages count from 0.

    placed: their caches will be told apart from their order, as `rearrange` needs it.
    """
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
        caches=Placed(lineage.astype(jnp.int32) if placed else None, caches),
    )


def at_start(outputs: Outputs, shape: tuple[int, int]) -> Outputs:
    """What follows the prompts `[problems]`, for every particle `[problems, particles]`."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x[:, None], (*shape, *x.shape[1:])), outputs)


def position_axes(decoder: Decoder) -> Any:
    """The axis of positions in every array of the decoder's caches, -1 where it has none."""
    return decoder.position_axes(jax.eval_shape(partial(decoder.caches, 1, 1, 1)))


def step(
    decoder: Decoder, params: Any, contexts: Any, caches: Placed, tokens: jax.Array, length: jax.Array
) -> tuple[Outputs, Placed]:
    """`Decoder.step` for particles in their own order."""
    place = caches.place
    if place is None:
        outputs, rows = decoder.step(params, contexts, caches.rows, tokens, length)
        return outputs, Placed(None, rows)
    problems = jnp.arange(place.shape[0])[:, None]
    tokens, length = (jnp.zeros_like(x).at[problems, place].set(x) for x in (tokens, length))
    outputs, rows = decoder.step(params, contexts, caches.rows, tokens, length)
    return jax.tree.map(lambda x: _at(x, place), outputs), Placed(place, rows)


def take(population: Population, places: jax.Array) -> Population:
    """The particles at `places` `[problems, n]` int32 of a population that is in order, with copies of their caches."""
    return jax.tree.map(lambda x: _at(x, places), population)


def rearrange(population: Population, places: jax.Array, axes: Any) -> Population:
    """The particles at `places`, as many as there are: an heir's first place goes on in the caches, clones are copied.

    axes: `position_axes`. Nothing is copied beyond the longest clone.
    """
    caches, taken = population.caches, take(population._replace(caches=Placed(None, ())), places)
    assert caches.place is not None
    source = jnp.take_along_axis(caches.place, places, axis=1)
    clone = ((places[:, :, None] == places[:, None, :]) & jnp.tril(jnp.ones((places.shape[1],) * 2, bool), -1)).any(-1)
    held = jnp.zeros(places.shape, bool).at[jnp.arange(len(places))[:, None], source].set(True)
    free = jnp.argsort(held, axis=1, stable=True)  # those that nobody goes on in come first
    given = jnp.take_along_axis(free, jnp.maximum(jnp.cumsum(clone, axis=1) - 1, 0), axis=1)
    place = jnp.where(clone, given, source)
    rows = _copied(caches.rows, caches.rows, clone & (taken.length > 0), source, place, taken.length, axes)
    return taken._replace(caches=Placed(place, rows))


def put(population: Population, places: jax.Array, rows: Population, axes: Any) -> Population:
    """The population with `rows` at `places` `[problems, n]` int32; out of range: dropped. Both are in order.

    axes: `position_axes`.
    """
    problems = jnp.arange(places.shape[0])[:, None]
    none = Placed(None, ())
    rest = jax.tree.map(
        lambda a, b: a.at[problems, places].set(b, mode="drop"),
        population._replace(caches=none), rows._replace(caches=none),
    )  # fmt: skip
    inside, same = places < population.length.shape[1], jnp.broadcast_to(jnp.arange(places.shape[1]), places.shape)
    kept = _copied(population.caches.rows, rows.caches.rows, inside, same, places, rows.length, axes)
    return rest._replace(caches=Placed(None, kept))


def _copied(
    all: Any, given: Any, which: jax.Array, source: jax.Array, target: jax.Array, length: jax.Array, axes: Any
) -> Any:
    """Caches with rows of `given` (`all` itself: nothing that is read is written) at other places of `all`.

    which: the rows to copy; source, target: from where to where; length: tokens written; all `[problems, n]`. A CPU
    copies row after row as far as they were written: its scatter is twice as slow, and takes whole rows.
    """
    if not on_cpu():
        problems, nowhere = jnp.arange(len(which))[:, None], jax.tree.leaves(all)[0].shape[1]
        to = jnp.where(which, target, nowhere)
        return jax.tree.map(lambda a, b: a.at[problems, to].set(_at(b, source), mode="drop"), all, given)
    order, itself = jnp.argsort(~which.reshape(-1), stable=True), given is all

    def moved(positions: bool, pieces: jax.Array, caches: Any) -> Any:
        """The arrays with positions, in so many pieces, or the others."""

        def copy(j: jax.Array, caches: Any) -> Any:
            problem, row = jnp.divmod(order[j // pieces], which.shape[1])

            def one(a: jax.Array, b: jax.Array, axis: int) -> jax.Array:
                if (axis >= 0) != positions:
                    return a
                shape, start = [1, 1, *a.shape[2:]], [jnp.int32(0)] * a.ndim
                start[0], start[1] = problem, source[problem, row]
                if positions:
                    shape[axis] = min(PIECE, a.shape[axis])
                    start[axis] = jnp.minimum(j % pieces * PIECE, a.shape[axis] - shape[axis])
                part = jax.lax.dynamic_slice(a if itself else b, start, shape)
                start[1] = target[problem, row]
                return jax.lax.dynamic_update_slice(a, part, start)

            return jax.tree.map(one, caches, caches if itself else given, axes)

        return jax.lax.fori_loop(0, which.sum() * pieces, copy, caches)

    caches = moved(True, _pieces(length, which), all)
    return moved(False, jnp.int32(1), caches) if min(jax.tree.leaves(axes)) < 0 else caches


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
