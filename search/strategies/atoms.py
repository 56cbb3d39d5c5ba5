"""Atom of thoughts (Teng et al. 2025): what is solved is put into a new question, and the rest is forgotten."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from models.errors import require
from search.config import SearchConfig
from search.strategies.best_of_n import best_of_n
from search.strategies.setting import Setting, Voting, needs
from search.strategies.strategy import Aggregate, Choice, Strategy, View
from search.strategies.survey import Tags


class Contracted(NamedTuple):
    """times `[samples]` int32: questions that each chain has put in the place of the one before; longest `[]` int32:
    the most tokens beside the prompt that any chain has read at once."""

    times: jax.Array
    longest: jax.Array


def atom_of_thoughts(
    samples: int,
    question: int,
    close: int,
    max_tokens: int,
    *,
    most: int = 16,
    agg: str = "last",
    scored: bool = True,
) -> Strategy:
    """`samples` chains of questions, each of which is answered or contracted into the next one.

    A text is "solved parts `question` what is left `close`" or "answer end". `close` must be a delimiter of the search.
    When a step closes, the chain goes back to its prompt and is made to read what stands from the last `question` on,
    and nothing else of what it wrote: beside the prompt, which a search always sees, a context is one question and what
    is written about it, however long the chain. A step without a new question stays, and so does every one after `most`
    contractions. What is read again is charged as read. On top the best of N, or a vote with `by_vote`. max_tokens: the
    search's own. It takes max_steps of 3 or more, and as many rounds as there are steps.
    """
    require(question != close, "question", f"and close are both {close}", "give each its own token")
    require(most >= 1, "most", f"is {most}", "allow 1 contraction or more")
    rows = jnp.arange(samples)
    asked = jax.vmap(partial(_asked, question, close))

    def init() -> Contracted:
        return Contracted(jnp.zeros(samples, jnp.int32), jnp.int32(0))

    def select(key: jax.Array, state: Contracted, view: View) -> tuple[Choice, Contracted]:
        forced, there = asked(view.tokens, view.length)
        contract = there & ~view.ended & (state.times < most)
        choice = strategy.choice(
            rows,
            ~view.ended,
            steps=jnp.where(contract, 2, 1),  # the question that is read ends with the delimiter, too
            cut=jnp.where(contract, 0, -1),
            forced=jnp.where(contract[:, None], forced, -1),
            done=view.ended.all(),
        )
        return choice, Contracted(state.times + contract, jnp.maximum(state.longest, view.length.max()))

    def report(state: Contracted, view: View) -> dict[str, jax.Array]:
        return {"contractions": state.times.sum(), "longest": jnp.maximum(state.longest, view.length.max())}

    strategy = dataclasses.replace(
        best_of_n(samples, agg, scored), name="atom_of_thoughts", init=init, select=select, report=report,
        cuts=True, forced=max_tokens,
    )  # fmt: skip
    return strategy


def _asked(question: int, close: int, tokens: jax.Array, length: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(the question that a text ends with `[max_tokens]`, -1 after it, and whether it is a new one)."""
    index = jnp.arange(len(tokens))
    start = jnp.max(jnp.where((tokens == question) & (index < length), index, -1))
    closed = (length > 0) & (tokens[jnp.maximum(length - 1, 0)] == close)
    own = jnp.where(index < length - start, jnp.take(tokens, index + start, mode="clip"), -1)
    return own, closed & (start > 0)  # at 0 stands the one that it was made to read


@dataclass(frozen=True)
class AtomOfThoughts(Voting):
    """Chains of questions, each of which is answered or contracted into the next one, which alone is read on."""

    samples: int
    question: str  # text of the token that begins a new question
    close: str  # text of the token that ends it
    most: int = 16  # contractions of a chain
    agg: Aggregate = "last"  # how a sample's score comes from those of its steps
    scored: bool = True  # False: no verifier looks, and the first complete sample answers, or a vote

    name = "atom_of_thoughts"
    tags = Tags("sequential", ("stimulation",), "any text", ("accuracy", "efficiency"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `atom_of_thoughts`."""
        at = needs(setting, self.name)
        question, close = (at.token(getattr(self, name), f"{self.name}.{name}") for name in ("question", "close"))
        return atom_of_thoughts(
            self.samples, question, close, at.search.max_tokens, most=self.most, agg=self.agg, scored=self.scored
        )

    def sized(self, search: SearchConfig) -> SearchConfig:
        """A step ends where a question does."""
        return dataclasses.replace(search, delimiters=(self.close,), tokens_per_step=None)
