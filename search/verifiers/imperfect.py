"""Imperfect: any verifier with chosen rates of false positives and false negatives, and a careless real one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.errors import require
from scaling.tasks.countdown import Countdown
from scaling.tasks.task import Problem, Task
from search.verifiers.verifier import SMALLEST, Verifier, uniform


@dataclass(frozen=True)
class Imperfect:
    """A verifier that is wrong about some answers. It accepts what scores above `threshold`.

    An answer that the given verifier rejects is accepted with probability `false_positives` (1 - soundness), and one
    that it accepts is rejected with probability `false_negatives` (1 - completeness): a score s becomes 1 - s. Which
    answers those are depends on the seed, the problem and the answer alone: an answer that is found twice is judged
    alike, as a real verifier would. Without a `task`, or where it reads no answer, the whole text is the answer.
    """

    verifier: Verifier
    false_positives: float = 0.0
    false_negatives: float = 0.0
    task: Task | None = None
    seed: int = 0
    threshold: float = 0.5

    def __post_init__(self) -> None:
        for field in ("false_positives", "false_negatives", "threshold"):
            value = getattr(self, field)
            require(0 <= value <= 1, f"imperfect.{field}", f"is {value}", "give a rate from 0 to 1")

    def score(self, problems: Sequence[Problem], completions: Sequence[str]) -> np.ndarray:
        """Scores [n] float64."""
        scores = np.clip(self.verifier.score(problems, completions), SMALLEST, 1 - SMALLEST)
        rates = np.where(scores > self.threshold, self.false_negatives, self.false_positives)
        draws = [self._draw(problem, text) for problem, text in zip(problems, completions, strict=True)]
        return np.where(np.asarray(draws) < rates, 1 - scores, scores)

    def _draw(self, problem: Problem, text: str) -> float:
        answer = None if self.task is None else self.task.answer(text)
        return uniform("imperfect", self.seed, problem.prompt, text if answer is None else answer)


@dataclass(frozen=True)
class Careless:
    """A real verifier with false positives: it replays Countdown but lets numbers be used again."""

    task: Countdown

    def score(self, problems: Sequence[Problem], completions: Sequence[str]) -> np.ndarray:
        """Scores [n] float64."""
        pairs = zip(problems, completions, strict=True)
        right = [self.task.verify_carelessly(problem, text) for problem, text in pairs]
        return np.where(right, 1 - SMALLEST, SMALLEST)
