"""Particles are moved as far as they were written, whatever their caches look like, and nobody loses what is theirs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from search import population as particles
from search.decoder import Outputs
from search.population import PIECE, Paged, Placed, Population

PROBLEMS, STORE, WIDTH, LONGEST = 2, 7, 4, 2 * PIECE + 5


class Caches:
    """The part of a decoder that is asked: caches whose positions lie on different axes."""

    def caches(self, problems: int, particles: int, length: int) -> Any:
        lead = (problems, particles)
        return jnp.zeros((*lead, length), jnp.int32), {"k": jnp.zeros((*lead, 3, length, 2))}, jnp.zeros((*lead, 4))

    def position_axes(self, caches: Any) -> Any:
        return 2, {"k": 3}, -1


DECODER: Any = Caches()
AXES: Any = particles.position_axes(DECODER)


def empty(replaces: bool, length: int = LONGEST) -> Population:
    outputs = Outputs(jnp.zeros((PROBLEMS, 5)), jnp.zeros(PROBLEMS), jnp.zeros(PROBLEMS, bool))
    shape = PROBLEMS, STORE
    caches = particles.empty_caches(DECODER, shape, WIDTH, length, replaces)
    return particles.fresh(outputs, caches, shape, length, 3)


# What NumPy writes down of the particles of every problem: their draws, numbers that occur once.
Books = list[list[list[int]]]


def heirs(books: Books, places: np.ndarray) -> Books:
    return [[list(books[p][i]) for i in row] for p, row in enumerate(places)]


def extended(rows: Population, books: Books, live: np.ndarray, rng: np.random.Generator, length: int) -> Population:
    """The rows with a step of a few draws each where they are live: in their texts, in their caches, and in `books`."""
    place = np.arange(live.shape[1])[None] if rows.caches.place is None else np.asarray(rows.caches.place)
    place = np.broadcast_to(place, live.shape)
    names = "tokens", "origins", "length", "steps", "ends"
    text, origins, lengths, steps, ends = new = [np.array(getattr(rows, name)) for name in names]
    kept = [np.array(x) for x in jax.tree.leaves(rows.caches.rows)]
    for p, i in np.argwhere(live):
        for _ in range(min(rng.integers(0, PIECE + 3), length - lengths[p, i])):
            draw, at, row = int(rng.integers(1, 2**30)), lengths[p, i], place[p, i]
            books[p][i].append(draw)
            text[p, i, at], origins[p, i, at], lengths[p, i] = draw % 3, draw, at + 1
            kept[0][p, row, at], kept[1][p, row, :, at], kept[2][p, row] = draw, draw, draw
        ends[p, i, min(steps[p, i], 2)], steps[p, i] = lengths[p, i], steps[p, i] + 1
    rows = rows._replace(**dict(zip(names, map(jnp.asarray, new))))
    caches = jax.tree.unflatten(jax.tree.structure(rows.caches.rows), [jnp.asarray(x) for x in kept])
    return rows._replace(caches=Placed(rows.caches.place, caches))


def check(rows: Population, books: Books, which: np.ndarray) -> None:
    """The caches of the rows `which` hold the draws of the books, and their states the last one."""
    place = np.arange(which.shape[1]) if rows.caches.place is None else np.asarray(rows.caches.place)
    place = np.broadcast_to(place, which.shape)
    ints, floats, states = (np.asarray(x) for x in jax.tree.leaves(rows.caches.rows))
    for p, i in np.argwhere(which):
        draws, row = books[p][i], place[p, i]
        assert int(rows.length[p, i]) == len(draws)
        np.testing.assert_array_equal(ints[p, row, : len(draws)], draws)
        keys = floats[p, row, :, : len(draws)]
        np.testing.assert_array_equal(keys, np.broadcast_to(np.float32(draws)[:, None], keys.shape))
        if draws:
            np.testing.assert_array_equal(states[p, row], np.full(4, np.float32(draws[-1])))


@pytest.fixture(params=[(True, 3), (True, LONGEST), (False, LONGEST)], ids=["CPU short", "CPU", "accelerator"])
def length(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Of the longest texts. A CPU moves rows one after the other, here each array by a loop of its own,
    an accelerator all by one scatter."""
    on_cpu, found = request.param
    monkeypatch.setattr(particles, "on_cpu", lambda: on_cpu)
    monkeypatch.setattr(particles, "TOGETHER", 1)
    return found


