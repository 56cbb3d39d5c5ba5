"""Population: every particle of every problem of a search, as arrays on the device."""

from __future__ import annotations

import math
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

PIECE = 8  # positions of a cache that are moved at once
TOGETHER = 4  # arrays that one loop of a CPU moves: with more it schedules each turn of the loop, which takes as long
GOING, ENDED, FULL = range(3)  # why a particle does not go on: it wrote an end, or it has no room


class Placed(NamedTuple):
    """Caches, and where each particle's lie among them `[problems, particles]` int32; None: in the particles' order.

    So a particle that takes another's place in the order takes its caches along unmoved: what is copied is a clone's,
    to where those of somebody who is gone lay.
    """

    place: jax.Array | None
    rows: Any


class Paged(NamedTuple):
    """Caches of a store of particles, of which some at a time are taken, extended and put back: pages of PIECE tokens.

    table `[problems, store, n]` int32: the page of every piece of a particle, -1 for none; who went on from another
    shares its full pages. pages: the decoder's caches, `[problems, store * n, ...]` of one piece each where they have
    positions, `[problems, store, ...]` where they have none. rows: caches `[problems, width, ...]` of the particles
    that are extended. held `[problems, width, n]` int32: the pages that lie there already.
    """

    table: jax.Array
    pages: Any
    rows: Any
    held: jax.Array


class Moves(NamedTuple):
    """Parts of caches to copy, `[problems, ...]`: which; from row `source` at position `start`; to `target` at `to`."""

    which: jax.Array
    source: jax.Array
    start: jax.Array
    target: jax.Array
    to: jax.Array


