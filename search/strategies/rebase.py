"""REBASE: a tree whose nodes get children in proportion to exp(reward / temperature) (Wu et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from models.errors import require
from search.strategies.resampling import arrange
from search.strategies.setting import Setting, Stepwise, Voting
from search.strategies.strategy import Aggregate, Choice, Strategy, View, aggregate
from search.strategies.survey import Tags

GUARD = 1e-5  # a share that float32 sums put so little above a whole number is that number


def children(score: jax.Array, going: jax.Array, total: jax.Array | int, temperature: float) -> jax.Array:
    """How many of `total` children every node gets, `[n]` int32; all are given out as long as some node is `going`.

    In order of falling score (ties: the lower index), each gets ceil(left * e_i / sum of e_j from i on) of those that
    are left, e = exp(score / temperature).
    """
    order = jnp.argsort(jnp.where(going, -score, jnp.inf), stable=True)
    ranked, able = score[order], going[order]
    share = jnp.where(able, jnp.exp((ranked - ranked[0]) / temperature), 0.0)
    rest = jnp.cumsum(share[::-1])[::-1]

    def give(left: jax.Array, one: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        part = jnp.where(one[0] > 0, left * (one[0] / jnp.maximum(one[1], 1e-30)), 0.0)
        given = jnp.clip(jnp.ceil(part - GUARD).astype(jnp.int32), 0, left)
        return left - given, given

    _, counts = jax.lax.scan(give, jnp.asarray(total, jnp.int32), (share, rest))
    return jnp.zeros_like(counts).at[order].set(counts)


def rebase(samples: int, temperature: float = 0.2, agg: str = "last") -> Strategy:
    """A tree of `samples` leaves in all: a node that has ended is one of them, the others share the rest by score.

    The answer is the complete leaf of the highest score; weights for votes are the leaves' scores.
    """
    require(samples >= 1, "samples", f"is {samples}", "give a positive number")
    require(temperature > 0, "temperature", f"is {temperature}", "give a positive number")

    def select(key: jax.Array, state: Any, view: View) -> tuple[Choice, Any]:
        counts = children(aggregate(view, agg), ~view.ended, samples - view.ended.sum(), temperature)
        parents = jnp.where(view.round == 0, jnp.arange(samples), arrange(jnp.where(view.ended, 1, counts)))
        return strategy.choice(parents, ~view.ended[parents], done=view.ended.all()), state

    strategy = Strategy("rebase", samples, samples, lambda: (), select)
    return strategy


@dataclass(frozen=True)
class Rebase(Stepwise, Voting):
    """REBASE: children in proportion to exp(score / temperature)."""

    samples: int
    temperature: float = 0.2  # of the softmax over scores
    agg: Aggregate = "last"  # how a score comes from those of the steps

    name = "rebase"
    tags = Tags("hybrid", ("verification", "search"), "steps", ("accuracy", "efficiency"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `rebase`."""
        return rebase(self.samples, self.temperature, self.agg)
