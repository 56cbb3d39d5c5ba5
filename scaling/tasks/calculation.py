"""Calculation: sums and products of whole numbers, with a calculator that a policy may ask."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.errors import require
from scaling.tasks.computation import Computation
from scaling.tasks.environment import FAILED, Environment, Reply
from scaling.tasks.task import Problem

_NUMBER = r"(?:0|[1-9][0-9]{0,17})"  # so that no reply is longer than 36 digits, however often it is asked
_ASKED = re.compile(rf"({_NUMBER})([+*])({_NUMBER})=")
_STEP = re.compile(r"(?:[0-9]+[+*][0-9]+=)?(0|[1-9][0-9]{0,35})")


@dataclass(frozen=True)
class Calculation(Computation):
    """`12*34+56:` is solved by `12*34=408|408+56=464.` from left to right, or by `464.` at once.

    Its environment is a calculator, which writes what follows an `=`. What it could not compute (`12*=!`) is passed
    over when a completion is read, as a grader would; the process reward counts it as an error.
    """

    operations: int = 2
    digits: int = 2  # of every number

    name = "calculation"
    alphabet = "0123456789+*=:|.!"

    def __post_init__(self) -> None:
        require(1 <= self.operations <= 16, "calculation.operations", f"is {self.operations}", "use 1 to 16")
        largest = 17 // (self.operations + 1)
        problem = f"is {self.digits}, too large for the calculator"
        require(1 <= self.digits <= max(1, largest), "calculation.digits", problem, f"use 1 to {max(1, largest)}")

    def draw(self, rng: np.random.Generator) -> Problem:
        """Uniform numbers of so many digits, and uniform operations."""
        numbers = rng.integers(10 ** (self.digits - 1), 10**self.digits, self.operations + 1).tolist()
        return self.problem(numbers, ["+*"[i] for i in rng.integers(0, 2, self.operations).tolist()])

    def problem(self, numbers: list[int], signs: list[str]) -> Problem:
        """The problem of these numbers [operations + 1] and signs [operations]."""
        text = str(numbers[0]) + "".join(f"{sign}{number}" for sign, number in zip(signs, numbers[1:], strict=True))
        return Problem(f"{text}:", text, (tuple(numbers), tuple(signs)))

    def environment(self) -> Environment:
        return Calculator()

    def right_steps(self, problem: Problem) -> list[str]:
        return self._steps(problem, problem.instance[0][0], 0)

    def conclude(self, problem: Problem, steps: list[str]) -> str | None:
        done, reached = len(served(steps)), self.read(steps)
        if done == 0:
            return self.right_answer(problem)
        if reached is None or done >= len(problem.instance[1]):
            return None
        return self.read(self._steps(problem, int(reached), done))

    def read(self, steps: list[str]) -> str | None:
        matches = [_STEP.fullmatch(step) for step in served(steps)]
        return matches[-1].group(1) if matches and matches[-1] is not None and None not in matches else None

    def _steps(self, problem: Problem, value: int, done: int) -> list[str]:
        """The steps that are left after `done` of them have come to `value`."""
        numbers, signs = problem.instance
        found = []
        for sign, number in list(zip(signs, numbers[1:], strict=True))[done:]:
            following = _result(value, sign, number)
            found.append(f"{value}{sign}{number}={following}")
            value = following
        return found


def served(steps: list[str]) -> list[str]:
    """The steps that the calculator did not refuse."""
    return [step for step in steps if not step.endswith(f"={FAILED}")]


class Calculator(Environment):
    """`12*34=` is answered by `408`, and what is no sum or product of two whole numbers by `!`. It has no state.

    A number that is asked about has at most 18 digits. What is asked is parsed, never evaluated.
    """

    calls = ("=",)

    def reset(self, problem: Problem) -> Hashable:
        return None

    def step(self, state: Any, text: str) -> Reply:
        match = _ASKED.fullmatch(text.rpartition("|")[2])
        if match is None:
            return Reply(None, FAILED, failed=True)
        return Reply(None, str(_result(int(match[1]), match[2], int(match[3]))))


def _result(first: int, sign: str, second: int) -> int:
    return first + second if sign == "+" else first * second
