"""Random trees whose policies can be enumerated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from search.tree_decoder import TreeDecoder


@dataclass(frozen=True)
class Trees:
    """child, log_prob `[trees, nodes, actions]`; value `[trees, nodes]`: chance of success under the policy; reward
    `[trees, nodes]`: 1 at right leaves. All leaves are `depth` tokens deep."""

    child: np.ndarray
    log_prob: np.ndarray
    value: np.ndarray
    reward: np.ndarray
    depth: int

    @property
    def decoder(self) -> TreeDecoder:
        return TreeDecoder(self.child, self.log_prob, self.value)

    def walk(self, tree: int, tokens: tuple[int, ...]) -> int:
        """The node that these tokens lead to."""
        node = 0
        for token in tokens:
            node = int(self.child[tree, node, token])
        return node

    def leaves(self, tree: int) -> dict[tuple[int, ...], float]:
        """The probability of every complete walk."""
        found: dict[tuple[int, ...], float] = {}

        def visit(node: int, walk: tuple[int, ...], log_prob: float) -> None:
            children = [(a, c) for a, c in enumerate(self.child[tree, node]) if c >= 0]
            if not children:
                found[walk] = float(np.exp(log_prob))
            for action, child in children:
                visit(int(child), (*walk, action), log_prob + float(self.log_prob[tree, node, action]))

        visit(0, (), 0.0)
        return found


def random_trees(seed: int, trees: int = 2, actions: int = 3, depth: int = 4, right: float = 0.2) -> Trees:
    """Full trees with random policies and random right leaves."""
    rng = np.random.default_rng(seed)
    nodes = (actions ** (depth + 1) - 1) // (actions - 1)
    inner = (actions**depth - 1) // (actions - 1)
    child = np.full((trees, nodes, actions), -1)
    child[:, :inner] = np.arange(inner)[:, None] * actions + 1 + np.arange(actions)
    log_prob = np.log(rng.dirichlet(np.ones(actions), size=(trees, nodes)))
    reward = np.zeros((trees, nodes))
    reward[:, inner:] = rng.random((trees, nodes - inner)) < right
    value = reward.copy()
    for tree in range(trees):
        for node in reversed(range(inner)):
            value[tree, node] = np.exp(log_prob[tree, node]) @ value[tree, child[tree, node]]
    return Trees(child, log_prob, value, reward, depth)
