"""Strategy: a selection rule. Given the scores of a problem's particles it says which of them go on, and how.

Everything here is about ONE problem; the loop maps it over all of them. A round is: select, extend, score. A strategy
keeps `store` particles and extends `width` of them per round. "Remove" is a mask, "spawn" a write into a free place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

WHOLE = 1 << 20  # steps: until the particle ends


class View(NamedTuple):
    """A problem's particles as its strategy sees them; `[store]` unless stated.

    tokens `[store, max_tokens]` int32 (-1 after the end), length, steps int32; logprob float32, of all its tokens under
    the policy at temperature 1, and logprobs `[store, max_tokens]` of each; ended: it cannot go on; complete: because
    it wrote an end; score float32 in (0, 1), of the whole particle when it was last scored (0.5 before); scores
    `[store, max_steps]` the same after every step (nan where a step was not scored); ends `[store, max_steps]` int32:
    tokens at the end of every step; aux int32, what the strategy's `control` keeps per particle; round `[]` int32, from
    0; left `[]` float32: share of the budget that is left, 1 without a budget; last `[]` bool: no round follows,
    whatever is chosen (no budget or rounds are left).
    """

    tokens: jax.Array
    length: jax.Array
    steps: jax.Array
    logprob: jax.Array
    ended: jax.Array
    complete: jax.Array
    score: jax.Array
    scores: jax.Array
    ends: jax.Array
    aux: jax.Array
    round: jax.Array
    left: jax.Array
    logprobs: jax.Array
    last: jax.Array


class Choice(NamedTuple):
    """What the next round does; `[width]` unless stated.

    parents int32: places of the particles to go on from; targets int32: where the results go (`store` or more:
    nowhere), in a strategy that replaces all of its particles every round always the same places; live bool: extend
    this one (others are only copied); steps int32: how many steps it takes; cut int32: first go back to so many tokens
    (-1: do not); temperature float32 (nan: the search's own); forced `[width, forced]` int32: tokens it must take first
    (-1: none); writer int32: which of the decoder's models draws; done `[]` bool: the search has ended, and the rest is
    ignored.
    """

    parents: jax.Array
    targets: jax.Array
    live: jax.Array
    steps: jax.Array
    cut: jax.Array
    temperature: jax.Array
    forced: jax.Array
    writer: jax.Array
    done: jax.Array


class Answer(NamedTuple):
    """weight `[store]` float32 of every particle as an answer (0: it is none); best `[]` int32, -1: there is none."""

    weight: jax.Array
    best: jax.Array


Aggregate = Literal["last", "min", "prod", "mean"]  # of the scores of steps
Select = Callable[[jax.Array, Any, View], tuple[Choice, Any]]
Control = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def either(condition: jax.Array, yes: Any, no: Any) -> Any:
    """`yes` where a condition `[]` bool holds, else `no`: pytrees of one structure."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def by_score(state: Any, view: View) -> Answer:
    """The complete particle of the highest score, the first of equals."""
    weight = jnp.where(view.complete, view.score, 0.0)
    return Answer(weight, jnp.where(view.complete.any(), jnp.argmax(jnp.where(view.complete, view.score, -1.0)), -1))


@dataclass(frozen=True)
class Strategy:
    """A search as pure functions of one problem.

    init() -> its state, any pytree of arrays; select(key, state, view) -> (Choice, state), called before every round
    and once more after the last; answer(state, view) -> Answer. replaces: every round's results take the place of all
    particles (targets are ignored), so that the first heir of a particle goes on with its stream of random numbers.
    lookahead: greedy steps that are taken for the score and then forgotten. forced: most tokens of `Choice.forced`;
    cuts: whether `Choice.cut` is used; tempers: whether `Choice.temperature` is. control(token, length, aux) -> (token,
    aux), of scalars: what is written instead of a token that was drawn as number `length` of its particle. scored:
    whether scores are needed at all. race: a round stops all of its rows at the token at which so many have written an
    end (0: never). writers: models of the decoder that `Choice.writer` chooses among. together: whether rows of a
    problem read one another's tokens as they are written, for which the decoder must be made, and which the ledger then
    counts. report(state, view) -> scalars by name, which come back as `Found.report`.
    """

    name: str
    width: int
    store: int
    init: Callable[[], Any]
    select: Select
    answer: Callable[[Any, View], Answer] = by_score
    replaces: bool = True
    lookahead: int = 0
    forced: int = 0
    cuts: bool = False
    tempers: bool = False
    control: Control | None = None
    scored: bool = True
    race: int = 0
    writers: int = 1
    together: bool = False
    report: Callable[[Any, View], dict[str, jax.Array]] | None = None

    def choice(
        self,
        parents: jax.Array,
        live: jax.Array | bool = True,
        *,
        targets: jax.Array | None = None,
        steps: jax.Array | int = 1,
        cut: jax.Array | int = -1,
        temperature: jax.Array | float = jnp.nan,
        forced: jax.Array | None = None,
        writer: jax.Array | int = 0,
        done: jax.Array | bool = False,
    ) -> Choice:
        """A Choice with defaults; scalars are given to the whole width."""

        def wide(x: Any, dtype: Any) -> jax.Array:
            return jnp.broadcast_to(jnp.asarray(x, dtype), (self.width,))

        none = jnp.full((self.width, self.forced), -1, jnp.int32)
        return Choice(
            wide(parents, jnp.int32),
            wide(jnp.arange(self.width) if targets is None else targets, jnp.int32),
            wide(live, bool),
            wide(steps, jnp.int32),
            wide(cut, jnp.int32),
            wide(temperature, jnp.float32),
            none if forced is None else forced.astype(jnp.int32),
            wide(writer, jnp.int32),
            jnp.asarray(done, bool),
        )


def aggregate(view: View, how: str = "last") -> jax.Array:
    """One score per particle `[store]` from those of its steps: "last", "min", "prod" or "mean" of the scored ones."""
    if how == "last":
        return view.score
    known = jnp.isfinite(view.scores) & (jnp.arange(view.scores.shape[1]) < view.steps[:, None])
    if how == "min":
        found = jnp.where(known, view.scores, jnp.inf).min(-1)
    elif how == "prod":
        found = jnp.where(known, view.scores, 1.0).prod(-1)
    elif how == "mean":
        found = jnp.where(known, view.scores, 0.0).sum(-1) / jnp.maximum(known.sum(-1), 1)
    else:
        raise ValueError(f"aggregate: {how!r} is none of last, min, prod, mean")
    return jnp.where(known.any(-1), found, view.score)
