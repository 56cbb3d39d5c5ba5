"""Quantities that are worked out of one another, as a graph; in a chain of steps, or question by question."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from models.errors import require
from scaling.tasks.computation import Computation
from scaling.tasks.task import Problem

NAMES, QUESTION, CLOSE = "abcdefghijklmnop", "?", ";"
_STEP = re.compile(r"[a-p][0-9][-+*][0-9]=([0-9])")
_ATOM = re.compile(rf"(?:\{QUESTION}[^{CLOSE}|.]*{CLOSE})?[a-p]([0-9])")


class Node(NamedTuple):
    """A quantity: its name, and two others or digits with the operation between them."""

    name: str
    left: str
    sign: str
    right: str

    @property
    def ready(self) -> bool:
        """Whether it depends on no other."""
        return self.left.isdigit() and self.right.isdigit()

    def result(self) -> str:
        """What a node that is ready comes to, modulo 10."""
        left, right = int(self.left), int(self.right)
        return str({"+": left + right, "-": left - right, "*": left * right}[self.sign] % 10)

    def given(self, values: dict[str, str]) -> Node:
        """The node with what is known in the place of names."""
        return self._replace(left=values.get(self.left, self.left), right=values.get(self.right, self.right))


@dataclass(frozen=True)
class Dag(Computation):
    """`a3+4,b2*5,ca-b=` asks for c, and `a3+4=7|b2*5=0|c7-0=7.` works out one quantity after the other.

    The first `leaves` of them are operations on digits; `layers` layers of `middle` ones, and the one that is asked
    for, each take two different ones of the layer before. All is modulo 10. The same can be answered by questions that
    replace each other (`atoms`): `a7,b0?c7-0;` solves what depends on nothing else and asks for the rest anew.
    """

    leaves: int = 4
    middle: int = 2
    layers: int = 1

    name = "dag"
    alphabet = f"{NAMES}0123456789+-*=,{QUESTION}{CLOSE}|."
    shown = ("leaves", "middle", "layers")

    def __post_init__(self) -> None:
        require(self.leaves >= 2, "dag.leaves", f"is {self.leaves}", "use 2 or more")
        require(self.middle >= 2, "dag.middle", f"is {self.middle}", "use 2 or more")
        nodes, fix = self.leaves + self.middle * self.layers + 1, f"leave at most {len(NAMES)}"
        require(nodes <= len(NAMES), "dag.layers", f"make {nodes} quantities", fix)

    def draw(self, rng: np.random.Generator) -> Problem:
        """Uniform digits, operations and pairs."""
        names, before = iter(NAMES), [str(digit) for digit in range(10)]
        nodes: list[Node] = []
        for width in (self.leaves, *(self.middle,) * self.layers, 1):
            layer = []
            for _ in range(width):
                left, right = rng.integers(10, size=2) if not nodes else rng.permutation(len(before))[:2]
                layer.append(Node(next(names), before[left], "+-*"[rng.integers(3)], before[right]))
            nodes += layer
            before = [node.name for node in layer]
        return self.problem(nodes)

    def problem(self, nodes: list[Node]) -> Problem:
        """The problem of these quantities, each after those that it depends on; the last one is asked for."""
        text = _listed(nodes)
        return Problem(f"{text}=", text, tuple(nodes))

    def right_steps(self, problem: Problem) -> list[str]:
        return self._worked(problem, [])

    def conclude(self, problem: Problem, steps: list[str]) -> str | None:
        if len(steps) >= len(problem.instance) or not all(map(_STEP.fullmatch, steps)):
            return None
        return self._worked(problem, [step[-1] for step in steps])[-1][-1]

    def read(self, steps: list[str]) -> str | None:
        if len(steps) == 1 and (short := _ATOM.fullmatch(steps[0])) is not None:
            return short[1]
        matches = [_STEP.fullmatch(step) for step in steps]
        return matches[-1][1] if matches and matches[-1] is not None and None not in matches else None

    def atoms(self, problem: Problem) -> list[tuple[str, str]]:
        """(question, what is written about it) from the prompt on, whose question is empty; the first of what follows
        begins with the question that the one before ended with."""
        nodes, asked, found = list(problem.instance), "", []
        while nodes:
            values = {node.name: node.result() for node in nodes if node.ready}
            solved = ",".join(name + value for name, value in values.items())
            nodes = [node.given(values) for node in nodes if not node.ready]
            left = f"{QUESTION}{_listed(nodes)}{CLOSE}" if nodes else self.end
            found.append((asked, solved + left))
            asked = left
        return found

    def _worked(self, problem: Problem, results: list[str]) -> list[str]:
        """All steps, the first ones with these results, right or wrong."""
        values: dict[str, str] = {}
        steps = []
        for i, node in enumerate(problem.instance):
            known = node.given(values)
            values[node.name] = results[i] if i < len(results) else known.result()
            steps.append(f"{''.join(known)}={values[node.name]}")
        return steps


def _listed(nodes: list[Node]) -> str:
    return ",".join("".join(node) for node in nodes)
