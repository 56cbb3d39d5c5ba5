"""A*-decoding: a frontier of partial generations, of which the ones of least estimated cost go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from models.errors import require
from search.strategies.setting import Setting, Stepwise, Voting
from search.strategies.strategy import WHOLE, Answer, Choice, Strategy, View, either
from search.strategies.survey import Tags


class Node(NamedTuple):
    """What costs are made of, `[n]` each: score, tokens so far, and their log-probability."""

    score: jax.Array
    length: jax.Array
    logprob: jax.Array


Cost = Callable[[Node, Node], jax.Array]  # (parents, children) -> what the step between them costs, at least 0


class Frontier(NamedTuple):
    """held `[store]` bool: the place holds a node that may be answered with or gone on from; cost `[store]`: g, of a
    fresh node its parent's; parent: what the fresh nodes' costs need; fresh `[width]` int32: places written in the last
    round (store: none); serial `[store]` int32: order of age; made, popped, evicted `[]` int32: how many."""

    held: jax.Array
    cost: jax.Array
    parent: Node
    fresh: jax.Array
    serial: jax.Array
    made: jax.Array
    popped: jax.Array
    evicted: jax.Array


def drops(before: Node, after: Node) -> jax.Array:
    """How far the score fell, summed along the path; the first step is free, because prompts have no score."""
    return jnp.where(before.length == 0, 0.0, jnp.maximum(0.0, before.score - after.score))


def tokens(per_token: float) -> Cost:
    """A price per token."""
    return lambda before, after: per_token * (after.length - before.length)


def surprise(per_nat: float = 1.0) -> Cost:
    """The negative log-probability of the step: without a heuristic, the search for the likeliest generation."""
    return lambda before, after: per_nat * (before.logprob - after.logprob)


def shortfall(view: View) -> jax.Array:
    """1 - score `[store]`, the estimated cost to the end."""
    return 1 - view.score


def repeated(view: View, places: jax.Array) -> jax.Array:
    """Which of the particles at `places` `[n]` say what one before them says, `[n]` bool."""
    tokens = view.tokens[places]
    same = (tokens[:, None] == tokens[None]).all(-1)
    return (same & jnp.tril(jnp.ones(same.shape, bool), -1)).any(-1)


class _AStar:
    """The parts of `astar`."""

    strategy: Strategy  # that they make up

    def __init__(
        self, branch: int, pops: int, store: int, cost: Cost, heuristic: Callable, answers: int, reserve: float
    ):
        self.branch, self.pops, self.store = branch, pops, store
        self.cost, self.heuristic, self.answers, self.reserve = cost, heuristic, answers, reserve
        self.width = branch * pops

    def init(self) -> Frontier:
        floats, ints, none = jnp.zeros(self.store), jnp.zeros(self.store, jnp.int32), jnp.int32(0)
        node, held = Node(floats, ints, floats), jnp.arange(self.store) == 0
        return Frontier(held, floats, node, jnp.full(self.width, self.store), ints, none + 1, none, none)

    def known(self, frontier: Frontier, view: View) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(held, cost, estimate f = cost + heuristic) `[store]` now that the fresh nodes are scored.

        A fresh node that repeats a sibling, or ended without an end, is not held.
        """
        store = self.store
        fresh = jnp.zeros(store, bool).at[frontier.fresh].set(True, mode="drop")
        places = jnp.minimum(frontier.fresh, store - 1)
        twice = (
            jnp.zeros(store, bool).at[jnp.where(repeated(view, places), frontier.fresh, store)].set(True, mode="drop")
        )
        now = Node(view.score, view.length, view.logprob)
        cost = jnp.where(fresh, frontier.cost + self.cost(frontier.parent, now), frontier.cost)
        held = frontier.held & ~twice & (~view.ended | view.complete)
        return held, cost, cost + self.heuristic(view)

    def select(self, key: jax.Array, frontier: Frontier, view: View) -> tuple[Choice, Any]:
        store, rows = self.store, jnp.arange(self.width)
        held, cost, estimate = self.known(frontier, view)
        able, terminal = held & ~view.ended, held & view.complete
        best = jnp.min(jnp.where(able, estimate, jnp.inf))
        proven = terminal & (estimate <= best)
        scarce = view.left < self.reserve
        done = (proven.sum() >= self.answers) | ~able.any() | (scarce & terminal.any()) | view.last
        order = jnp.lexsort((frontier.serial, -view.steps, jnp.where(able, estimate, jnp.inf)))
        parents = jnp.where(view.round == 0, 0, order[rows // self.branch])
        # With little of the budget left and nothing to answer with, the best node is written to its end.
        live = able[parents] & (~scarce | (rows == 0))
        gone = jnp.zeros(store, bool).at[jnp.where(live, parents, store)].set(True, mode="drop")
        left = held & ~gone
        kind = jnp.where(left, 1 + terminal, 0)  # free places first, then open nodes, then answers, the worst first
        victims = jnp.lexsort((-frontier.serial, view.steps, jnp.where(left, -estimate, 0.0), kind))
        targets = jnp.where(live, victims[jnp.cumsum(live) - 1], store)

        def at_targets(old: jax.Array, new: jax.Array) -> jax.Array:
            return old.at[targets].set(new.astype(old.dtype), mode="drop")

        origin = Node(view.score[parents], view.length[parents], view.logprob[parents])
        new = Frontier(
            held=at_targets(left, live),
            cost=at_targets(cost, cost[parents]),
            parent=jax.tree.map(at_targets, frontier.parent, origin),
            fresh=targets,
            serial=at_targets(frontier.serial, frontier.made + jnp.cumsum(live) - 1),
            made=frontier.made + live.sum(),
            popped=frontier.popped + gone.sum(),
            evicted=frontier.evicted + (live & left[jnp.minimum(targets, store - 1)]).sum(),
        )
        new = either(done, frontier, new)
        steps = jnp.where(scarce, WHOLE, 1)
        return self.strategy.choice(parents, live, targets=targets, steps=steps, done=done), new

    def answer(self, frontier: Frontier, view: View) -> Answer:
        held, _, estimate = self.known(frontier, view)
        terminal = held & view.complete
        order = jnp.lexsort((frontier.serial, -view.steps, jnp.where(terminal, estimate, jnp.inf)))
        return Answer(jnp.where(terminal, view.score, 0.0), jnp.where(terminal.any(), order[0], -1))

    def report(self, frontier: Frontier, view: View) -> dict[str, jax.Array]:
        held, _, estimate = self.known(frontier, view)
        able = held & ~view.ended
        terminal = jnp.where(held & view.complete, estimate, jnp.inf)
        return {
            "popped": frontier.popped,
            "evicted": frontier.evicted,
            "open": able.sum(),
            "proven": terminal.min() <= jnp.where(able, estimate, jnp.inf).min(),
        }


def astar(
    branch: int = 4,
    pops: int = 1,
    capacity: int = 32,
    cost: Cost = drops,
    heuristic: Callable[[View], jax.Array] = shortfall,
    answers: int = 1,
    reserve: float = 0.0,
) -> Strategy:
    """A* over steps: each round takes the `pops` open nodes of least f = cost so far + heuristic and samples `branch`
    next steps of each; the first round samples all of them from the prompt.

    capacity: nodes kept; the worst open node makes room, and evictions are counted. Ties: the deeper, then the older.
    Stops when `answers` complete nodes have no open node below their f: the first such is optimal among what was
    sampled, if the heuristic is consistent and nothing was evicted; or when no node is open. reserve: share of the
    budget from which on, while there is no answer, the best node is written to its end. The answer is the complete
    node of least f.
    """
    for name, value in (("branch", branch), ("pops", pops), ("answers", answers)):
        require(value >= 1, name, f"is {value}", "give a positive number")
    require(capacity > branch * pops, "capacity", f"is {capacity}", f"give more than branch * pops, {branch * pops}")
    require(0 <= reserve < 1, "reserve", f"is {reserve}", "give a share from 0 to below 1")
    parts = _AStar(branch, pops, capacity, cost, heuristic, answers, reserve)
    parts.strategy = Strategy(
        "astar", parts.width, capacity, parts.init, parts.select, parts.answer, replaces=False, report=parts.report
    )
    return parts.strategy


@dataclass(frozen=True)
class AStar(Stepwise, Voting):
    """A* over steps, with what scores lack as the heuristic."""

    branch: int = 4  # next steps that are sampled of a node
    pops: int = 1  # nodes that a round takes
    capacity: int = 32  # nodes kept
    cost: Literal["drops", "tokens", "surprise"] = "drops"  # of a step: the fall of its score, its tokens, its nats
    per_unit: float = 1.0  # what a token costs, or a nat
    answers: int = 1  # complete nodes after which it stops, when no open one is better
    reserve: float = 0.0  # share of the budget from which on the best node is written to its end

    name = "astar"
    tags = Tags("hybrid", ("verification", "search"), "steps", ("accuracy", "efficiency"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `astar`."""
        cost = {"drops": drops, "tokens": tokens(self.per_unit), "surprise": surprise(self.per_unit)}[self.cost]
        return astar(self.branch, self.pops, self.capacity, cost, answers=self.answers, reserve=self.reserve)
