"""What several reproductions share: reasoning trees whose policy, values and difficulty are known exactly.

A problem is a full tree of depth DEPTH. The first wrong step of a chain spoils it, so that a leaf is right when all of
its steps are; how many children are right steps differs from problem to problem, from a third to nearly all. The
policy draws children by Dirichlet weights. A process reward model says the exact chance of success, blurred: normal
noise of a chosen width on its log-odds, drawn once for every node. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search.config import Budget, SearchConfig
from search.searcher import Found, Searcher, SearchProblem
from search.strategies.strategy import Strategy
from search.tree_decoder import TreeDecoder
from search.verifiers.scorer import ValueScorer

ACTIONS, DEPTH = 3, 6
INNER = (ACTIONS**DEPTH - 1) // (ACTIONS - 1)
NODES = (ACTIONS ** (DEPTH + 1) - 1) // (ACTIONS - 1)
EASE = (0.35, 0.95)  # chance that a child is a right step, uniform over problems
SURE = 0.02  # the reward model's values end here and at 1 - SURE before they are blurred


@dataclass(frozen=True)
class Forest:
    """child `[nodes, actions]` of every tree (-1: none); log_prob `[trees, nodes, actions]`; value `[trees, nodes]`:
    the exact chance that a chain through the node ends right, 0 or 1 at leaves."""

    child: np.ndarray
    log_prob: np.ndarray
    value: np.ndarray

    def blurred(self, noise: float, seed: int = 1) -> np.ndarray:
        """What a reward model says of every node, `[trees, nodes]`."""
        value = np.clip(self.value, SURE, 1 - SURE)
        logit = np.log(value / (1 - value))
        return 1 / (1 + np.exp(-logit - noise * np.random.default_rng(seed).standard_normal(value.shape)))

    @property
    def chance(self) -> np.ndarray:
        """That the policy comes to every leaf, `[trees, leaves]`."""
        total = np.zeros((len(self.value), NODES))
        for node in range(1, NODES):
            above, token = divmod(node - 1, ACTIONS)
            total[:, node] = total[:, above] + self.log_prob[:, above, token]
        return np.exp(total[:, INNER:])

    def best_of(self, scores: np.ndarray, samples: Sequence[int]) -> np.ndarray:
        """The exact chance that the best of so many by `scores` `[trees, leaves]` is right, `[trees, sizes]`."""
        order = np.argsort(scores, 1, kind="stable")
        below = np.minimum(np.take_along_axis(self.chance, order, 1).cumsum(1), 1)[..., None] ** np.asarray(samples)
        won = np.diff(below, axis=1, prepend=0)
        return np.einsum("tls,tl->ts", won, np.take_along_axis(self.value[:, INNER:], order, 1))

    def leaf(self, tokens: tuple[int, ...]) -> int:
        """The node at the end of a chain."""
        node = 0
        for token in tokens:
            node = node * ACTIONS + 1 + token
        return node


def forest(trees: int, seed: int = 0) -> Forest:
    """Problems of all difficulties."""
    rng = np.random.default_rng(seed)
    child = np.full((NODES, ACTIONS), -1)
    child[:INNER] = np.arange(INNER)[:, None] * ACTIONS + 1 + np.arange(ACTIONS)
    log_prob = np.log(rng.dirichlet(np.ones(ACTIONS), size=(trees, NODES)))
    value = (rng.random((trees, NODES)) < rng.uniform(*EASE, (trees, 1))).astype(float)  # is this step right?
    value[:, 0] = 1
    for node in range(1, NODES):
        value[:, node] *= value[:, (node - 1) // ACTIONS]
    for node in reversed(range(INNER)):
        value[:, node] = (np.exp(log_prob[:, node]) * value[:, child[node]]).sum(1)
    return Forest(child, log_prob, value)


def searched(
    trees: Forest, scores: np.ndarray, strategy: Strategy, *, budget: int | None = None, rounds: int = 64
) -> list[Found]:
    """One search of every problem, in their order, with these `scores` `[trees, nodes]` of nodes; a step is a token.

    budget: the most tokens, drawn or scored, of one problem; rounds: the most of its search."""
    count = len(scores)
    decoder = TreeDecoder(np.broadcast_to(trees.child, (count, NODES, ACTIONS)), trees.log_prob, scores)
    config = SearchConfig(
        problems=min(count, 125), prompt_len=1, max_tokens=DEPTH, max_steps=DEPTH, max_rounds=rounds,
        tokens_per_step=1, budget=None if budget is None else Budget(budget),
    )  # fmt: skip
    search = Searcher(decoder, strategy, config, ValueScorer())
    return sorted(search.run(SearchProblem(i, i) for i in range(count)), key=lambda one: one.problem.number)


def judged(trees: Forest, found: list[Found]) -> list[bool]:
    """Whether the answer of every problem is right; no answer is wrong."""
    return [
        one.answer is not None and bool(trees.value[i, trees.leaf(one.answer)] == 1) for i, one in enumerate(found)
    ]
