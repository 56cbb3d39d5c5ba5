"""Iterative deepening sampling (Chen et al. 2025): at growing lengths the model is told to look at its work again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from models.errors import require
from search.strategies.best_of_n import best_of_n
from search.strategies.setting import Setting, Voting, needs
from search.strategies.strategy import Aggregate, Control, Strategy
from search.strategies.survey import Tags

PLACE = 1 << 8  # see `_in_place_of`


def budgets(first: int, growth: float, most: int) -> list[int]:
    """Lengths first, first * growth, first * growth^2, ... below `most`, rounded down."""
    require(first >= 1, "first", f"is {first}", "give 1 token or more")
    require(growth > 1, "growth", f"is {growth}", "give more than 1")
    found, length = [], float(first)
    while int(length) < most:
        found.append(int(length))
        length *= growth
    return found


def iterative_deepening(
    samples: int,
    trigger: tuple[int, ...],
    max_tokens: int,
    *,
    first: int = 64,
    growth: float = 2.0,
    instead: int | None = None,
    agg: str = "last",
    scored: bool = True,
) -> Strategy:
    """`samples` generations; one that reaches a budget without having ended is made to write `trigger`, and goes on.

    The budgets are lengths in tokens, triggers included: `first`, times `growth` each. max_tokens: the search's own. On
    top the best of N, or a vote with `by_vote`. Accuracy is sensitive to `growth`; 64 and 2 are for small models.
    instead: a token that the trigger takes the place of, the next that is drawn from a budget on, where it makes no
    sense in the middle of a step; budgets that pass while it waits are one.
    """
    require(bool(trigger), "trigger", "is empty", "give the tokens that make the model look again")
    marks = budgets(first, growth, max_tokens)
    control = _at(marks, trigger, max_tokens) if instead is None else _in_place_of(instead, marks, trigger)
    return dataclasses.replace(best_of_n(samples, agg, scored), name="iterative_deepening", control=control)


def _at(marks: Sequence[int], trigger: tuple[int, ...], max_tokens: int) -> Control:
    """The trigger at exactly these lengths."""
    forced = np.full(max_tokens, -1, np.int32)
    for begin in marks:
        place = np.arange(begin, min(begin + len(trigger), max_tokens))
        problem = f"of {len(trigger)} tokens is longer than the gap between two budgets at {begin}"
        require(bool((forced[place] < 0).all()), "trigger", problem, "raise first or growth, or shorten it")
        forced[place] = trigger[: len(place)]
    written = jnp.asarray(forced)

    def control(token: jax.Array, length: jax.Array, aux: jax.Array) -> tuple[jax.Array, jax.Array]:
        here = written[jnp.minimum(length, max_tokens - 1)]
        return jnp.where(here >= 0, here, token), aux

    return control


def _in_place_of(instead: int, marks: Sequence[int], trigger: tuple[int, ...]) -> Control:
    """The trigger in the place of the first token `instead` from each of these lengths on.

    aux: budgets that have had theirs, and PLACE times how much of a trigger is written.
    """
    require(instead not in trigger, "trigger", f"holds the token {instead} that it replaces", "leave it out")
    require(len(marks) < PLACE, "growth", f"makes {len(marks)} budgets", f"raise it, so that there are below {PLACE}")
    lengths, queue = jnp.asarray([*marks, np.iinfo(np.int32).max], jnp.int32), jnp.asarray(trigger, jnp.int32)

    def control(token: jax.Array, length: jax.Array, aux: jax.Array) -> tuple[jax.Array, jax.Array]:
        used, place = aux % PLACE, aux // PLACE
        starts = (place == 0) & (token == instead) & (length >= lengths[used])
        writes = starts | (place > 0)
        used = jnp.where(starts, (lengths <= length).sum(), used)
        after = jnp.where(writes, (place + 1) % len(trigger), 0)
        return jnp.where(writes, queue[place], token), used + PLACE * after

    return control


@dataclass(frozen=True)
class IterativeDeepening(Voting):
    """At growing lengths the model is made to look at its work again."""

    samples: int
    trigger: str  # text that is written at every budget
    first: int = 64  # tokens: the first budget
    growth: float = 2.0  # from one budget to the next
    instead: str | None = None  # text of the token that it takes the place of, from a budget on; None: any
    agg: Aggregate = "last"  # how a sample's score comes from those of its steps
    scored: bool = True  # False: no verifier looks, and the first complete sample answers, or a vote

    name = "iterative_deepening"
    tags = Tags("sequential", ("stimulation",), "any text", ("accuracy", "controllability"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `iterative_deepening`."""
        at = needs(setting, self.name)
        instead = None if self.instead is None else at.token(self.instead, f"{self.name}.instead")
        return iterative_deepening(
            self.samples, at.tokens(self.trigger, f"{self.name}.trigger"), at.search.max_tokens, first=self.first,
            growth=self.growth, instead=instead, agg=self.agg, scored=self.scored,
        )  # fmt: skip
