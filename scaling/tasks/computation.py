"""Computation: tasks whose steps follow from each other by fixed rules, with one right answer."""

from __future__ import annotations

import abc

import numpy as np

from scaling.tasks.task import Problem, Task, closed_steps


class Computation(Task):
    """A task with one right answer. The only legal step is the right one, so exact values are 0 or 1.

    `verify` compares the answer, as one would grade it; the process reward compares every step.
    """

    @abc.abstractmethod
    def right_steps(self, problem: Problem) -> list[str]:
        """The steps of the solution, without what closes them."""

    @abc.abstractmethod
    def conclude(self, problem: Problem, steps: list[str]) -> str | None:
        """The answer to which right steps lead after these, right or wrong; None if they cannot be read."""

    @abc.abstractmethod
    def read(self, steps: list[str]) -> str | None:
        """The answer that a completion of these steps gives; None if they cannot be read."""

    def solution(self, problem: Problem, rng: np.random.Generator) -> str:
        return self.delimiter.join(self.right_steps(problem)) + self.end

    def answer(self, completion: str) -> str | None:
        parts = closed_steps(self, completion)
        return self.read(parts[0]) if parts is not None and parts[1] else None

    def right_answer(self, problem: Problem) -> str:
        """The answer of the solution."""
        return self.read(self.right_steps(problem)) or ""

    def verify(self, problem: Problem, completion: str) -> bool:
        return self.answer(completion) == self.right_answer(problem)

    def value(self, problem: Problem, prefix: str) -> float:
        """1 if right steps after this prefix lead to the right answer, even if it holds errors that cancel."""
        parts = closed_steps(self, prefix)
        if parts is None:
            return 0.0
        steps, ended = parts
        reached = self.read(steps) if ended else self.conclude(problem, steps)
        return float(reached == self.right_answer(problem))

    def process_reward(self, problem: Problem, completion: str) -> float:
        """1 while every step is right, otherwise 0."""
        parts = closed_steps(self, completion)
        if parts is None:
            return 0.0
        steps, ended = parts
        right = self.right_steps(problem)
        return float(steps == right if ended else steps == right[: len(steps)] and len(steps) < len(right))
