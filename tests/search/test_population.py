"""Particles are moved as far as they were written, whatever their caches look like."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from search import population as particles
from search.decoder import Outputs
from search.population import PIECE, Population

PROBLEMS, STORE, WIDTH = 2, 7, 4


class Caches:
    """The part of a decoder that is asked: caches whose positions lie on different axes."""

    def caches(self, problems: int, particles: int, length: int) -> Any:
        lead = (problems, particles)
        return jnp.zeros((*lead, length), jnp.int32), {"k": jnp.zeros((*lead, 3, length, 2))}

    def position_axes(self, caches: Any) -> Any:
        return 2, {"k": 3}


AXES: Any = particles.position_axes(Caches())  # type: ignore[arg-type]


def random_population(rng: np.random.Generator, count: int, length: int) -> Population:
    """Everything in it is random."""
    shape = (PROBLEMS, count)
    outputs = Outputs(jnp.zeros((PROBLEMS, 5)), jnp.zeros(PROBLEMS), jnp.zeros(PROBLEMS, bool))
    made = particles.fresh(outputs, Caches().caches(*shape, length), shape, length, 2)
    made = jax.tree.map(lambda x: jnp.asarray(rng.integers(0, 2 if x.dtype == bool else 99, x.shape), x.dtype), made)
    return made._replace(length=jnp.asarray(rng.integers(0, length + 1, shape), jnp.int32))


def written(population: Population) -> list[np.ndarray]:
    """All arrays, with zeros in the caches after each particle's length."""

    def one(x: jax.Array, axis: int) -> np.ndarray:
        inside = np.arange(x.shape[axis]) < np.asarray(population.length)[..., None]
        return np.where(inside.reshape(*x.shape[:2], *(x.shape[i] if i == axis else 1 for i in range(2, x.ndim))), x, 0)

    rest = jax.tree.leaves(population._replace(caches=()))
    return [*map(np.asarray, rest), *jax.tree.leaves(jax.tree.map(one, population.caches, AXES))]


@pytest.mark.parametrize("length", [3, PIECE, 2 * PIECE, 2 * PIECE + 5])
def test_moved_particles_are_those_that_a_plain_copy_gives(length: int) -> None:
    rng = np.random.default_rng(length)
    store, rows = random_population(rng, STORE, length), random_population(rng, WIDTH, length)
    assert AXES == (2, {"k": 3})
    rearrange = jax.jit(lambda p, places: particles.rearrange(p, places, AXES))
    put = jax.jit(lambda p, places, rows: particles.put(p, places, rows, AXES))
    same = jnp.broadcast_to(jnp.arange(STORE), (PROBLEMS, STORE))
    for places in (same, same[:, ::-1], jnp.asarray(rng.integers(0, STORE, (PROBLEMS, STORE)))):
        jax.tree.map(
            np.testing.assert_array_equal, written(rearrange(store, places)), written(particles.take(store, places))
        )
    places = jnp.asarray([rng.permutation(STORE + 2)[:WIDTH] for _ in range(PROBLEMS)])  # some out of range
    index = jnp.arange(PROBLEMS)[:, None]
    plain = jax.tree.map(lambda a, b: a.at[index, places].set(b, mode="drop"), store, rows)
    for places_now, expected in ((places, plain), (jnp.full_like(places, STORE), store)):
        jax.tree.map(np.testing.assert_array_equal, written(put(store, places_now, rows)), written(expected))
