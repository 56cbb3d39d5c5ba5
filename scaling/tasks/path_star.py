"""Paths through graphs: path-star, where a wrong first step is fatal, and random acyclic graphs with several paths."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from models.errors import require
from scaling.tasks.state_space import State, StateSpace
from scaling.tasks.task import Problem, closed_steps

_NODE = re.compile(r"0|[1-9][0-9]{0,2}")


class Graph(NamedTuple):
    """Edges in the order in which the prompt lists them, and the two ends of the path that is asked for."""

    edges: tuple[tuple[int, int], ...]
    source: int
    target: int

    def after(self, node: int) -> list[int]:
        """The nodes that edges lead to from here, in the order of the edges."""
        return [head for tail, head in self.edges if tail == node]


class GraphPath(StateSpace):
    """`12>5,5>9,12>3?12,9:` is solved by `5|9.`: the nodes after the first, each at the end of an edge."""

    alphabet = "0123456789>,?:|."

    def start(self, problem: Problem) -> State:
        return problem.instance.source

    def moves(self, problem: Problem, state: Any) -> list[tuple[str, State]]:
        return [(str(head), head) for head in problem.instance.after(state)]

    def goal(self, problem: Problem, state: Any) -> bool:
        return state == problem.instance.target

    def answer(self, completion: str) -> str | None:
        """The path itself; None unless it is a list of nodes."""
        parts = closed_steps(self, completion)
        if parts is None or not parts[1] or not all(_NODE.fullmatch(step) for step in parts[0]):
            return None
        return self.delimiter.join(parts[0])

    def problem(self, graph: Graph) -> Problem:
        """The problem of finding a path through this graph."""
        listed = [f"{tail}>{head}" for tail, head in graph.edges]
        ends = f"?{graph.source},{graph.target}:"
        return Problem(",".join(listed) + ends, ",".join(sorted(listed)) + ends, graph)


@dataclass(frozen=True)
class PathStar(GraphPath):
    """`arms` arms of `length` edges from one node; the target ends one of them (Bachmann & Nagarajan 2024).

    Nothing near the start tells the arms apart, so guessing is right with probability 1 / arms exactly.
    """

    arms: int = 5
    length: int = 3
    labels: int = 30  # nodes are numbered 0 to labels - 1, at random

    name = "path_star"

    def __post_init__(self) -> None:
        require(self.arms >= 2, "path_star.arms", f"is {self.arms}", "use 2 or more")
        require(self.length >= 1, "path_star.length", f"is {self.length}", "use 1 or more")
        nodes = self.arms * self.length + 1
        require(nodes <= self.labels <= 1000, "path_star.labels", f"is {self.labels}", f"use {nodes} to 1000")

    def draw(self, rng: np.random.Generator) -> Problem:
        """Random labels, a random order of the edges, a random arm."""
        labels = rng.permutation(self.labels)[: self.arms * self.length + 1].tolist()
        source, arms = labels[0], np.reshape(labels[1:], (self.arms, self.length)).tolist()
        edges = [edge for arm in arms for edge in zip([source, *arm], arm)]
        order = rng.permutation(len(edges)).tolist()
        target = arms[int(rng.integers(self.arms))][-1]
        return self.problem(Graph(tuple(edges[i] for i in order), source, target))


@dataclass(frozen=True)
class RandomGraph(GraphPath):
    """A random acyclic graph: edges from each node to `degree` later ones; the target `shortest` or more steps away."""

    nodes: int = 10
    degree: int = 2
    shortest: int = 3

    name = "random_graph"

    def __post_init__(self) -> None:
        require(3 <= self.nodes <= 100, "random_graph.nodes", f"is {self.nodes}", "use 3 to 100")
        require(1 <= self.degree < self.nodes, "random_graph.degree", f"is {self.degree}", "use 1 to nodes - 1")
        most = self.nodes - 1
        require(1 <= self.shortest <= most, "random_graph.shortest", f"is {self.shortest}", f"use 1 to {most}")

    def draw(self, rng: np.random.Generator) -> Problem | None:
        """None if no node is so far from the first."""
        labels = rng.permutation(self.nodes).tolist()
        edges = []
        for place in range(self.nodes - 1):
            later = self.nodes - 1 - place
            heads = rng.permutation(later)[: self.degree].tolist()
            edges += [(labels[place], labels[place + 1 + head]) for head in heads]
        shuffled = tuple(edges[i] for i in rng.permutation(len(edges)).tolist())
        far = [node for node, steps in _steps_from(shuffled, labels[0]).items() if steps >= self.shortest]
        return self.problem(Graph(shuffled, labels[0], far[int(rng.integers(len(far)))])) if far else None


def _steps_from(edges: tuple[tuple[int, int], ...], source: int) -> dict[int, int]:
    """The length of the shortest path to every node that can be reached."""
    steps, frontier = {source: 0}, [source]
    for node in frontier:
        for tail, head in edges:
            if tail == node and head not in steps:
                steps[head] = steps[node] + 1
                frontier.append(head)
    return steps
