"""Broken programs: every line is an operation modulo a prime, and some of the lines are not what an issue asks for."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from models.errors import require
from scaling.tasks.state_space import StateSpace
from scaling.tasks.task import Problem, closed_steps

Program = tuple[str, ...]  # an operation a line: "+3", "*2"


class Issue(NamedTuple):
    """The program that is asked for, two inputs whose values after every line are shown, and the program there is."""

    wanted: Program
    inputs: tuple[int, int]
    broken: Program


class Written(NamedTuple):
    """How many lines are written, and whether all of them are right."""

    lines: int
    right: bool


@dataclass(frozen=True)
class Repair(StateSpace):
    """`36,40,10;+1,*4>` is solved by `+1|*2.`: of 3 and 6 the first line makes 4 and 0, the second 1 and 0.

    A prompt shows two inputs and what both are after every line, and a program of which some lines are wrong. Two
    inputs tell `+n` and `*n` apart; one of them does not, so that a program that was run on the first input alone may
    do what is wanted there and nowhere else. A program is right when every line is.
    """

    modulus: int = 7
    lines: int = 4
    wrong: int = 50  # per cent of the lines of a broken program, which has at least one

    name = "repair"
    alphabet = "0123456789+*,;>|."
    shown = ("lines",)

    def __post_init__(self) -> None:
        primes = (3, 5, 7)
        require(self.modulus in primes, "repair.modulus", f"is {self.modulus}", f"use one of {primes}")
        require(1 <= self.lines <= 8, "repair.lines", f"is {self.lines}", "use 1 to 8")
        require(1 <= self.wrong <= 100, "repair.wrong", f"is {self.wrong}", "use 1 to 100 per cent")

    @functools.cached_property
    def spelled(self) -> Program:
        """Every operation that changes something and can be undone."""
        return (*(f"+{n}" for n in range(1, self.modulus)), *(f"*{n}" for n in range(2, self.modulus)))

    def draw(self, rng: np.random.Generator) -> Problem | None:
        """A uniform program, two uniform inputs, and lines that were put wrong; None where none was."""
        program = tuple(self.spelled[i] for i in rng.integers(len(self.spelled), size=self.lines).tolist())
        first, second = rng.choice(self.modulus, 2, replace=False).tolist()
        broken = self.injected(rng, program, first, self.wrong / 100)
        return None if broken == program else self.problem(program, (first, second), broken)

    def problem(self, wanted: Program, inputs: tuple[int, int], broken: Program) -> Problem:
        """The problem of a program, the inputs that are shown, and what it is repaired from."""
        issue = Issue(wanted, inputs, broken)
        return Problem(f"{self.shows(issue)};{','.join(broken)}>", "|".join(wanted), issue)

    def shows(self, issue: Issue) -> str:
        """The values that an issue shows: those of both inputs before and after every line."""
        both = zip(*(self.values(issue.wanted, x) for x in issue.inputs), strict=True)
        return ",".join(f"{a}{b}" for a, b in both)

    def values(self, program: Sequence[str], given: int) -> tuple[int, ...]:
        """An input, and what it is after every line: the run of a program."""
        return tuple(itertools.accumulate(program, lambda x, line: after(x, line, self.modulus), initial=given))

    def injected(self, rng: np.random.Generator, program: Program, given: int, rate: float) -> Program:
        """A program with errors: each line is put wrong at this rate, half of the times by one that does the same when
        the program is run on the input `given`, where there is such a one."""
        found = []
        for before, line in zip(self.values(program, given), program, strict=False):
            if rng.random() < rate:
                others = [other for other in self.spelled if other != line]
                alike = [o for o in others if after(before, o, self.modulus) == after(before, line, self.modulus)]
                options = alike if alike and rng.random() < 0.5 else others
                line = options[int(rng.integers(len(options)))]
            found.append(line)
        return tuple(found)

    def verdicts(self, issue: Issue, program: Sequence[str]) -> str:
        """A letter for each line of a program: y for one that is right, n for one that is wrong."""
        return "".join("ny"[line == asked] for line, asked in zip(program, issue.wanted, strict=True))

    def program(self, completion: str) -> Program | None:
        """The program that a completion is; None for one that cannot be read."""
        parts = closed_steps(self, completion)
        if parts is None or not parts[1] or len(parts[0]) != self.lines or not set(parts[0]) <= set(self.spelled):
            return None
        return tuple(parts[0])

    def start(self, problem: Problem) -> Written:
        return Written(0, True)

    def moves(self, problem: Problem, state: Any) -> list[tuple[str, Any]]:
        if state.lines == self.lines:
            return []
        asked = problem.instance.wanted[state.lines]
        return [(line, Written(state.lines + 1, state.right and line == asked)) for line in self.spelled]

    def goal(self, problem: Problem, state: Any) -> bool:
        return bool(state == Written(self.lines, True))

    def limit(self, problem: Problem) -> int:
        return self.lines

    def answer(self, completion: str) -> str | None:
        """The program."""
        found = self.program(completion)
        return None if found is None else "|".join(found)


def after(value: int, line: str, modulus: int) -> int:
    """A value after an operation."""
    number = int(line[1:])
    return (value + number if line[0] == "+" else value * number) % modulus
