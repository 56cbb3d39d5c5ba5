"""Verifier: scores of texts on the host. One that fails marks the problem it failed on; the others go on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from scaling.tasks.task import Problem

SMALLEST = 1e-6  # scores lie between this and 1 minus this, so that every logit is finite


class Verifier(Protocol):
    """How likely each completion, or prefix of one, is to be right."""

    def score(self, problems: Sequence[Problem], completions: Sequence[str]) -> np.ndarray:
        """Scores [n] float64 in (0, 1) of completions [n] of problems [n]."""


@dataclass(frozen=True)
class Judgement:
    """Scores [n] float64, all in (0, 1); `failed` says of rows that could not be scored why not (they score lowest)."""

    scores: np.ndarray
    failed: dict[int, str]


def judge(verifier: Verifier, problems: Sequence[Problem], completions: Sequence[str]) -> Judgement:
    """Score completions [n] of problems [n] with a verifier that may raise or return something that is no score.

    A batch that fails is scored again problem by problem, so that only the problems it fails on are marked.
    """
    if len(problems) != len(completions):
        raise ValueError(
            f"{len(problems)} problems and {len(completions)} completions: give one completion per problem"
        )
    rows: dict[Problem, list[int]] = {}
    for row, problem in enumerate(problems):
        rows.setdefault(problem, []).append(row)
    scores = np.full(len(problems), SMALLEST)
    failed: dict[int, str] = {}
    given, problem_text = _attempt(verifier, problems, completions)
    if given is not None:
        return Judgement(np.clip(given, SMALLEST, 1 - SMALLEST), {})
    for mine in rows.values():
        if len(rows) > 1:
            given, problem_text = _attempt(verifier, [problems[i] for i in mine], [completions[i] for i in mine])
        if given is None:
            failed.update(dict.fromkeys(mine, problem_text))
        else:
            scores[mine] = np.clip(given, SMALLEST, 1 - SMALLEST)
    return Judgement(scores, failed)


def _attempt(verifier: Verifier, problems: Sequence[Problem], texts: Sequence[str]) -> tuple[np.ndarray | None, str]:
    """The scores, or None and why there are none."""
    try:
        scores = np.asarray(verifier.score(problems, texts), np.float64)
    except Exception as error:  # a verifier is the user's code
        return None, f"{type(error).__name__}: {error}"
    if scores.shape != (len(texts),):
        return None, f"gave scores of shape {scores.shape} for {len(texts)} completions"
    bad = ~((scores >= 0) & (scores <= 1))
    return (None, f"gave the score {scores[bad][0]}") if bad.any() else (scores, "")


def uniform(*key: object) -> float:
    """A number in (0, 1) that depends on the key alone: noise that is the same in any order, batch and resumed run."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:6], "big") + 0.5) / 2**48
