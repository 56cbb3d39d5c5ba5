"""Metropolis-Hastings over answers (QAlign, Faria et al. 2025): chains that regenerate the end of their last answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from models.errors import require
from search.strategies.setting import Setting, StrategyConfig, answer_of
from search.strategies.strategy import WHOLE, Answer, Choice, Strategy, View
from search.strategies.survey import Tags
from search.strategies.votes import UNREAD, AnswerOf, codes, leader, whole


class Chains(NamedTuple):
    """current, proposed `[chains]` int32: places of what each chain stands at and of what it tries; visits `[store]`
    int32: steps spent at each place after the burn-in; accepted, tried `[]` int32."""

    current: jax.Array
    proposed: jax.Array
    visits: jax.Array
    accepted: jax.Array
    tried: jax.Array


def acceptance(
    reward: jax.Array, proposed: jax.Array, length: jax.Array, proposed_length: jax.Array, beta: float
) -> jax.Array:
    """min(1, exp(clip((r' - r) / beta + log|y| - log|y'|, +-20))), float32.

    The proposal cuts y at a uniform index of its |y| and draws the rest, so that p(y) cancels and the lengths remain.
    """
    log_ratio = (proposed - reward) / beta + jnp.log(length) - jnp.log(proposed_length)
    return jnp.minimum(1.0, jnp.exp(jnp.clip(log_ratio, -20.0, 20.0)))


def metropolis(
    chains: int,
    steps: int,
    beta: float = 0.1,
    *,
    reward: Literal["score", "log"] = "score",
    burn_in: int = 0,
    record: bool = True,
    answer_of: AnswerOf = whole,
) -> Strategy:
    """`chains` chains of `steps` proposals each; their target is p(y | x) exp(r(y) / beta) over finished texts.

    reward: r is the score, or its logarithm (then beta = 1 gives the posterior p(y) score(y)). A text that was cut
    short by max_tokens is a state like any other, but no answer. record: keep every state, in chains * (steps + 1)
    places; a particle's weight is how often a chain stood at it, and the answer is the vote of these weights after
    `burn_in` steps (the mode of the chain, not its best state). Without: 2 * chains places for any number of steps,
    and the vote is of where the chains stand at the end. Reported: the acceptance rate.
    """
    require(chains >= 1, "chains", f"is {chains}", "give 1 or more")
    require(steps >= 1, "steps", f"is {steps}", "give 1 or more")
    require(beta > 0, "beta", f"is {beta}", "give a positive number")
    require(reward in ("score", "log"), "reward", f"is {reward!r}", "use 'score' or 'log'")
    require(0 <= burn_in <= steps, "burn_in", f"is {burn_in} of {steps} steps", "leave some steps")
    store = chains * (steps + 1) if record else 2 * chains
    rows = jnp.arange(chains)

    def init() -> Chains:
        zero = jnp.int32(0)
        return Chains(rows, rows, jnp.zeros(store, jnp.int32), zero, zero)

    def select(key: jax.Array, state: Chains, view: View) -> tuple[Choice, Chains]:
        decide, cut = jax.random.split(jax.random.wrap_key_data(key, impl="threefry2x32"))
        worth = view.score if reward == "score" else jnp.log(view.score)
        state = _decided(decide, state, view, worth, beta, burn_in)
        places = view.round * chains + rows if record else jnp.where(state.current < chains, chains, 0) + rows
        places = jnp.where(view.round == 0, rows, places)
        length = view.length[state.current]
        # The smaller of two roundings: a uniform number below 1 times the length may round up to it.
        index = jnp.minimum((jax.random.uniform(cut, (chains,)) * length).astype(jnp.int32), length - 1)
        choice = strategy.choice(
            state.current,
            (view.round == 0) | (length > 0),
            targets=places,
            steps=WHOLE,
            cut=jnp.where(view.round == 0, -1, index),
            done=view.round > steps,
        )
        return choice, state._replace(proposed=places)

    def answer(state: Chains, view: View) -> Answer:
        # An anytime curve asks before the last proposals are decided: they then count as not yet made.
        standing = jnp.zeros(store, jnp.int32).at[state.current].add(1)
        visits = state.visits if record else standing
        visits = jnp.where(visits.any(), visits, standing)
        found = codes(answer_of, view)
        weight = jnp.where(found == UNREAD, 0, visits).astype(jnp.float32)
        return Answer(weight, leader(found, weight))

    def report(state: Chains, view: View) -> dict[str, jax.Array]:
        return {"acceptance": state.accepted / jnp.maximum(state.tried, 1), "proposals": state.tried}

    strategy = Strategy("metropolis", chains, store, init, select, answer, replaces=False, cuts=True, report=report)
    return strategy


def _decided(key: jax.Array, state: Chains, view: View, worth: jax.Array, beta: float, burn_in: int) -> Chains:
    """Accept or reject what was tried in the last round; worth `[store]`: the rewards. What a budget cut short was
    not tried."""
    old, new = state.current, state.proposed
    finished = view.ended[new] & (view.round > 0)
    chance = acceptance(worth[old], worth[new], view.length[old], view.length[new], beta)
    taken = finished & ((view.round == 1) | (jax.random.uniform(key, old.shape) < chance))
    current = jnp.where(taken, new, old)
    visited = finished & (view.round > burn_in)
    tried = finished & (view.round > 1)
    return state._replace(
        current=current,
        visits=state.visits.at[current].add(visited.astype(jnp.int32)),
        accepted=state.accepted + (taken & tried).sum(),
        tried=state.tried + tried.sum(),
    )


@dataclass(frozen=True)
class Metropolis(StrategyConfig):
    """Metropolis-Hastings over answers: chains that write the end of their last answer anew."""

    chains: int
    steps: int  # proposals of each chain
    beta: float = 0.1  # the target is p(y) exp(reward(y) / beta)
    reward: Literal["score", "log"] = "score"
    burn_in: int = 0  # steps whose states do not vote
    record: bool = True  # keep every state, or only where the chains stand
    answer: str | None = None  # how an answer is read, such as number:####; None: as the search says

    name = "metropolis"
    tags = Tags("sequential", ("verification", "aggregation"), "answers", ("accuracy", "scalability"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `metropolis`."""
        read = answer_of(self.answer, setting)
        return metropolis(
            self.chains, self.steps, self.beta, reward=self.reward, burn_in=self.burn_in, record=self.record,
            answer_of=read,
        )  # fmt: skip
