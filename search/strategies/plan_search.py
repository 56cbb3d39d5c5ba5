"""PlanSearch (Wang et al. 2024): observations first, then a solution by every small combination of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.errors import require
from search.config import SearchConfig
from search.strategies.setting import Setting, Voting, needs
from search.strategies.strategy import WHOLE, Aggregate, Answer, Choice, Strategy, View, aggregate
from search.strategies.survey import Tags


class Plans(NamedTuple):
    """observations, plans `[]` int32: different observations, and plans made of them."""

    observations: jax.Array
    plans: jax.Array


def subsets(observations: int, most: int) -> np.ndarray:
    """Which observations each plan is made of, `[plans, observations]` bool: none, each, each pair and so on to `most`
    of them, in the order of their places."""
    chosen = [one for size in range(most + 1) for one in combinations(range(observations), size)]
    return np.array([[i in one for i in range(observations)] for one in chosen])


def plan_search(
    observations: int,
    observe: int,
    close: int,
    solve: int,
    max_tokens: int,
    *,
    most: int = 2,
    agg: str = "last",
    scored: bool = True,
) -> Strategy:
    """`observations` short texts, each after `observe` up to `close`; then a solution after every plan.

    A plan is a combination of up to `most` observations, the empty one among them: a solution is made to read them, one
    after the other as they were written, and `solve`. An observation that does not close, or says what one before it
    says, is part of no plan. `close` must be a delimiter of the search. Candidates are the observations, which answer
    nothing, and a solution for each plan that might be; the answer is the solution of the highest score, or the vote
    with `by_vote`. Here an observation sees none of the others and plans are not put in words; the published form also
    has observations about observations. max_tokens: the search's own.
    """
    require(observations >= 1, "observations", f"is {observations}", "give 1 or more")
    fix = f"use 0 to {observations}"
    require(0 <= most <= observations, "most", f"is {most}", fix)
    require(len({observe, close, solve}) == 3, "observe", "close and solve repeat a token", "give each its own token")
    chosen = jnp.asarray(subsets(observations, most))
    plans = len(chosen)
    width = max(observations, plans)
    rows = jnp.arange(width)
    first = jnp.full((width, max_tokens), -1).at[:, 0].set(observe)
    made_of = jax.vmap(partial(_read, solve), in_axes=(0, None, None))

    def init() -> Plans:
        return Plans(jnp.int32(0), jnp.int32(0))

    def select(key: jax.Array, state: Plans, view: View) -> tuple[Choice, Plans]:
        tokens, length = view.tokens[:observations], view.length[:observations]
        new = _new(close, tokens, length)
        forced = made_of(chosen, tokens, length)
        possible = (~chosen | new).all(1)
        looking = view.round == 0
        live = jnp.where(looking, rows < observations, _wide(possible, width, False))
        places = jnp.where(looking, rows, observations + rows)
        places = jnp.where(places < observations + plans, places, 0)
        choice = strategy.choice(
            places,
            live,
            targets=jnp.where(live, places, observations + plans),
            steps=jnp.where(looking, 1, WHOLE),
            forced=jnp.where(looking, first, _wide(forced, width, -1)),
            done=view.round > 1,
        )
        told = Plans(new.sum(dtype=jnp.int32), possible.sum(dtype=jnp.int32))
        return choice, jax.tree.map(lambda a, b: jnp.where(view.round == 1, a, b), told, state)

    def answer(state: Plans, view: View) -> Answer:
        solved = view.complete & (jnp.arange(observations + plans) >= observations)
        weight = jnp.where(solved, aggregate(view, agg), 0.0)
        return Answer(weight, jnp.where(solved.any(), jnp.argmax(jnp.where(solved, weight, -1.0)), -1))

    def report(state: Plans, view: View) -> dict[str, jax.Array]:
        return state._asdict()

    strategy = Strategy(
        "plan_search", width, observations + plans, init, select, answer,
        replaces=False, forced=max_tokens, scored=scored, report=report,
    )  # fmt: skip
    return strategy


def _wide(x: jax.Array, width: int, fill: int | bool) -> jax.Array:
    """With rows of `fill` up to `width`."""
    return jnp.pad(x, ((0, width - len(x)), *((0, 0),) * (x.ndim - 1)), constant_values=fill)


def _new(close: int, tokens: jax.Array, length: jax.Array) -> jax.Array:
    """Which texts `[observations, max_tokens]` close and say what none of those before them says."""
    closed = (length > 0) & (jnp.take_along_axis(tokens, jnp.maximum(length - 1, 0)[:, None], 1)[:, 0] == close)
    same = (tokens[:, None] == tokens[None]).all(-1)
    before = jnp.tril(jnp.ones(same.shape, bool), -1)
    return closed & ~(same & before).any(1)


def _read(solve: int, chosen: jax.Array, tokens: jax.Array, length: jax.Array) -> jax.Array:
    """The chosen texts one after the other, and `solve`: `[max_tokens]`, -1 after it."""
    most = tokens.shape[1]
    counts = jnp.where(chosen, length, 0)
    begin, index = jnp.cumsum(counts) - counts, jnp.arange(most)
    places = jnp.where(index < counts[:, None], begin[:, None] + index, most)
    whole = jnp.full(most, -1).at[places.reshape(-1)].set(tokens.reshape(-1), mode="drop")
    return whole.at[counts.sum()].set(solve, mode="drop")


@dataclass(frozen=True)
class PlanSearch(Voting):
    """Observations first, then a solution by every small combination of them."""

    observations: int
    observe: str  # text of the token that begins an observation
    close: str  # text of the token that ends one
    solve: str  # text of the token that a solution follows
    most: int = 2  # observations of a plan
    agg: Aggregate = "last"  # how a sample's score comes from those of its steps
    scored: bool = True  # False: no verifier looks, and the first complete solution answers, or a vote

    name = "plan_search"
    tags = Tags("hybrid", ("stimulation",), "any text", ("accuracy", "scalability"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `plan_search`."""
        at = needs(setting, self.name)
        observe, close, solve = (
            at.token(getattr(self, name), f"{self.name}.{name}") for name in ("observe", "close", "solve")
        )
        return plan_search(
            self.observations, observe, close, solve, at.search.max_tokens, most=self.most, agg=self.agg,
            scored=self.scored,
        )  # fmt: skip

    def sized(self, search: SearchConfig) -> SearchConfig:
        """A step ends where an observation does."""
        return dataclasses.replace(search, delimiters=(self.close,), tokens_per_step=None)
