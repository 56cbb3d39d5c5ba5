"""Monte Carlo tree search over steps, whose actions are steps sampled from the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from models.errors import require
from search.strategies.astar import repeated
from search.strategies.setting import Setting, Stepwise
from search.strategies.strategy import Answer, Choice, Strategy, View, by_score, either
from search.strategies.survey import Tags

Rule = Literal["puct", "uct"]


class Tree(NamedTuple):
    """A tree in the store: a node's children lie side by side.

    parent, first `[store]` int32: the parent's place and the first child's (-1: none); visits, total `[store]` float32:
    simulations through the node and the sum of their values; prior `[store]` float32, among siblings, 0 for one that
    repeats another; size `[]` int32: nodes so far; fresh `[]` int32: first of the children that the last round wrote
    (-1: none); simulations `[]` int32.
    """

    parent: jax.Array
    first: jax.Array
    visits: jax.Array
    total: jax.Array
    prior: jax.Array
    size: jax.Array
    fresh: jax.Array
    simulations: jax.Array


def puct(
    visits: jax.Array, parent: jax.Array, prior: jax.Array, init: float = 1.25, base: float = 19652.0
) -> jax.Array:
    """The exploration bonus `[children]`: prior * (ln((N + base + 1) / base) + init) * sqrt(N) / (1 + n)."""
    return prior * (jnp.log((parent + base + 1) / base) + init) * jnp.sqrt(parent) / (1 + visits)


def uct(visits: jax.Array, parent: jax.Array, weight: float = 1.0) -> jax.Array:
    """The exploration bonus `[children]`: weight * sqrt(ln N / max(1, n))."""
    return weight * jnp.sqrt(jnp.log(parent) / jnp.maximum(1, visits))


class _MCTS:
    """The parts of `mcts`."""

    strategy: Strategy  # that they make up

    def __init__(self, simulations: int, actions: int, rule: Rule, exploration: float, noise: float, store: int):
        self.simulations, self.actions, self.rule = simulations, actions, rule
        self.exploration, self.noise, self.store = exploration, noise, store

    def init(self) -> Tree:
        floats, none = jnp.zeros(self.store), jnp.full(self.store, -1)
        return Tree(none, none, floats, floats, floats, jnp.int32(1), jnp.int32(-1), jnp.int32(0))

    def children(self, first: jax.Array) -> jax.Array:
        return jnp.maximum(first, 0) + jnp.arange(self.actions)

    def value(self, view: View) -> jax.Array:
        """What a visit of each node is worth, `[store]`: its score, or 0 where it can no longer end."""
        return jnp.where(view.ended & ~view.complete, 0.0, view.score)

    def learned(self, key: jax.Array, tree: Tree, view: View) -> Tree:
        """The tree with the priors of fresh children: the mean probability per token, normalised among siblings."""
        places = self.children(tree.fresh)
        parent = tree.parent[places[0]]
        count = jnp.maximum(view.length[places] - view.length[parent], 1)
        mean = jnp.exp((view.logprob[places] - view.logprob[parent]) / count)
        alone = ~repeated(view, places)
        prior = jnp.where(alone, mean, 0.0)
        prior = prior / prior.sum()
        if self.noise:
            gamma = jnp.where(alone, jax.random.gamma(key, 0.3, (self.actions,)) + 1e-12, 0.0)
            noisy = (1 - self.noise) * prior + self.noise * gamma / gamma.sum()
            prior = jnp.where(parent == 0, noisy, prior)
        return tree._replace(prior=jnp.where(tree.fresh >= 0, tree.prior.at[places].set(prior), tree.prior))

    def leaf(self, tree: Tree, value: jax.Array) -> jax.Array:
        """Down from the root, by the rule, to a node without children; never the root once that has some."""

        def down(node: jax.Array) -> jax.Array:
            places = self.children(tree.first[node])
            visits = tree.visits[places]
            mean = jnp.where(visits > 0, tree.total[places] / jnp.maximum(visits, 1), value[places])
            if self.rule == "puct":
                bonus = puct(visits, tree.visits[node], tree.prior[places], self.exploration)
            else:
                bonus = uct(visits, tree.visits[node], self.exploration)
            return places[jnp.argmax(jnp.where(tree.prior[places] > 0, mean + bonus, -jnp.inf))]

        return jax.lax.while_loop(lambda node: tree.first[node] >= 0, down, jnp.int32(0))

    def backed_up(self, tree: Tree, leaf: jax.Array, value: jax.Array) -> Tree:
        """One more visit of that value for the leaf and all of its ancestors."""

        def up(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            node, visits, total = carry
            return tree.parent[node], visits.at[node].add(1), total.at[node].add(value)

        _, visits, total = jax.lax.while_loop(lambda carry: carry[0] >= 0, up, (leaf, tree.visits, tree.total))
        return tree._replace(visits=visits, total=total)

    def select(self, key: jax.Array, tree: Tree, view: View) -> tuple[Choice, Any]:
        value = self.value(view)
        old, tree = tree, self.learned(key, tree, view)

        def simulate(carry: tuple[Tree, jax.Array]) -> tuple[Tree, jax.Array]:
            """A visit of a leaf that has ended costs nothing: so on until one can go on."""
            tree, _ = carry
            leaf = self.leaf(tree, value)
            tree = self.backed_up(tree, leaf, value[leaf])
            return tree._replace(simulations=tree.simulations + 1), leaf

        def more(carry: tuple[Tree, jax.Array]) -> jax.Array:
            tree, leaf = carry
            return (view.round > 0) & (tree.simulations < self.simulations) & ((leaf < 0) | view.ended[leaf])

        tree, leaf = jax.lax.while_loop(more, simulate, (tree, jnp.int32(-1)))
        leaf = jnp.where(view.round == 0, 0, leaf)
        full = tree.size + self.actions > self.store
        done = view.last | (leaf < 0) | view.ended[leaf] | full
        targets = tree.size + jnp.arange(self.actions)
        new = tree._replace(
            parent=tree.parent.at[targets].set(leaf, mode="drop"),
            first=tree.first.at[leaf].set(tree.size),
            visits=jnp.where(view.round == 0, tree.visits.at[0].set(1), tree.visits),
            size=tree.size + self.actions,
            fresh=tree.size,
        )
        new = either(view.last, old, either(done, tree, new))
        return self.strategy.choice(jnp.full(self.actions, leaf), True, targets=targets, done=done), new

    def most_visited(self, tree: Tree, view: View) -> Answer:
        """Down from the root by most visits; the complete node of the highest score if that ends elsewhere."""

        def down(node: jax.Array) -> jax.Array:
            places = self.children(tree.first[node])
            return places[jnp.argmax(tree.visits[places])]

        def goes_on(node: jax.Array) -> jax.Array:
            return (tree.first[node] >= 0) & (tree.visits[self.children(tree.first[node])] > 0).any()

        node, fallback = jax.lax.while_loop(goes_on, down, jnp.int32(0)), by_score(tree, view)
        return Answer(fallback.weight, jnp.where(view.complete[node], node, fallback.best))

    def report(self, tree: Tree, view: View) -> dict[str, jax.Array]:
        return {"simulations": tree.simulations, "nodes": tree.size}


def mcts(
    simulations: int = 20,
    actions: int = 4,
    rule: Rule = "puct",
    exploration: float | None = None,
    noise: float = 0.0,
    nodes: int | None = None,
    lookahead: int = 0,
    answer: Literal["score", "visits"] = "score",
) -> Strategy:
    """Monte Carlo tree search: `simulations` descents, each of which ends in a leaf, adds its score to all of its
    ancestors and samples `actions` next steps of it.

    Steps that repeat a sibling are no actions. A child that was never visited counts with its score. rule: "puct"
    (Silver et al. 2018; exploration 1.25) or "uct" (Kocsis and Szepesvari 2006; 1). noise: weight of Dirichlet(0.3)
    noise in the root's prior (0.25 is usual). nodes: room for so many (None: for all); the search ends when it is full.
    lookahead: greedy steps beyond a node that its score sees, which makes rollouts of them. answer: the complete node
    of the highest score, or the one that most visits lead to.
    """
    for name, number in (("simulations", simulations), ("actions", actions)):
        require(number >= 1, name, f"is {number}", "give a positive number")
    require(rule in get_args(Rule), "rule", f"is {rule!r}", f"use one of {get_args(Rule)}")
    require(0 <= noise < 1, "noise", f"is {noise}", "give a weight from 0 to below 1")
    require(answer in ("score", "visits"), "answer", f"is {answer!r}", 'use "score" or "visits"')
    store = 1 + actions * (simulations + 1) if nodes is None else nodes
    require(store > actions, "nodes", f"is {store}", f"give more than actions, {actions}")
    weight = exploration if exploration is not None else {"puct": 1.25, "uct": 1.0}[rule]
    parts = _MCTS(simulations, actions, rule, weight, noise, store)
    parts.strategy = Strategy(
        "mcts", actions, store, parts.init, parts.select, by_score if answer == "score" else parts.most_visited,
        replaces=False, lookahead=lookahead, report=parts.report,
    )  # fmt: skip
    return parts.strategy


@dataclass(frozen=True)
class MCTS(Stepwise):
    """Monte Carlo tree search over steps."""

    simulations: int = 20
    actions: int = 4  # next steps that are sampled of a leaf
    rule: Rule = "puct"
    exploration: float | None = None  # weight of what was seldom tried; None: 1.25 for puct, 1 for uct
    noise: float = 0.0  # weight of Dirichlet noise in the root's prior
    nodes: int | None = None  # room for so many; None: for all
    lookahead: int = 0  # greedy steps beyond a node that its score sees
    answer: Literal["score", "visits"] = "score"  # which complete node answers

    name = "mcts"
    tags = Tags("hybrid", ("verification", "search"), "steps", ("accuracy", "scalability"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `mcts`."""
        return mcts(
            self.simulations, self.actions, self.rule, self.exploration, self.noise, self.nodes, self.lookahead,
            self.answer,
        )  # fmt: skip