def test_clones_have_what_their_parents_wrote_and_heirs_stay_where_they_are(length: int) -> None:
    rng, population, books = (
        np.random.default_rng(length),
        empty(True, length),
        [[[] for _ in range(STORE)] for _ in range(PROBLEMS)],
    )
    rearrange = jax.jit(lambda p, places: particles.rearrange(p, places, AXES))
    same = np.broadcast_to(np.arange(STORE), (PROBLEMS, STORE))
    for places in (same, same[:, ::-1], *(rng.integers(0, high, same.shape) for high in (STORE, 2, STORE, 3, STORE))):
        before, population = population, rearrange(population, jnp.asarray(places))
        books = heirs(books, places)
        check(population, books, places >= 0)
        assert (np.sort(population.caches.place) == same).all()
        for p in range(PROBLEMS):  # the first heir of a particle goes on where its caches lie
            first = np.array([places[p].tolist().index(parent) for parent in dict.fromkeys(places[p].tolist())])
            assert (population.caches.place[p, first] == before.caches.place[p, places[p, first]]).all()
        population = extended(population, books, rng.random(same.shape) < 0.8, rng, length)


def test_a_clone_goes_where_a_sibling_of_its_parent_lay_and_only_the_last_step_is_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three steps of one piece each in two families: every clone of the last exchange costs one piece, not three."""
    copied, moved = particles._copied, []

    def counted(given: Any, all: Any, moves: Any, axes: Any, states: bool = False) -> Any:
        moved.append(jnp.where(states, 0, moves.which.sum()))
        return copied(given, all, moves, axes, states)

    monkeypatch.setattr(particles, "_copied", counted)

    def step(rows: Population, parents: list[int], first: int) -> Population:
        """Clones, and a step of one piece for each, of draws `first` and following."""
        rows = particles.rearrange(rows, jnp.asarray([parents] * PROBLEMS), AXES)
        mine = jnp.arange(LONGEST) // PIECE == rows.steps[..., None]
        origins = jnp.where(mine, first + jnp.arange(STORE, dtype=jnp.uint32)[:, None], rows.origins)
        tokens, length = jnp.where(mine, 1, rows.tokens), rows.length + PIECE
        ends = jnp.where(jnp.arange(3) == rows.steps[..., None], length[..., None], rows.ends)
        return rows._replace(tokens=tokens, origins=origins, length=length, ends=ends, steps=rows.steps + 1)

    def three(rows: Population) -> list[jax.Array]:
        rows = step(rows, list(range(STORE)), 10)
        rows = step(rows, [0, 0, 0, 0, 1, 1, 1], 20)
        step(rows, [2, 2, 2, 2, 5, 5, 5], 30)  # one heir of each family, and its siblings' places for the clones
        return moved

    assert [int(x) for x in jax.jit(three)(empty(True))] == [0, 0, 5 * PROBLEMS, 0, 5 * PROBLEMS, 0]


def test_who_is_taken_from_a_store_and_put_back_keeps_its_past_whoever_else_is_overwritten(length: int) -> None:
    rng, store, books = (
        np.random.default_rng(length),
        empty(False, length),
        [[[] for _ in range(STORE)] for _ in range(PROBLEMS)],
    )
    assert isinstance(store.caches, Paged)
    pages = -(-length // PIECE)
    take = jax.jit(lambda p, places, which: particles.take(p, places, which, AXES))
    put = jax.jit(lambda p, places, *rest: particles.put(p, places, *rest, AXES))
    everyone = np.ones((PROBLEMS, WIDTH), bool)
    for turn in range(12):
        parents = rng.integers(0, STORE, (PROBLEMS, WIDTH)) if turn % 3 else np.full((PROBLEMS, WIDTH), turn % STORE)
        live = rng.random((PROBLEMS, WIDTH)) < 0.8
        targets = np.array([rng.permutation(STORE + 2)[:WIDTH] for _ in range(PROBLEMS)])  # some out of range
        rows, own = take(store, jnp.asarray(parents), jnp.asarray(live)), heirs(books, parents)
        check(rows, own, live)
        cut = rng.integers(0, length + 1) if turn % 4 == 3 else length  # who goes back shares what is left
        back = live & (np.asarray(rows.length) > cut)
        rows = rows._replace(length=jnp.where(back, cut, rows.length))
        begun = rows.length
        for p, i in np.argwhere(back):
            del own[p][i][cut:]
            last = own[p][i][-1] if cut else 0
            states = rows.caches.rows[2].at[p, i].set(last)  # as a recurrent model's after it has read again
            rows = rows._replace(caches=Placed(None, (*rows.caches.rows[:2], states)))
        rows = extended(rows, own, live, rng, length)
        store = put(store, jnp.asarray(targets), rows, jnp.asarray(parents), begun)
        for p, i in np.argwhere(targets < STORE):
            books[p][targets[p, i]] = own[p][i]
        table = np.asarray(store.caches.table)
        for p in range(PROBLEMS):
            for i in range(STORE):
                assert ((table[p, i] >= 0) == (np.arange(pages) * PIECE < len(books[p][i]))).all()
        for first in range(0, STORE, WIDTH):  # everybody as they are written down
            places = np.minimum(np.arange(first, first + WIDTH), STORE - 1)[None].repeat(PROBLEMS, 0)
            check(take(store, jnp.asarray(places), jnp.asarray(everyone)), heirs(books, places), everyone)
