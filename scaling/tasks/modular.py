"""Chains of arithmetic modulo a small prime, evaluated from left to right."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from models.errors import require
from scaling.tasks.computation import Computation
from scaling.tasks.task import Problem

_NUMBER = r"(?:0|[1-9][0-9]{0,3})"
_STEP = re.compile(rf"(?:{_NUMBER}(?:[-+*]{_NUMBER})+=)?({_NUMBER})")


@dataclass(frozen=True)
class Modular(Computation):
    """`7:3+5*2-6=` is solved by `3+5=1|1*2=2|2-6=3.`: with an error rate per step, pass@1 is (1 - rate)^operations.

    `per_step` operations are written as one step; 0 asks for the result alone (`3.`), which is much harder.
    """

    modulus: int = 7
    operations: int = 8
    per_step: int = 1

    name = "modular"
    alphabet = "0123456789+-*=:|."
    shown = ("modulus", "operations")

    def __post_init__(self) -> None:
        require(2 <= self.modulus <= 1000, "modular.modulus", f"is {self.modulus}", "use 2 to 1000")
        require(self.operations >= 1, "modular.operations", f"is {self.operations}", "use 1 or more")
        require(self.per_step >= 0, "modular.per_step", f"is {self.per_step}", "use 0 (the result alone) or more")

    def draw(self, rng: np.random.Generator) -> Problem:
        """Uniform operands and operations."""
        operands = rng.integers(0, self.modulus, self.operations + 1).tolist()
        signs = ["+-*"[i] for i in rng.integers(0, 3, self.operations).tolist()]
        return self.problem(operands, signs)

    def problem(self, operands: list[int], signs: list[str]) -> Problem:
        """The problem of these operands [operations + 1] and signs [operations]."""
        rest = "".join(sign + str(operand) for sign, operand in zip(signs, operands[1:], strict=True))
        text = f"{self.modulus}:{operands[0]}{rest}"
        return Problem(f"{text}=", text, (tuple(operands), tuple(signs)))

    def rest(self, problem: Problem, done: int, value: int) -> Problem:
        """What is left to ask once the first `done` operations are known to give `value`: a shorter problem.

        So facts can be derived before a question comes (sleep-time compute, Lin et al. 2025).
        """
        operands, signs = problem.instance
        fix = f"give 0 to {len(signs) - 1}, so that something is left to ask"
        require(0 <= done < len(signs), "done", f"is {done}", fix)
        return self.problem([value % self.modulus, *operands[done + 1 :]], list(signs[done:]))

    def right_steps(self, problem: Problem) -> list[str]:
        operands, signs = problem.instance
        if self.per_step == 0:
            return [str(self._fold(problem, operands[0], 0, len(signs)))]
        steps, value = [], operands[0]
        for start in range(0, len(signs), self.per_step):
            stop = min(start + self.per_step, len(signs))
            written = "".join(f"{signs[i]}{operands[i + 1]}" for i in range(start, stop))
            following = self._fold(problem, value, start, stop)
            steps.append(f"{value}{written}={following}")
            value = following
        return steps

    def conclude(self, problem: Problem, steps: list[str]) -> str | None:
        operands, signs = problem.instance
        if not steps:
            return str(self._fold(problem, operands[0], 0, len(signs)))
        result, done = self.read(steps), len(steps) * self.per_step
        if result is None or self.per_step == 0 or done >= len(signs):  # the last step ends the completion
            return None
        return str(self._fold(problem, int(result), done, len(signs)))

    def read(self, steps: list[str]) -> str | None:
        matches = [_STEP.fullmatch(step) for step in steps]
        return matches[-1].group(1) if matches and matches[-1] is not None and None not in matches else None

    def _fold(self, problem: Problem, value: int, start: int, stop: int) -> int:
        """The value after operations `start` to `stop`."""
        operands, signs = problem.instance
        for sign, operand in zip(signs[start:stop], operands[start + 1 : stop + 1], strict=True):
            value = {"+": value + operand, "-": value - operand, "*": value * operand}[sign] % self.modulus
        return value
