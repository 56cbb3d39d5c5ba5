"""Longhand: sums and products worked out digit by digit, with a calculator that a policy may ask instead."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scaling.tasks.calculation import Calculation, served
from scaling.tasks.task import Problem

_NUMBER = r"(?:0|[1-9][0-9]{0,17})"
_RESULT = r"(0|[1-9][0-9]{0,35})"
_BY_HAND = re.compile(rf"({_NUMBER})([+*])({_NUMBER})(>(?:[0-9]{{1,36}},)*[0-9]{{1,36}}>{_RESULT})")
_STEP = re.compile(rf"(?:{_NUMBER}[+*]{_NUMBER}(?:=|>[0-9,]{{1,400}}>))?{_RESULT}")


class Span(NamedTuple):
    """A part text[start:stop] that works something out; `asked`: what would have a tool do it."""

    start: int
    stop: int
    asked: str


@dataclass(frozen=True)
class Longhand(Calculation):
    """`347*8+256:` is solved by `347*8>56,37,27>2776|2776+256>12,13,10,3>3032.`, or by `347*8=2776|2776+256=3032.`.

    By hand, places are worked out from the right, each with what was carried, and read off. The first number has
    `digits` digits; what follows is `*` and one digit of 2 to 9, or `+` and a number of as many digits. The calculator
    writes what follows an `=`; the process reward takes either way, step by step.
    """

    operations: int = 2
    digits: int = 3  # of the numbers that are not factors

    name = "longhand"
    alphabet = "0123456789+*=>,:|.!"

    def draw(self, rng: np.random.Generator) -> Problem:
        """Uniform operations, and uniform numbers for each."""
        low, high = 10 ** (self.digits - 1), 10**self.digits
        numbers, signs = [int(rng.integers(low, high))], ["+*"[i] for i in rng.integers(0, 2, self.operations).tolist()]
        numbers += [int(rng.integers(2, 10) if sign == "*" else rng.integers(low, high)) for sign in signs]
        return self.problem(numbers, signs)

    def read(self, steps: list[str]) -> str | None:
        matches = [_STEP.fullmatch(step) for step in served(steps)]
        return matches[-1].group(1) if matches and matches[-1] is not None and None not in matches else None

    def process_reward(self, problem: Problem, completion: str) -> float:
        return super().process_reward(problem, asked_by_hand(completion))

    def computations(self, completion: str) -> list[Span]:
        """What is worked out by hand in a completion, in order."""
        return [Span(*found.span(4), "=") for found in _BY_HAND.finditer(completion)]

    def _steps(self, problem: Problem, value: int, done: int) -> list[str]:
        return [by_hand(step) for step in super()._steps(problem, value, done)]


def by_hand(step: str) -> str:
    """`347*8=2776` worked out: `347*8>56,37,27>2776`."""
    asked, result = step.split("=")
    first, sign, second = re.split(r"([+*])", asked)
    columns, carry = [], 0
    places = len(first) if sign == "*" else max(len(first), len(second))
    for place in range(places):
        digit = int(first) // 10**place % 10
        other = int(second) if sign == "*" else int(second) // 10**place % 10
        columns.append((digit * other if sign == "*" else digit + other) + carry)
        carry = columns[-1] // 10
    return f"{asked}>{','.join(map(str, columns))}>{result}"


def asked_by_hand(completion: str) -> str:
    """A completion in which each result of the calculator is worked out; a wrong one stays as it is."""

    def worked(found: re.Match[str]) -> str:
        first, second = int(found[1]), int(found[3])
        right = first + second if found[2] == "+" else first * second
        return by_hand(found[0]) if found[4] == str(right) else found[0]

    return re.sub(rf"({_NUMBER})([+*])({_NUMBER})={_RESULT}(?=[|.]|$)", worked, completion)
