"""Chains of arithmetic modulo a small prime whose answer follows a thought: of all steps, of some, or of none."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import numpy as np

from models.errors import require
from scaling.tasks.modular import Modular
from scaling.tasks.task import Problem, Task, closed_steps

ANSWER, EARLY, AGAIN = ":", "!", "~"  # ends a whole thought, ends any other, and takes a result back
_NUMBER = r"(?:0|[1-9][0-9]{0,3})"
_STEP = re.compile(rf"({_NUMBER}[-+*]{_NUMBER})=(?:{_NUMBER}{AGAIN})*({_NUMBER})")
_ASKED = re.compile(rf"({_NUMBER})([-+*])({_NUMBER})=")
_ANSWER = re.compile(rf"[{ANSWER}{EARLY}]{_NUMBER}")


@dataclass(frozen=True)
class Reasoned(Task):
    """`7:3+5*2-6=` is solved by `3+5=4~1|1*2=2|2-6=3|:3.`, and by `!3.` without a thought.

    A step may hold results that were taken back, each before a `~`; the last one counts. In solutions to learn from,
    `direct` per cent have no thought, `cut` per cent one that ends early, with the right answer. `slips` per cent of
    results are drawn at random and then written anew, in chains that differ in care: a chain's rate is uniform between
    none and twice that. Votes and verdicts are about the answer alone, of completions that can be read.
    """

    modulus: int = 7
    operations: int = 4
    slips: int = 20
    direct: int = 20
    cut: int = 20

    name = "reasoned"
    alphabet = f"0123456789+-*={AGAIN}{ANSWER}{EARLY}|."
    shown = ("modulus", "operations")

    def __post_init__(self) -> None:
        fix = "let both leave some whole thoughts"
        require(self.direct + self.cut < 100, "reasoned.direct", f"and cut are {self.direct} and {self.cut}", fix)
        require(self.slips <= 45, "reasoned.slips", f"is {self.slips}", "use 0 to 45: a chain's rate is up to twice it")
        _ = self._plain

    def draw(self, rng: np.random.Generator) -> Problem:
        """Uniform operands and operations."""
        return self._plain.draw(rng)

    def problem(self, operands: list[int], signs: list[str]) -> Problem:
        """The problem of these operands [operations + 1] and signs [operations]."""
        return self._plain.problem(operands, signs)

    def solution(self, problem: Problem, rng: np.random.Generator) -> str:
        steps, kind = self._plain.right_steps(problem), 100 * rng.random()
        kept = len(steps)
        if kind < self.direct + self.cut:
            kept = 0 if kind < self.direct or kept == 1 else int(rng.integers(1, kept))
        rate = rng.uniform(0, 2 * self.slips / 100)
        thought = "".join(self._slipped(step, rate, rng) + self.delimiter for step in steps[:kept])
        mark = ANSWER if kept == len(steps) else EARLY
        return f"{thought}{mark}{self.right_answer(problem)}{self.end}"

    def right_answer(self, problem: Problem) -> str:
        """The answer, as text."""
        return self._plain.right_answer(problem)

    def answer(self, completion: str) -> str | None:
        thought = self._thought(completion)
        if thought is None or not thought[1]:
            return None
        return completion.rpartition(self.delimiter)[2][1:].removesuffix(self.end)

    def verify(self, problem: Problem, completion: str) -> bool:
        return self.answer(completion) == self.right_answer(problem)

    def value(self, problem: Problem, prefix: str) -> float:
        """1 if right steps after this prefix lead to the right answer, even if it holds errors that cancel."""
        thought = self._thought(prefix)
        if thought is None or thought[1]:
            return float(self.verify(problem, prefix))
        steps, right = thought[0], self.right_answer(problem)
        if len(steps) < self.operations:
            return float(self._plain.conclude(problem, steps) == right)
        return float(len(steps) == self.operations and self._plain.read(steps) == right)

    def process_reward(self, problem: Problem, completion: str) -> float:
        """1 while every step is right, once its slips are taken back; otherwise 0."""
        thought = self._thought(completion)
        if thought is None:
            return 0.0
        steps, ended = thought
        right = self._plain.right_steps(problem)
        return float(steps == right[: len(steps)] and (not ended or self.verify(problem, completion)))

    def executed(self, completion: str) -> str | None:
        """What a program of a whole thought's operations gives: each goes on from the value before it, whatever result
        was written. None for a thought that ends early, has no steps, or cannot be read.

        So the answers of chains that their own program contradicts can be dropped (Liang et al. 2024, CoTnPoT).
        """
        thought = self._thought(completion)
        if thought is None or not thought[1] or not thought[0] or completion.rpartition(self.delimiter)[2][0] != ANSWER:
            return None
        asked = [_ASKED.match(step) for step in thought[0]]
        parts = [found.groups() for found in asked if found is not None]
        operands = [int(parts[0][0]), *(int(right) for _, _, right in parts)]
        return self._plain.right_answer(self._plain.problem(operands, [sign for _, sign, _ in parts]))

    def _thought(self, text: str) -> tuple[list[str], bool] | None:
        """The steps of a thought with their last results, and whether the text has ended; None if it cannot be read."""
        parts = closed_steps(self, text)
        if parts is None:
            return None
        steps, ended = parts
        if ended and _ANSWER.fullmatch(steps[-1]) is None:
            return None
        found = [_STEP.fullmatch(step) for step in (steps[:-1] if ended else steps)]
        kept = [f"{step.group(1)}={step.group(2)}" for step in found if step is not None]
        return (kept, ended) if len(kept) == len(found) else None

    def _slipped(self, step: str, rate: float, rng: np.random.Generator) -> str:
        asked, result = step.split("=")
        taken_back = ""
        while rng.random() < rate:
            taken_back += f"{rng.integers(self.modulus)}{AGAIN}"
        return f"{asked}={taken_back}{result}"

    @functools.cached_property
    def _plain(self) -> Modular:
        return Modular(self.modulus, self.operations)
