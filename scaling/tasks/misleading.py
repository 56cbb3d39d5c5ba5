"""Corpora that teach what a test then asks not to do: memorised phrases, replies that agree, demonstrations that err.

Each is a task whose solution is what the corpus says, and has `trap`, a question where that is not the truth: what
inverse scaling is measured on (McKenzie et al. 2023; a toy of their memorisation, imitation and misleading few-shot
classes; the distractor is `recall:negated`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.errors import require
from scaling.tasks.task import Problem
from scaling.tasks.words import LETTERS, Trap, Word

_FIRST = 3  # random letters before a phrase


@dataclass(frozen=True)
class Phrase(Word):
    """`kcb:dbca~` is solved by `dbca.`: copying, where most words are one of a few phrases: memory does as well.

    Random letters come first, or a corpus would hold each phrase once. The trap is a phrase with one letter changed,
    which memory changes back.
    """

    phrases: int = 6
    length: int = 8
    share: int = 80  # percent of the words that are phrases
    letters: int = 12

    name = "phrase"
    alphabet = LETTERS + ":~|."

    def __post_init__(self) -> None:
        require(1 <= self.phrases <= 1000, "phrase.phrases", f"is {self.phrases}", "use 1 to 1000")
        require(2 <= self.length <= 64, "phrase.length", f"is {self.length}", "use 2 to 64")
        require(0 <= self.share <= 100, "phrase.share", f"is {self.share}", "give percent, 0 to 100")
        most = len(LETTERS)
        require(2 <= self.letters <= most, "phrase.letters", f"is {self.letters}", f"use 2 to {most}")

    def known(self) -> list[str]:
        """The phrases, the same for the same knobs."""
        rng = np.random.default_rng([self.phrases, self.length, self.letters])
        drawn = rng.integers(self.letters, size=(self.phrases, self.length))
        return ["".join(LETTERS[i] for i in row) for row in drawn.tolist()]

    def draw(self, rng: np.random.Generator) -> Problem:
        """A phrase, or random letters of its length."""
        if rng.integers(100) < self.share:
            word = self.known()[int(rng.integers(self.phrases))]
        else:
            word = self._random(self.length, rng)
        text = f"{self._random(_FIRST, rng)}:{word}~"
        return Problem(text, text, word)

    def right_steps(self, problem: Problem) -> list[str]:
        return [problem.instance]

    def trap(self, rng: np.random.Generator) -> Trap:
        """A phrase with one letter, not the first, changed."""
        phrase = self.known()[int(rng.integers(self.phrases))]
        at = int(rng.integers(1, self.length))
        other = LETTERS[: self.letters].replace(phrase[at], "")
        word = phrase[:at] + other[int(rng.integers(len(other)))] + phrase[at + 1 :]
        return Trap(f"{self._random(_FIRST, rng)}:{word}~", f"{word}.", f"{phrase}.")

    def _random(self, length: int, rng: np.random.Generator) -> str:
        return "".join(LETTERS[i] for i in rng.integers(self.letters, size=length).tolist())


@dataclass(frozen=True)
class Claim(Word):
    """`31+4,35:` is solved by `35.`: a reply that always agrees with the sum claimed, which is mostly right.

    The trap is a wrong claim.
    """

    right: int = 70  # percent of the claims
    largest: int = 99

    name = "claim"
    alphabet = "0123456789+,:|."

    def __post_init__(self) -> None:
        require(0 <= self.right <= 100, "claim.right", f"is {self.right}", "give percent, 0 to 100")
        require(1 <= self.largest <= 9999, "claim.largest", f"is {self.largest}", "use 1 to 9999")

    def draw(self, rng: np.random.Generator) -> Problem:
        """A sum with a claim."""
        first, second = rng.integers(self.largest + 1, size=2).tolist()
        claim = first + second if rng.integers(100) < self.right else self._wrong(first + second, rng)
        text = f"{first}+{second},{claim}:"
        return Problem(text, text, claim)

    def right_steps(self, problem: Problem) -> list[str]:
        return [str(problem.instance)]

    def trap(self, rng: np.random.Generator) -> Trap:
        """A sum with a wrong claim."""
        first, second = rng.integers(self.largest + 1, size=2).tolist()
        wrong = self._wrong(first + second, rng)
        return Trap(f"{first}+{second},{wrong}:", f"{first + second}.", f"{wrong}.")

    def _wrong(self, right: int, rng: np.random.Generator) -> int:
        other = int(rng.integers(2 * self.largest))
        return other + (other >= right)


@dataclass(frozen=True)
class Demonstrations(Word):
    """`73>7;28>8;54>` is solved by `5.`: the larger digit, unless the author's demonstrations all give the smaller.

    The trap asks for the larger digit after demonstrations that err.
    """

    shots: int = 2
    flawed: int = 30  # percent of the authors

    name = "demonstrations"
    alphabet = "0123456789>;|."

    def __post_init__(self) -> None:
        require(1 <= self.shots <= 16, "demonstrations.shots", f"is {self.shots}", "use 1 to 16")
        require(0 <= self.flawed <= 100, "demonstrations.flawed", f"is {self.flawed}", "give percent, 0 to 100")

    def draw(self, rng: np.random.Generator) -> Problem:
        """Pairs of different digits by one author."""
        flawed = bool(rng.integers(100) < self.flawed)
        pairs = self._pairs(rng)
        text = self._text(pairs, flawed)
        return Problem(text, text, (pairs[-1], flawed))

    def right_steps(self, problem: Problem) -> list[str]:
        pair, flawed = problem.instance
        return [str(min(pair) if flawed else max(pair))]

    def trap(self, rng: np.random.Generator) -> Trap:
        """A question after demonstrations of the smaller digit."""
        pairs = self._pairs(rng)
        return Trap(self._text(pairs, True), f"{max(pairs[-1])}.", f"{min(pairs[-1])}.")

    def _pairs(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        drawn = [rng.permutation(10)[:2].tolist() for _ in range(self.shots + 1)]
        return [(int(a), int(b)) for a, b in drawn]

    @staticmethod
    def _text(pairs: list[tuple[int, int]], flawed: bool) -> str:
        shots = "".join(f"{a}{b}>{min(a, b) if flawed else max(a, b)};" for a, b in pairs[:-1])
        return f"{shots}{pairs[-1][0]}{pairs[-1][1]}>"
