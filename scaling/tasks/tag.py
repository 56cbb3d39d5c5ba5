"""m-tag systems: a rewriting rule applied again and again, in which every step can go wrong (TMBench)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.errors import require
from scaling.tasks.computation import Computation
from scaling.tasks.task import Problem, closed_steps


@dataclass(frozen=True)
class Tag(Computation):
    """`A:BC,B:A,C:AB;ABC>` is solved by `CBC|CA...`: the states in order, up to `steps` of them.

    A step reads the first letter, removes `drop` letters and appends the rule of the letter read. A state with fewer
    than `drop` letters halts, marked `!`. Systems that come back to a state are not drawn.
    """

    letters: int = 3
    longest_rule: int = 3
    shortest_start: int = 2
    longest_start: int = 5
    steps: int = 6
    drop: int = 2

    name = "tag"
    alphabet = "ABCDEFGH:,;>!|."

    def __post_init__(self) -> None:
        require(1 <= self.letters <= 8, "tag.letters", f"is {self.letters}", "use 1 to 8")
        require(self.longest_rule >= 1, "tag.longest_rule", f"is {self.longest_rule}", "use 1 or more")
        require(self.steps >= 1, "tag.steps", f"is {self.steps}", "use 1 or more")
        require(self.drop >= 1, "tag.drop", f"is {self.drop}", "use 1 or more")
        require(
            self.drop <= self.shortest_start <= self.longest_start,
            "tag.shortest_start",
            f"starts have {self.shortest_start} to {self.longest_start} letters",
            f"use an increasing range from {self.drop} (tag.drop), or the system halts before its first step",
        )

    def draw(self, rng: np.random.Generator) -> Problem | None:
        """Random rules and a random start; None if a state comes back."""

        def word(shortest: int, longest: int) -> str:
            length = int(rng.integers(shortest, longest + 1))
            return "".join(self.alphabet[i] for i in rng.integers(0, self.letters, length).tolist())

        rules = tuple(word(1, self.longest_rule) for _ in range(self.letters))
        start = word(self.shortest_start, self.longest_start)
        states = [start, *(state.rstrip("!") for state in self._run(rules, start, self.steps))]
        return self.problem(rules, start) if len(set(states)) == len(states) else None

    def problem(self, rules: tuple[str, ...], start: str) -> Problem:
        """The problem of these rules, in the order of the letters, and this start."""
        listed = ",".join(f"{letter}:{rule}" for letter, rule in zip(self.alphabet, rules, strict=False))
        return Problem(f"{listed};{start}>", f"{listed};{start}", (rules, start))

    def right_steps(self, problem: Problem) -> list[str]:
        rules, start = problem.instance
        return self._run(rules, start, self.steps)

    def conclude(self, problem: Problem, steps: list[str]) -> str | None:
        rules, start = problem.instance
        last, left = steps[-1] if steps else start, self.steps - len(steps)
        if self.read([*steps, start]) is None or left < 1 or len(last.rstrip("!")) < self.drop:
            return None  # unreadable, or it should have ended
        return self.delimiter.join([*steps, *self._run(rules, last, left)])

    def read(self, steps: list[str]) -> str | None:
        letters = set(self.alphabet[: self.letters])
        readable = all(step.removesuffix("!") and letters.issuperset(step.removesuffix("!")) for step in steps)
        return self.delimiter.join(steps) if steps and readable else None

    def right_share(self, problem: Problem, completion: str) -> float:
        """The share of the solution's states that are right before the first wrong one (TMBench's stepwise score)."""
        parts, right = closed_steps(self, completion), self.right_steps(problem)
        matches = [written == state for written, state in zip(parts[0] if parts else [], right, strict=False)]
        return (matches.index(False) if False in matches else len(matches)) / len(right)

    def _run(self, rules: tuple[str, ...], state: str, steps: int) -> list[str]:
        """The next `steps` states, fewer if it halts."""
        states = []
        for _ in range(steps):
            if len(state) < self.drop:
                break
            state = state[self.drop :] + rules[self.alphabet.index(state[0])]
            states.append(state if len(state) >= self.drop else f"{state}!")
            state = states[-1].rstrip("!")
        return states
