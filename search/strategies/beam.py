"""Beam search over steps with a process reward, and diverse verifier tree search, which is one beam per subtree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from models.errors import require
from search.strategies.setting import Setting, Stepwise, Voting
from search.strategies.strategy import Aggregate, Choice, Strategy, View, aggregate
from search.strategies.survey import Tags


def beam(samples: int, width: int = 4, lookahead: int = 0, agg: str = "last") -> Strategy:
    """Of `samples` particles the best samples/width go on, each as `width` clones, finished ones included.

    Finished particles keep their place with their score, so that a later, better one can still displace them. Ties: the
    lower index. lookahead: greedy steps that the scorer sees beyond the step (Snell et al. 2024).
    """
    problem = f"is {width}, which does not divide samples={samples}"
    require(width >= 1 and samples % width == 0, "width", problem, "choose a divisor")
    keep = samples // width

    def select(key: jax.Array, state: Any, view: View) -> tuple[Choice, Any]:
        score = aggregate(view, agg)
        best = jnp.argsort(-score, stable=True)[:keep]
        # A finished particle needs no clones: one is kept, and its other places go to the best that can go on.
        chosen = jnp.where(view.round == 0, jnp.arange(samples), jnp.repeat(best, width, total_repeat_length=samples))
        clone = (jnp.arange(samples) % width > 0) & view.ended[chosen]
        going = jnp.where(~view.ended[best], score[best], -1.0)
        spare = jnp.where((going > -1).any(), best[jnp.argmax(going)], chosen[0])
        parents = jnp.where((view.round > 0) & clone, spare, chosen)
        return strategy.choice(parents, ~view.ended[parents], done=view.ended[best].all()), state

    strategy = Strategy("beam", samples, samples, lambda: (), select, lookahead=lookahead)
    return strategy


def dvts(samples: int, width: int = 4, lookahead: int = 0, agg: str = "last") -> Strategy:
    """Diverse verifier tree search: samples/width subtrees, each of which keeps its single best step (Beeching 2024).

    With width 1 it is best-of-N: nothing is ever selected. The first of equals wins.
    """
    problem = f"is {width}, which does not divide samples={samples}"
    require(width >= 1 and samples % width == 0, "width", problem, "choose a divisor")

    def select(key: jax.Array, state: Any, view: View) -> tuple[Choice, Any]:
        score = aggregate(view, agg).reshape(-1, width)
        best = jnp.argmax(score, axis=-1) + jnp.arange(samples // width) * width
        chosen = jnp.repeat(best, width, total_repeat_length=samples)
        dead = view.ended[chosen]
        parents = jnp.where(
            (view.round == 0) | dead, jnp.arange(samples), chosen
        )  # a subtree that ended stays as it is
        live = ~view.ended[parents] & ((view.round == 0) | ~dead)
        return strategy.choice(parents, live, done=(view.round > 0) & view.ended[best].all()), state

    strategy = Strategy("dvts", samples, samples, lambda: (), select, lookahead=lookahead)
    return strategy


@dataclass(frozen=True)
class Beam(Stepwise, Voting):
    """Beam search over steps."""

    samples: int
    width: int = 4  # the steps of the highest score that live on, each with samples / width heirs
    lookahead: int = 0  # greedy steps that are taken for the score and then forgotten
    agg: Aggregate = "last"  # how a score comes from those of the steps

    name = "beam"
    tags = Tags("hybrid", ("verification", "search"), "steps", ("accuracy", "scalability"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `beam`."""
        return beam(self.samples, self.width, self.lookahead, self.agg)


@dataclass(frozen=True)
class DVTS(Stepwise, Voting):
    """Diverse verifier tree search: independent subtrees, each of which keeps its best step."""

    samples: int
    width: int = 4  # steps that are tried in each of the samples / width subtrees
    lookahead: int = 0  # greedy steps that are taken for the score and then forgotten
    agg: Aggregate = "last"  # how a score comes from those of the steps

    name = "dvts"
    tags = Tags("hybrid", ("verification", "search"), "steps", ("accuracy", "scalability"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `dvts`."""
        return dvts(self.samples, self.width, self.lookahead, self.agg)
