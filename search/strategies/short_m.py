"""short-m@k (Hassid et al. 2025): start k chains, stop all when m have ended, and vote among these m."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from models.errors import require
from search.strategies.best_of_n import best_of_n
from search.strategies.setting import Setting, StrategyConfig, answer_of
from search.strategies.strategy import Answer, Strategy, View
from search.strategies.survey import Tags
from search.strategies.votes import UNREAD, AnswerOf, codes, winners


def short_m(chains: int, m: int = 1, answer_of: AnswerOf | None = None) -> Strategy:
    """`chains` chains that stop at the end of the m-th one: tokens sum_j min(len_j, len_(m)), depth len_(m).

    Of chains that end at the same token the first ones count. The answer is the majority of the m by `answer_of`, of
    tied answers the one with the shortest chain; without it the shortest chain answers.
    Where length and correctness correlate positively this loses to a plain vote of all k: search.metrics reports that.
    """
    require(1 <= m <= chains, "m", f"is {m} of {chains} chains", "use 1 <= m <= chains")

    def answer(state: Any, view: View) -> Answer:
        order = jnp.argsort(jnp.where(view.complete, view.length, jnp.iinfo(jnp.int32).max), stable=True)
        rank = jnp.argsort(order)
        inside = view.complete & (rank < m)
        found = codes(answer_of, view) if answer_of is not None else jnp.where(inside, rank, UNREAD)
        weight = (inside & (found != UNREAD)).astype(jnp.float32)
        won = winners(found, weight)
        return Answer(weight, jnp.where(won.any(), jnp.argmin(jnp.where(won, rank, chains)), -1))

    return dataclasses.replace(best_of_n(chains, scored=False), name="short_m", answer=answer, race=m)


@dataclass(frozen=True)
class ShortM(StrategyConfig):
    """The m shortest of some chains vote; the others are stopped."""

    chains: int
    m: int = 1  # chains that vote
    answer: str | None = None  # how an answer is read, such as number:####; None: the shortest chain answers

    name = "short_m"
    tags = Tags("parallel", ("aggregation",), "answers", ("accuracy", "efficiency"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `short_m`."""
        return short_m(self.chains, self.m, None if self.answer is None else answer_of(self.answer, setting))
