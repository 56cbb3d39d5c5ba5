"""Particles are moved as far as they were written, whatever their caches look like."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from search import population as particles
from search.decoder import Outputs
from search.population import PIECE, Placed, Population

PROBLEMS, STORE, WIDTH = 2, 7, 4


class Caches:
    """The part of a decoder that is asked: caches whose positions lie on different axes."""

    def caches(self, problems: int, particles: int, length: int) -> Any:
        lead = (problems, particles)
        return jnp.zeros((*lead, length), jnp.int32), {"k": jnp.zeros((*lead, 3, length, 2))}, jnp.zeros((*lead, 4))

    def position_axes(self, caches: Any) -> Any:
        return 2, {"k": 3}, -1


AXES: Any = particles.position_axes(Caches())  # type: ignore[arg-type]


def random_population(rng: np.random.Generator, count: int, length: int) -> Population:
    """Everything in it is random."""
    shape = (PROBLEMS, count)
    outputs = Outputs(jnp.zeros((PROBLEMS, 5)), jnp.zeros(PROBLEMS), jnp.zeros(PROBLEMS, bool))
    made = particles.fresh(outputs, Caches().caches(*shape, length), shape, length, 2, placed=False)
    made = jax.tree.map(lambda x: jnp.asarray(rng.integers(0, 2 if x.dtype == bool else 99, x.shape), x.dtype), made)
    return made._replace(length=jnp.asarray(rng.integers(0, length + 1, shape), jnp.int32))


def placed(rng: np.random.Generator, population: Population) -> Population:
    """The same particles, whose caches lie in another order."""
    place = jnp.asarray([rng.permutation(STORE) for _ in range(PROBLEMS)], jnp.int32)
    back = jnp.argsort(place, axis=1)
    rows = jax.tree.map(
        lambda x: jnp.take_along_axis(x, back.reshape(*back.shape, *(1,) * (x.ndim - 2)), 1), population.caches.rows
    )
    return population._replace(caches=Placed(place, rows))


def in_order(population: Population) -> Population:
    """The same particles, whose caches lie in their order."""
    caches = population.caches
    rows = jax.tree.map(
        lambda x: jnp.take_along_axis(x, caches.place.reshape(PROBLEMS, -1, *(1,) * (x.ndim - 2)), 1), caches.rows
    )
    return population._replace(caches=Placed(None, rows))


def written(population: Population) -> list[np.ndarray]:
    """All arrays, with zeros in the caches after each particle's length."""

    def one(x: jax.Array, axis: int) -> np.ndarray:
        if axis < 0:
            return np.where((np.asarray(population.length) > 0)[..., None], x, 0)
        inside = np.arange(x.shape[axis]) < np.asarray(population.length)[..., None]
        return np.where(inside.reshape(*x.shape[:2], *(x.shape[i] if i == axis else 1 for i in range(2, x.ndim))), x, 0)

    rest = jax.tree.leaves(population._replace(caches=Placed(None, ())))
    return [*map(np.asarray, rest), *jax.tree.leaves(jax.tree.map(one, population.caches.rows, AXES))]


@pytest.mark.parametrize("length", [3, PIECE, 2 * PIECE, 2 * PIECE + 5])
def test_moved_particles_are_those_that_a_plain_copy_gives(length: int) -> None:
    rng = np.random.default_rng(length)
    store, rows = random_population(rng, STORE, length), random_population(rng, WIDTH, length)
    assert AXES == (2, {"k": 3}, -1)
    rearrange = jax.jit(lambda p, places: particles.rearrange(p, places, AXES))
    put = jax.jit(lambda p, places, rows: particles.put(p, places, rows, AXES))
    same = jnp.broadcast_to(jnp.arange(STORE), (PROBLEMS, STORE))
    for places in (same, same[:, ::-1], jnp.asarray(rng.integers(0, STORE, (PROBLEMS, STORE)))):
        before = placed(rng, store)
        after = rearrange(before, places)
        jax.tree.map(np.testing.assert_array_equal, written(in_order(after)), written(particles.take(store, places)))
        assert (np.sort(after.caches.place) == same).all()
        for p in range(PROBLEMS):  # the first heir of a particle goes on where its caches lie
            first = [list(places[p]).index(parent) for parent in dict.fromkeys(places[p].tolist())]
            assert (
                after.caches.place[p, jnp.array(first)] == before.caches.place[p, places[p, jnp.array(first)]]
            ).all()
    places = jnp.asarray([rng.permutation(STORE + 2)[:WIDTH] for _ in range(PROBLEMS)])  # some out of range
    index = jnp.arange(PROBLEMS)[:, None]
    plain = jax.tree.map(lambda a, b: a.at[index, places].set(b, mode="drop"), store, rows)
    for places_now, expected in ((places, plain), (jnp.full_like(places, STORE), store)):
        jax.tree.map(np.testing.assert_array_equal, written(put(store, places_now, rows)), written(expected))
