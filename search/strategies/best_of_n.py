"""Independent samples: best-of-N, and greedy decoding as its special case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from models.errors import require
from search.strategies.setting import Setting, StrategyConfig, Voting, answer_of
from search.strategies.strategy import WHOLE, Aggregate, Answer, Choice, Strategy, View, aggregate
from search.strategies.survey import Tags
from search.strategies.votes import by_vote


def best_of_n(samples: int, agg: str = "last", scored: bool = True) -> Strategy:
    """`samples` independent generations; the answer is the complete one of the highest score, the first of equals.

    scored: False leaves the scorer out; the answer is then the first complete one, for votes to choose from.
    """
    require(samples >= 1, "samples", f"is {samples}", "give a positive number")

    def select(key: jax.Array, state: Any, view: View) -> tuple[Choice, Any]:
        return strategy.choice(jnp.arange(samples), ~view.ended, steps=WHOLE, done=view.round > 0), state

    def answer(state: Any, view: View) -> Answer:
        weight = jnp.where(view.complete, aggregate(view, agg), 0.0)
        ranked = jnp.where(view.complete, weight, -1.0)
        return Answer(weight, jnp.where(view.complete.any(), jnp.argmax(ranked), -1))

    strategy = Strategy("best_of_n", samples, samples, lambda: (), select, answer, scored=scored)
    return strategy


def greedy() -> Strategy:
    """The most likely token at every step, once."""

    def select(key: jax.Array, state: Any, view: View) -> tuple[Choice, Any]:
        return strategy.choice(jnp.zeros(1), ~view.ended, steps=WHOLE, temperature=0.0, done=view.round > 0), state

    strategy = Strategy("greedy", 1, 1, lambda: (), select, scored=False, tempers=True)
    return strategy


@dataclass(frozen=True)
class Greedy(StrategyConfig):
    """The most likely token at every step, once."""

    name = "greedy"
    tags = Tags("single", (), "any text", ("accuracy",))

    def make(self, setting: Setting | None) -> Strategy:
        """See `greedy`."""
        return greedy()


@dataclass(frozen=True)
class BestOfN(Voting):
    """Independent samples, of which the best one answers, or their vote."""

    samples: int
    agg: Aggregate = "last"  # how a sample's score comes from those of its steps
    scored: bool = True  # False: no verifier looks, and the first complete sample answers, or a vote

    name = "best_of_n"
    tags = Tags("parallel", ("verification",), "any text", ("accuracy", "scalability"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `best_of_n`."""
        return best_of_n(self.samples, self.agg, self.scored)


@dataclass(frozen=True)
class Majority(StrategyConfig):
    """Independent samples that vote on the answer, one vote each (self-consistency, Wang et al. 2023)."""

    samples: int
    answer: str | None = None  # how an answer is read, such as number:####; None: as the search says

    name = "majority"
    tags = Tags("parallel", ("aggregation",), "answers", ("accuracy", "scalability"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `by_vote`."""
        return by_vote(best_of_n(self.samples, scored=False), answer_of(self.answer, setting))


@dataclass(frozen=True)
class WeightedVote(StrategyConfig):
    """Independent samples that vote on the answer, each as heavily as its score."""

    samples: int
    agg: Aggregate = "last"  # how a sample's score comes from those of its steps
    answer: str | None = None  # how an answer is read, such as number:####; None: as the search says

    name = "weighted_vote"
    tags = Tags("parallel", ("verification", "aggregation"), "answers", ("accuracy", "scalability"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `by_vote`."""
        return by_vote(best_of_n(self.samples, self.agg), answer_of(self.answer, setting), weighted=True)
