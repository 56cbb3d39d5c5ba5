"""What a task knows exactly as a verifier: the best there can be, with noise, or turned against the search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.special import expit, logit, ndtri

from models.errors import require
from scaling.tasks.task import Problem, Task
from search.verifiers.verifier import SMALLEST, Verifier, uniform

Knowledge = Literal["value", "solvable", "process", "correct"]


@dataclass(frozen=True)
class Oracle:
    """What the task says of a text, clipped to (0, 1); costs nothing.

    value: the exact probability that random legal steps end right. solvable: whether legal steps can. process: the
    task's process reward. correct: whether the completion is right as it stands.
    """

    task: Task
    says: Knowledge = "value"

    def __post_init__(self) -> None:
        options = get_args(Knowledge)
        require(self.says in options, "oracle.says", f"is {self.says!r}", f"use one of {', '.join(options)}")

    def score(self, problems: Sequence[Problem], completions: Sequence[str]) -> np.ndarray:
        """Scores [n] float64."""
        asked = {
            "value": self.task.value,
            "solvable": self.task.solvable,
            "process": self.task.process_reward,
            "correct": self.task.verify,
        }[self.says]
        scores = [float(asked(problem, text)) for problem, text in zip(problems, completions, strict=True)]
        return np.clip(np.asarray(scores, np.float64), SMALLEST, 1 - SMALLEST)


@dataclass(frozen=True)
class Noisy:
    """A verifier with N(0, sigma^2) added to the logit of its scores.

    The noise depends on the seed, the problem and the text alone, so a text that is scored twice gets one score.
    """

    verifier: Verifier
    sigma: float
    seed: int = 0

    def __post_init__(self) -> None:
        require(0 <= self.sigma < np.inf, "noisy.sigma", f"is {self.sigma}", "give 0 or a positive number")

    def score(self, problems: Sequence[Problem], completions: Sequence[str]) -> np.ndarray:
        """Scores [n] float64."""
        scores = np.clip(self.verifier.score(problems, completions), SMALLEST, 1 - SMALLEST)
        draws = [uniform("noise", self.seed, p.prompt, text) for p, text in zip(problems, completions, strict=True)]
        return np.clip(expit(logit(scores) + self.sigma * ndtri(np.asarray(draws))), SMALLEST, 1 - SMALLEST)


@dataclass(frozen=True)
class Adversarial:
    """A verifier turned round: it prefers most what the given one likes least."""

    verifier: Verifier

    def score(self, problems: Sequence[Problem], completions: Sequence[str]) -> np.ndarray:
        """Scores [n] float64."""
        return 1 - self.verifier.score(problems, completions)
