"""What a memory is asked for, as problems in text: to look up, to repeat, and to follow a state (sequences.py has the
same as labelled tokens)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.errors import require
from scaling.tasks.computation import Computation
from scaling.tasks.task import Problem

LETTERS = "abcdefghijklmnopqrst"


@dataclass(frozen=True)
class Lookup(Computation):
    """`b7a3d0?ab=` is solved by `3|7.`: the digits that stand behind the letters asked for, in their order."""

    pairs: int = 6
    questions: int = 3

    name = "lookup"
    alphabet = LETTERS + "0123456789?=|."

    def __post_init__(self) -> None:
        require(1 <= self.pairs <= len(LETTERS), "lookup.pairs", f"is {self.pairs}", f"use 1 to {len(LETTERS)}")
        fix = f"use 1 to {self.pairs} (lookup.pairs)"
        require(1 <= self.questions <= self.pairs, "lookup.questions", f"is {self.questions}", fix)

    def draw(self, rng: np.random.Generator) -> Problem:
        """Random letters and digits; the letters asked for are among them, each once."""
        keys = [LETTERS[i] for i in rng.permutation(len(LETTERS))[: self.pairs]]
        values = [str(digit) for digit in rng.integers(0, 10, self.pairs).tolist()]
        asked = [keys[i] for i in rng.permutation(self.pairs)[: self.questions]]
        return self.problem(dict(zip(keys, values, strict=True)), "".join(asked))

    def problem(self, table: dict[str, str], asked: str) -> Problem:
        """The problem of this table, listed in its order; which does not change the answer."""
        pairs = [key + value for key, value in table.items()]
        canonical = f"{''.join(sorted(pairs))}?{asked}"
        return Problem(f"{''.join(pairs)}?{asked}=", canonical, (tuple(table.items()), asked))

    def right_steps(self, problem: Problem) -> list[str]:
        table, asked = problem.instance
        return [dict(table)[key] for key in asked]

    def conclude(self, problem: Problem, steps: list[str]) -> str | None:
        right = self.right_steps(problem)
        return self.read([*steps, *right[len(steps) :]]) if len(steps) < len(right) else None

    def read(self, steps: list[str]) -> str | None:
        digits = steps and all(len(step) == 1 and step in "0123456789" for step in steps)
        return self.delimiter.join(steps) if digits else None


@dataclass(frozen=True)
class Repeat(Computation):
    """`caba=` is solved by `caba.`: the same letters again."""

    length: int = 8
    letters: int = 8

    name = "repeat"
    alphabet = LETTERS + "=|."

    def __post_init__(self) -> None:
        require(self.length >= 1, "repeat.length", f"is {self.length}", "use 1 or more")
        require(1 <= self.letters <= len(LETTERS), "repeat.letters", f"is {self.letters}", f"use 1 to {len(LETTERS)}")

    def draw(self, rng: np.random.Generator) -> Problem:
        """Uniform letters."""
        text = "".join(LETTERS[i] for i in rng.integers(0, self.letters, self.length).tolist())
        return Problem(f"{text}=", text, text)

    def right_steps(self, problem: Problem) -> list[str]:
        return [problem.instance]

    def conclude(self, problem: Problem, steps: list[str]) -> str | None:
        return None if steps else problem.instance

    def read(self, steps: list[str]) -> str | None:
        return steps[0] if len(steps) == 1 and steps[0] and set(steps[0]) <= set(LETTERS) else None


@dataclass(frozen=True)
class Permute(Computation):
    """`bac,bca=` is solved by `bac|acb.`: where the letters of `abc` stand after each word, which says what comes to
    each place from the arrangement before. Two letters are parity."""

    letters: int = 3
    words: int = 8

    name = "permute"
    alphabet = "abcdefgh,=|."

    def __post_init__(self) -> None:
        require(2 <= self.letters <= 8, "permute.letters", f"is {self.letters}", "use 2 (parity) to 8")
        require(self.words >= 1, "permute.words", f"is {self.words}", "use 1 or more")

    def draw(self, rng: np.random.Generator) -> Problem:
        """Uniform permutations."""
        words = tuple("".join(LETTERS[i] for i in rng.permutation(self.letters)) for _ in range(self.words))
        return Problem(f"{','.join(words)}=", ",".join(words), words)

    def right_steps(self, problem: Problem) -> list[str]:
        return self._after(LETTERS[: self.letters], problem.instance)

    def conclude(self, problem: Problem, steps: list[str]) -> str | None:
        words, state = problem.instance, self.read([LETTERS[: self.letters], *steps])
        return self._after(state, words[len(steps) :])[-1] if state and len(steps) < len(words) else None

    def read(self, steps: list[str]) -> str | None:
        letters = sorted(LETTERS[: self.letters])
        return steps[-1] if steps and all(sorted(step) == letters for step in steps) else None

    def _after(self, state: str, words: tuple[str, ...]) -> list[str]:
        """The arrangement after each word, from `state` on."""
        found = []
        for word in words:
            state = "".join(state[LETTERS.index(letter)] for letter in word)
            found.append(state)
        return found
