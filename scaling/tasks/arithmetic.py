"""Arithmetic on numbers of several digits, written plainly, in reverse, or with a scratchpad."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from models.errors import nearest, require
from scaling.tasks.computation import Computation
from scaling.tasks.task import Problem

Operation = Literal["add", "multiply", "max", "mod"]
Style = Literal["plain", "reversed", "scratchpad"]
_SIGNS = {"add": "+", "multiply": "*", "max": "m", "mod": "%"}
_ENDINGS = {"plain": "=", "reversed": "=$", "scratchpad": ":"}
_NUMBER = r"(?:0|[1-9][0-9]{0,39})"
_STEP = re.compile(rf"(?:[0-9]\+[0-9]\+[0-9]=)?({_NUMBER})")


@dataclass(frozen=True)
class Arithmetic(Computation):
    """`12*34=` is solved by `408.`, `12*34=$` in reverse by `804.`, and `12*34:` on a scratchpad by `48|360|408.`.

    The scratchpad holds the products with each digit of the second number, or the digits and the carry of each place
    of a sum (`7+8+0=15|3+4+1=8|85.`), from the right. Formats after the Number Cookbook (Yang et al. 2024).
    """

    operation: Operation = "multiply"
    digits: int = 2  # of the first number
    other_digits: int = 2  # of the second
    fewest_digits: int = 0  # numbers of any length from this on; 0: exactly as many as above
    style: Style = "plain"

    name = "arithmetic"
    alphabet = "0123456789+*%m=:$|."

    def __post_init__(self) -> None:
        for field, options in (("operation", get_args(Operation)), ("style", get_args(Style))):
            value = getattr(self, field)
            match = nearest(str(value), options)
            fix = f"did you mean {match!r}?" if match else f"use one of {', '.join(options)}"
            require(value in options, f"arithmetic.{field}", f"is {value!r}", fix)
        for field in ("digits", "other_digits"):
            require(1 <= getattr(self, field) <= 18, f"arithmetic.{field}", f"is {getattr(self, field)}", "use 1 to 18")
        most = min(self.digits, self.other_digits)
        problem = f"is {self.fewest_digits}"
        require(0 <= self.fewest_digits <= most, "arithmetic.fewest_digits", problem, f"use 0 to {most}")
        require(
            self.style != "scratchpad" or self.operation in ("add", "multiply"),
            "arithmetic.style",
            f"is 'scratchpad', but {self.operation!r} has no steps",
            "use 'plain' or 'reversed'",
        )

    def draw(self, rng: np.random.Generator) -> Problem:
        """Uniform lengths, and uniform numbers of each length."""
        return self.problem(*(self._number(rng, most) for most in (self.digits, self.other_digits)))

    def problem(self, first: int, second: int) -> Problem:
        """The problem of these two numbers; their order does not change a sum, a product or a maximum."""
        operands = (first, second) if self.operation == "mod" else sorted((first, second))
        sign = _SIGNS[self.operation]
        return Problem(f"{first}{sign}{second}{_ENDINGS[self.style]}", sign.join(map(str, operands)), (first, second))

    def right_steps(self, problem: Problem) -> list[str]:
        first, second = problem.instance
        result = {"add": first + second, "multiply": first * second, "max": max(first, second)}
        value = result[self.operation] if self.operation in result else first % second
        return [*self._scratch(problem), str(value)[:: -1 if self.style == "reversed" else 1]]

    def conclude(self, problem: Problem, steps: list[str]) -> str | None:
        first, second = problem.instance
        right = self.right_steps(problem)
        if not steps or self.style != "scratchpad":
            return None if steps else right[-1]
        if len(steps) >= len(right) or self.read(steps) is None:
            return None
        written = [int(step.rpartition("=")[2]) for step in steps]
        if self.operation == "multiply":
            rest = [int(step) for step in right[len(steps) : -1]]
            return str(sum(written) + sum(rest))
        place, carry = 10 ** len(written), written[-1] // 10
        low = sum(total % 10 * 10**i for i, total in enumerate(written))
        return str(low + (first // place + second // place + carry) * place)

    def read(self, steps: list[str]) -> str | None:
        pattern = re.compile(r"([0-9]{1,40})") if self.style == "reversed" else _STEP
        matches = [pattern.fullmatch(step) for step in steps]
        if not matches or None in matches or matches[-1] is None:
            return None
        result = matches[-1].group(1)
        return None if len(result) > 1 and result[-1] == "0" and self.style == "reversed" else result

    def digit_match(self, problem: Problem, completion: str) -> float:
        """The share of the digits of the answer that are right, place by place from the right."""
        given, right = self.answer(completion) or "", self.right_answer(problem)
        step = 1 if self.style == "reversed" else -1
        return sum(a == b for a, b in zip(given[::step], right[::step], strict=False)) / max(len(given), len(right))

    def _number(self, rng: np.random.Generator, most: int) -> int:
        digits = int(rng.integers(self.fewest_digits, most + 1)) if self.fewest_digits else most
        return int(rng.integers(10 ** (digits - 1), 10**digits))

    def _scratch(self, problem: Problem) -> list[str]:
        first, second = problem.instance
        if self.style != "scratchpad":
            return []
        if self.operation == "multiply":
            return [str(first * int(digit) * 10**i) for i, digit in enumerate(reversed(str(second)))]
        steps, carry = [], 0
        for i in range(max(len(str(first)), len(str(second)))):
            digits = first // 10**i % 10, second // 10**i % 10
            total = sum(digits) + carry
            steps.append(f"{digits[0]}+{digits[1]}+{carry}={total}")
            carry = total // 10
        return steps