class Population(NamedTuple):
    """Particles, `[problems, particles]` unless stated.

    tokens, logprobs, origins `[..., max_tokens]`: int32, float32, and uint32 the lineage that drew each token (FORCED
    for one that nobody drew); length, steps, reason, aux int32; lineage uint32; score float32; scores, ends
    `[..., max_steps]` float32 and int32; outputs: what follows the last token; caches: the decoder's, Placed
    or Paged.
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


def empty_caches(decoder: Decoder, shape: tuple[int, int], width: int, max_tokens: int, replaces: bool) -> Any:
    """Caches of particles `[problems, store]`: Placed for `rearrange`, or Paged for `take` and `put` of `width`."""
    problems, store = shape
    rows = decoder.caches(problems, store if replaces else width, max_tokens)
    if replaces:
        return Placed(jnp.broadcast_to(jnp.arange(store, dtype=jnp.int32), shape), rows)
    piece, axes = min(PIECE, max_tokens), position_axes(decoder)
    n = -(-max_tokens // piece)
    paged, whole = decoder.caches(problems, store * n, piece), decoder.caches(problems, store, piece)
    pages = jax.tree.map(lambda axis, a, b: a if axis >= 0 else b, axes, paged, whole)
    return Paged(jnp.full((*shape, n), -1), pages, rows, jnp.full((problems, width, n), -1))


def stored(caches: Any) -> dict[str, Any]:
    """Fields of caches that are large, and that may hold anything where no particle has written."""
    return {name: getattr(caches, name) for name in ("rows", "pages") if name in caches._fields}


def fresh(outputs: Outputs, caches: Any, shape: tuple[int, int], max_tokens: int, max_steps: int) -> Population:
    """Particles that have nothing but their prompts; outputs `[problems]` follow those. Lineages count from 0."""
    ints, floats = jnp.zeros(shape, jnp.int32), jnp.zeros(shape)
    return Population(
        tokens=jnp.full((*shape, max_tokens), -1, jnp.int32),
        logprobs=jnp.zeros((*shape, max_tokens)),
        origins=jnp.zeros((*shape, max_tokens), jnp.uint32),
        length=ints,
        steps=ints,
        reason=ints,
        aux=ints,
        lineage=jnp.broadcast_to(jnp.arange(shape[1], dtype=jnp.uint32), shape),
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


def take(population: Population, places: jax.Array, which: jax.Array, axes: Any) -> Population:
    """The particles at `places` `[problems, width]` int32 of a store, `which` of them with their caches.

    axes: `position_axes`. Pages that lie in the rows from the last time are not copied again.
    """
    caches, taken = population.caches, _bare(population, places)
    assert isinstance(caches, Paged)
    wanted = _at(caches.table, places)
    missing = which[..., None] & _reached(taken.length, wanted.shape[-1]) & (wanted != caches.held)
    rows = jnp.broadcast_to(jnp.arange(places.shape[1]), places.shape)
    start = _starts(caches.rows, wanted, axes)
    moves = Moves(missing, wanted, jnp.zeros_like(wanted), _wide(rows, wanted), start)
    moved = _copied(caches.pages, caches.rows, moves, axes)
    moved = _states(caches.pages, moved, taken.length > 0, places, rows, axes)
    return taken._replace(caches=Placed(None, moved))


def put(
    population: Population, places: jax.Array, rows: Population, parents: jax.Array, begun: jax.Array, axes: Any
) -> Population:
    """The store with `rows` at `places` `[problems, width]` int32; out of range: dropped. Both are in order.

    parents, begun int32 `[problems, width]`: the places that the rows were taken from, and of how many tokens they went
    on; as many as they have: they did not. What lies before is their parents'; the page where they went on and those
    after it are copied to pages that nobody holds any longer: there are as many as particles have pieces.
    """
    caches, none, problems = population.caches, Placed(None, ()), jnp.arange(places.shape[0])[:, None]
    assert isinstance(caches, Paged) and isinstance(rows.caches, Placed)
    rest = jax.tree.map(
        lambda a, b: a.at[problems, places].set(b, mode="drop"),
        population._replace(caches=none), rows._replace(caches=none),
    )  # fmt: skip
    (_, store, n), own = caches.table.shape, rows.caches.rows
    inside, before = places < store, _at(caches.table, parents)
    since = jnp.arange(n) >= begun[..., None] // PIECE
    new = (inside & (rows.length > begun))[..., None] & since & _reached(rows.length, n)
    shared = jnp.where(inside[..., None] & ~new & _reached(rows.length, n), before, -1)
    table = caches.table.at[problems, places].set(-1, mode="drop")
    held = jnp.concatenate([table, shared], axis=1).reshape(len(places), -1)
    busy = jnp.zeros((len(places), store * n + 1), bool).at[problems, held].set(True)[:, :-1]  # -1: the last
    rank = jnp.cumsum(new.reshape(len(places), -1), axis=1) - 1
    given = jnp.take_along_axis(_places(~busy), jnp.maximum(rank, 0), axis=1)
    pages = jnp.where(new, given.reshape(new.shape), shared)
    order = jnp.broadcast_to(jnp.arange(places.shape[1]), places.shape)
    moves = Moves(new, _wide(order, pages), _starts(own, pages, axes), pages, jnp.zeros_like(pages))
    kept = _copied(own, caches.pages, moves, axes)
    kept = _states(own, kept, inside, order, places, axes)
    table = table.at[problems, places].set(pages, mode="drop")
    return rest._replace(caches=Paged(table, kept, own, jnp.where(new.any(-1, keepdims=True), pages, -1)))


def rearrange(population: Population, places: jax.Array, axes: Any) -> Population:
    """The particles at `places`, as many as there are: an heir's first place goes on in the caches, clones are copied.

    axes: `position_axes`. A clone goes, if it can, to where one lay that had the same parent, and only what it does not
    share with who lay there is copied.
    """
    caches, taken = population.caches, _bare(population, places)
    assert isinstance(caches, Placed) and caches.place is not None
    source = jnp.take_along_axis(caches.place, places, axis=1)
    clone = _earlier(places, places, jnp.ones_like(places, bool)) > 0
    held = jnp.zeros(places.shape, bool).at[jnp.arange(len(places))[:, None], source].set(True)
    there = jnp.argsort(caches.place, axis=1)  # who lay in every place
    family = _family(population)
    given = _given(clone, jnp.take_along_axis(family, places, 1), ~held, jnp.take_along_axis(family, there, 1))
    place = jnp.where(clone, given, source)
    gone = jnp.take_along_axis(there, place, axis=1)
    same = (taken.tokens == _at(population.tokens, gone)) & (taken.origins == _at(population.origins, gone))
    common = jnp.where(same.all(-1), same.shape[-1], jnp.argmin(same, axis=-1))
    common = jnp.minimum(common, jnp.take_along_axis(population.length, gone, axis=1))
    pieces = jnp.arange(-(-population.tokens.shape[-1] // PIECE))
    which = clone[..., None] & _reached(taken.length, len(pieces)) & (pieces >= common[..., None] // PIECE)
    start = _starts(caches.rows, which, axes)
    moves = Moves(which, _wide(source, which), start, _wide(place, which), start)
    rows = _copied(caches.rows, caches.rows, moves, axes)
    rows = _states(rows, rows, clone & (taken.length > 0), source, place, axes)
    return taken._replace(caches=Placed(place, rows))


def _family(population: Population) -> jax.Array:
    """The draw after which every particle began its last step `[problems, particles]` uint32: its siblings' too."""
    step = jnp.maximum(population.steps - 2, 0)[..., None]
    end = jnp.where(population.steps > 1, jnp.take_along_axis(population.ends, step, axis=-1)[..., 0], 0)
    origin = jnp.take_along_axis(population.origins, jnp.maximum(end - 1, 0)[..., None], axis=-1)[..., 0]
    return jnp.where(end > 0, origin, FORCED)


