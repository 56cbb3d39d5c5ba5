"""PolicyTree: an enumerable policy as flat tables, on which search algorithms can be checked against exact answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.errors import require
from scaling.tasks.state_space import State, StateSpace
from scaling.tasks.task import Problem


@dataclass(frozen=True, eq=False)
class PolicyTree:
    """A tree of everything that a policy can write. Node 0 is the root; children follow their parents, level by level.

    Stacked trees (`stack_trees`) have a leading [problems]; nodes that fill one up are unreachable failed leaves.
    """

    child: np.ndarray  # [nodes, A] int32: the node that a step leads to, -1 where there is none
    log_prob: np.ndarray  # [nodes, A] float32: of that step, -inf where there is none
    value: np.ndarray  # [nodes] float64: the probability that the policy ends right from here
    reward: np.ndarray  # [nodes] float32: 1 for a leaf that is right, otherwise 0
    terminal: np.ndarray  # [nodes] bool
    steps: tuple = ()  # the text of the step that leads to each node, closed; one tuple per tree when stacked

    @property
    def depth(self) -> int:
        """Steps to the deepest leaf of a single tree."""
        level = np.zeros(len(self.value), np.int64)
        for node, children in enumerate(self.child):
            level[children[children >= 0]] = level[node] + 1
        return int(level.max())

    def coverage(self, samples: int) -> np.ndarray:
        """The exact probability that one of `samples` independent walks from the root is right; [] or [problems]."""
        root = self.value[..., 0]
        return -np.expm1(samples * np.log1p(-np.minimum(root, 1 - 1e-16)))


def policy_tree(task: StateSpace, problem: Problem, most_nodes: int = 200_000) -> PolicyTree:
    """Enumerate the uniformly random legal policy of a task on one problem.

    Steps that lead to the same state are one child, with the sum of their probabilities and the text of the first.

    Raises:
      ConfigError: there are more than `most_nodes` nodes.
    """
    states: list[State] = [task.start(problem)]
    made, steps = [0], [""]
    edges: list[dict[int, float]] = []
    node = 0
    while node < len(states):
        text = steps[node]
        merged: dict[State, tuple[str, int]] = {}
        moves = [] if text.endswith(task.end) else task.moves(problem, states[node])
        for step, state in moves:
            merged[state] = (merged[state][0] if state in merged else step, merged.get(state, ("", 0))[1] + 1)
        edges.append({})
        for state, (step, count) in merged.items():
            edges[node][len(states)] = math.log(count / len(moves))
            states.append(state)
            made.append(made[node] + 1)
            steps.append(step + task.closing(problem, state, made[-1]))
        problem_text = f"the tree of {problem.prompt!r} has more than {most_nodes} nodes"
        require(len(states) <= most_nodes, "most_nodes", problem_text, "take an easier problem")
        node += 1
    terminal = np.asarray([not edge for edge in edges])
    reward = np.asarray([bool(end) and task.goal(problem, state) for end, state in zip(terminal, states, strict=True)])
    return _tables(edges, reward.astype(np.float32), terminal, tuple(steps))


def stack_trees(trees: Sequence[PolicyTree]) -> PolicyTree:
    """Trees of several problems, padded to one size: child [problems, nodes, A] and so on."""
    nodes = max(len(tree.value) for tree in trees)
    width = max(tree.child.shape[1] for tree in trees)

    def padded(arrays: list[np.ndarray], fill: float) -> np.ndarray:
        shape = (nodes, width) if arrays[0].ndim == 2 else (nodes,)
        stacked = np.full((len(arrays), *shape), fill, arrays[0].dtype)
        for row, array in zip(stacked, arrays, strict=True):
            row[tuple(slice(size) for size in array.shape)] = array
        return stacked

    return PolicyTree(
        padded([tree.child for tree in trees], -1),
        padded([tree.log_prob for tree in trees], -np.inf),
        padded([tree.value for tree in trees], 0),
        padded([tree.reward for tree in trees], 0),
        padded([tree.terminal for tree in trees], True),
        tuple(tree.steps for tree in trees),
    )


def _tables(edges: list[dict[int, float]], reward: np.ndarray, terminal: np.ndarray, steps: tuple) -> PolicyTree:
    width = max(1, max(map(len, edges)))
    child = np.full((len(edges), width), -1, np.int32)
    log_prob = np.full((len(edges), width), -np.inf, np.float32)
    value = reward.astype(np.float64)
    for node in reversed(range(len(edges))):
        if edges[node]:
            children, logs = np.asarray(list(edges[node])), np.asarray(list(edges[node].values()))
            child[node, : len(children)], log_prob[node, : len(children)] = children, logs
            value[node] = np.exp(logs) @ value[children]
    return PolicyTree(child, log_prob, value, reward, terminal, steps)
