"""Programs as answers: run on inputs in a sandbox, and judged by what they print."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from scaling.tasks.task import Problem
from search.verifiers.sandbox import Allowance, Level, best_level, run
from search.verifiers.verifier import SMALLEST


@dataclass(frozen=True)
class Case:
    """One test of a program: what it reads and what it has to print. Only the first half ever reaches the program."""

    given: str
    expected: str


def _itself(completion: str) -> str:
    return completion


@dataclass(frozen=True)
class ProgramVerifier:
    """The share of a problem's cases on which the program prints what is expected, but for spaces at the ends of lines.

    The comparison happens here: an exit code says nothing, since a program can choose it. A program that takes too
    long, prints too much or does nothing fails its case. `level` says how programs are confined; on a machine that
    cannot confine them, making the verifier raises ConfigError.
    """

    cases: Callable[[Problem], Sequence[Case]]
    program: Callable[[str], str] = _itself  # the program in a completion
    limits: Allowance = field(default_factory=Allowance)
    level: Level = field(default_factory=best_level)
    all_or_nothing: bool = False  # a program that fails a case scores 0

    def score(self, problems: Sequence[Problem], completions: Sequence[str]) -> np.ndarray:
        """Scores [n] float64. Raises NotConfined if a sandbox could not be set up: nothing was run without one."""
        scores = [self._share(problem, text) for problem, text in zip(problems, completions, strict=True)]
        return np.clip(np.asarray(scores, np.float64), SMALLEST, 1 - SMALLEST)

    def _share(self, problem: Problem, completion: str) -> float:
        source, cases = self.program(completion), self.cases(problem)
        if not cases:
            raise ValueError(f"{problem.prompt!r} has no cases to test a program on")
        verdicts = (self._passes(source, case) for case in cases)
        return float(all(verdicts)) if self.all_or_nothing else sum(verdicts) / len(cases)

    def _passes(self, source: str, case: Case) -> bool:
        outcome = run(source, case.given.encode(), self.limits, self.level)
        printed = outcome.output.decode(errors="replace")
        return outcome.reason == "exit" and _lines(printed) == _lines(case.expected)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
