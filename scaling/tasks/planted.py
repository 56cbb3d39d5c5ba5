"""Planted: texts that must hold a pattern somewhere, which a prompt names and only experience tells."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.errors import require
from scaling.tasks.task import Problem, Task

_LETTERS = "abcdefghijklmnop"


@dataclass(frozen=True)
class Planted(Task):
    """`ab:` is solved by any text of at most `horizon` letters that holds the images of `a` and `b` side by side.

    The images are a fixed permutation of the letters, which no prompt shows. The random policy writes `horizon`
    uniform letters. After the planted subsequences of Setlur et al. 2025, arXiv:2502.12118.
    """

    symbols: int = 8
    pattern: int = 2  # letters of a pattern
    horizon: int = 16  # letters of a completion, at most

    name = "planted"
    alphabet = _LETTERS + ":|."

    def __post_init__(self) -> None:
        require(2 <= self.symbols <= len(_LETTERS), "planted.symbols", f"is {self.symbols}", "use 2 to 16")
        require(1 <= self.pattern <= 8, "planted.pattern", f"is {self.pattern}", "use 1 to 8")
        fix = f"use {self.pattern} to 4096"
        require(self.pattern <= self.horizon <= 4096, "planted.horizon", f"is {self.horizon}", fix)

    def draw(self, rng: np.random.Generator) -> Problem:
        """Uniform letters."""
        return self.problem("".join(_LETTERS[i] for i in rng.integers(0, self.symbols, self.pattern).tolist()))

    def problem(self, asked: str) -> Problem:
        """The problem of these letters."""
        images = dict(zip(_LETTERS, _images(self.symbols), strict=False))
        return Problem(f"{asked}:", asked, "".join(images[letter] for letter in asked))

    def solution(self, problem: Problem, rng: np.random.Generator) -> str:
        """`horizon` uniform letters with the pattern at a uniform place: no two writers do it alike."""
        text = [_LETTERS[i] for i in rng.integers(0, self.symbols, self.horizon).tolist()]
        place = int(rng.integers(self.horizon - self.pattern + 1))
        text[place : place + self.pattern] = problem.instance
        return "".join(text) + self.end

    def answer(self, completion: str) -> str | None:
        text, ended, rest = completion.partition(self.end)
        return text if ended and not rest and self._legal(text) else None

    def verify(self, problem: Problem, completion: str) -> bool:
        text = self.answer(completion)
        return text is not None and problem.instance in text

    def process_reward(self, problem: Problem, completion: str) -> float:
        """1 for what is right or has not closed its only step."""
        return float(self.verify(problem, completion) if self._closed(completion) else True)

    def value(self, problem: Problem, prefix: str) -> float:
        if self._closed(prefix):
            return float(self.verify(problem, prefix))
        return chance(problem.instance, self.symbols, self.horizon)

    def _closed(self, text: str) -> bool:
        return self.end in text or self.delimiter in text

    def _legal(self, text: str) -> bool:
        return len(text) <= self.horizon and set(text) <= set(_LETTERS[: self.symbols])


def chance(pattern: str, symbols: int, letters: int) -> float:
    """The probability that so many uniform letters hold a pattern: a walk over how much of it stands at the end."""
    size = len(pattern)
    moves = np.zeros((size + 1, size + 1))
    moves[size, size] = 1
    for held in range(size):
        for letter in _LETTERS[:symbols]:
            text = pattern[:held] + letter
            moves[held, max(n for n in range(len(text) + 1) if text.endswith(pattern[:n]))] += 1 / symbols
    return float(np.linalg.matrix_power(moves, letters)[0, size])


@functools.lru_cache(maxsize=16)
def _images(symbols: int) -> tuple[Any, ...]:
    return tuple(_LETTERS[i] for i in np.random.default_rng(symbols).permutation(symbols))