def _earlier(mine: jax.Array, family: jax.Array, which: jax.Array) -> jax.Array:
    """How many before each, `[problems, n]`, of those `which`, are of its family."""
    same = (mine[:, :, None] == family[:, None, :]) & which[:, None, :]
    return (same & jnp.tril(jnp.ones(same.shape[1:], bool), -1)).sum(-1)


def _given(clone: jax.Array, family: jax.Array, free: jax.Array, of_place: jax.Array) -> jax.Array:
    """A free place for every clone `[problems, n]`: of its family, the first ones first, and then what is left."""
    rank, of_rank = _earlier(family, family, clone), _earlier(of_place, of_place, free)
    pair = (clone[:, :, None] & free[:, None, :]) & (family[:, :, None] == of_place[:, None, :])
    pair = pair & (rank[:, :, None] == of_rank[:, None, :])
    left = _places(free & ~pair.any(1))
    place = jnp.cumsum(clone & ~pair.any(2), axis=1) - 1
    return jnp.where(pair.any(2), jnp.argmax(pair, axis=2), jnp.take_along_axis(left, jnp.maximum(place, 0), axis=1))


def _places(which: jax.Array) -> jax.Array:
    """Where `which` `[problems, n]` is true, in order, `[problems, n]` int32, and then anything."""
    nowhere, index = which.shape[1], jnp.arange(which.shape[1], dtype=jnp.int32)
    rank = jnp.where(which, jnp.cumsum(which, axis=1) - 1, nowhere)
    found = jnp.zeros(which.shape, jnp.int32).at[jnp.arange(len(which))[:, None], rank]
    return found.set(jnp.broadcast_to(index, which.shape), mode="drop")


def _bare(population: Population, places: jax.Array) -> Population:
    """The particles at `places` without their caches."""
    return jax.tree.map(lambda x: _at(x, places), population._replace(caches=Placed(None, ())))


def _reached(length: jax.Array, pieces: int) -> jax.Array:
    """Which of so many pieces hold some of `length` tokens `[problems, n]`, `[problems, n, pieces]`."""
    return jnp.arange(pieces) * PIECE < length[..., None]


def _wide(x: jax.Array, like: jax.Array) -> jax.Array:
    return jnp.broadcast_to(x[..., None], like.shape)


def _starts(rows: Any, like: jax.Array, axes: Any) -> jax.Array:
    """Where each piece begins; the last one where there is room for all of it, so over the one before."""
    room = max(jax.tree.leaves(jax.tree.map(lambda x, axis: x.shape[axis] if axis >= 0 else 0, rows, axes)))
    return jnp.broadcast_to(jnp.minimum(jnp.arange(like.shape[-1]) * PIECE, max(room - PIECE, 0)), like.shape)


def _states(given: Any, all: Any, which: jax.Array, source: jax.Array, target: jax.Array, axes: Any) -> Any:
    """`all` with what has no positions of the rows `which` of `given`."""
    none = jnp.zeros_like(source)
    return _copied(given, all, Moves(which, source, none, target, none), axes, states=True)


def _copied(given: Any, all: Any, moves: Moves, axes: Any, states: bool = False) -> Any:
    """`all` with pieces of `given` (or of `all`: nothing that is read is written), or whole rows of the `states`.

    A CPU copies one after the other, each as one run per head: its gather and scatter are slower, and of every piece.
    """
    leaves, structure = jax.tree.flatten(all)
    shapes = [_runs(x, axis) for x, axis in zip(leaves, jax.tree.leaves(axes))]
    picked = [i for i, axis in enumerate(jax.tree.leaves(axes)) if (axis < 0) == states]
    sources = leaves if given is all else jax.tree.leaves(given)
    froms = [_runs(x, axis) for x, axis in zip(sources, jax.tree.leaves(axes))]
    which, source, start, target, to = (x.reshape(len(x), -1) for x in moves)
    if not picked:
        return all
    if not on_cpu():
        problems, nowhere = jnp.arange(len(which))[:, None, None], jnp.where(which, target, np.iinfo(np.int32).max)
        for i in picked:
            x, y = leaves[i].reshape(shapes[i]), sources[i].reshape(froms[i])
            run = jnp.arange(min(PIECE, x.shape[3], y.shape[3]))
            part = y[problems, source[..., None], :, start[..., None] + run]
            x = x.at[problems, nowhere[..., None], :, to[..., None] + run].set(part, mode="drop")
            leaves[i] = x.reshape(leaves[i].shape)
        return jax.tree.unflatten(structure, leaves)
    order = _places(which.reshape(1, -1))[0]

    def moved(some: list[int]) -> list[jax.Array]:
        # Flat before the loop: XLA writes in place what a loop carries, but not through a reshape of it.
        flat = [leaves[i].reshape(*shapes[i][:3], -1) for i in some]
        own = flat if given is all else [sources[i].reshape(*froms[i][:3], -1) for i in some]

        def copy(j: jax.Array, moving: list[jax.Array]) -> list[jax.Array]:
            problem, k = jnp.divmod(order[j], which.shape[1])
            found = []
            for i, x, y in zip(some, moving, moving if own is flat else own):
                (*_, heads, room, inner), length = shapes[i], froms[i][3]
                run = min(PIECE, room, length) * inner
                at = problem, source[problem, k], 0, start[problem, k] * inner
                part = jax.lax.dynamic_slice(y, at, (1, 1, heads, run))
                at = problem, target[problem, k], 0, to[problem, k] * inner
                found.append(jax.lax.dynamic_update_slice(x, part, at))
            return found

        return jax.lax.fori_loop(0, which.sum(), copy, flat)

    for first in range(0, len(picked), TOGETHER):
        some = picked[first : first + TOGETHER]
        for i, x in zip(some, moved(some)):
            leaves[i] = x.reshape(leaves[i].shape)
    return jax.tree.unflatten(structure, leaves)


def _runs(x: Any, axis: int) -> tuple[int, int, int, int, int]:
    """The shape of caches as problems, rows, what precedes positions, those, and what is one position's."""
    if axis < 0:
        return x.shape[0], x.shape[1], 1, 1, math.prod(x.shape[2:])
    return x.shape[0], x.shape[1], math.prod(x.shape[2:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])


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
