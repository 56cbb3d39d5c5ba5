"""Short sequences: copied, reversed or put in order; and a value looked up by its key."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from models.errors import nearest, require
from scaling.tasks.computation import Computation
from scaling.tasks.task import Problem

LETTERS = "abcdefghijklmnop"
Order = Literal["same", "reverse", "sorted"]
_ASKED = {"same": ">", "reverse": "<", "sorted": "^"}


class Trap(NamedTuple):
    """A question with the right answer and the one that a corpus suggests: what inverse scaling is measured on."""

    prompt: str
    right: str
    tempting: str


class Word(Computation):
    """A computation whose answer is one short word, without steps before it."""

    def conclude(self, problem: Problem, steps: list[str]) -> str | None:
        return None if steps else self.right_steps(problem)[0]

    def read(self, steps: list[str]) -> str | None:
        pattern = f"[{re.escape(self.alphabet.replace(self.delimiter, '').replace(self.end, ''))}]+"
        return steps[0] if len(steps) == 1 and re.fullmatch(pattern, steps[0]) else None


@dataclass(frozen=True)
class Copy(Word):
    """`dbca>` is solved by `dbca.`, `dbca<` by `acbd.` and `dbca^` by `abcd.`: distinct letters, whose order counts."""

    letters: int = 8  # to choose from
    shortest: int = 3
    longest: int = 5
    order: Order = "same"

    name = "copy"
    alphabet = LETTERS + "<>^|."

    def __post_init__(self) -> None:
        require(2 <= self.letters <= len(LETTERS), "copy.letters", f"is {self.letters}", f"use 2 to {len(LETTERS)}")
        problem = f"words have {self.shortest} to {self.longest} of {self.letters} letters"
        fix = "use an increasing range from 1 to copy.letters"
        require(1 <= self.shortest <= self.longest <= self.letters, "copy.shortest", problem, fix)
        match = nearest(str(self.order), get_args(Order))
        fix = f"did you mean {match!r}?" if match else f"use one of {', '.join(get_args(Order))}"
        require(self.order in get_args(Order), "copy.order", f"is {self.order!r}", fix)

    def draw(self, rng: np.random.Generator) -> Problem:
        """A uniform length, and letters without repetition."""
        length = int(rng.integers(self.shortest, self.longest + 1))
        return self.problem("".join(LETTERS[i] for i in rng.permutation(self.letters)[:length].tolist()))

    def problem(self, word: str) -> Problem:
        """The problem of this word."""
        text = f"{word}{_ASKED[self.order]}"
        return Problem(text, text, word)

    def right_steps(self, problem: Problem) -> list[str]:
        word = problem.instance
        return [{"same": word, "reverse": word[::-1], "sorted": "".join(sorted(word))}[self.order]]


@dataclass(frozen=True)
class Recall(Word):
    """`a3b7?a=` is solved by `3.`; `a3b7!a=` asks for the value that is not of the key, so by `7.`.

    negated: percent of the questions of the second kind, which is rare in a corpus and looks like the first: a model
    that has learned to look up and not yet to read `!` gives the wrong value (the distractor of inverse scaling).
    """

    pairs: int = 2
    keys: int = 8  # letters to choose from
    negated: int = 0  # percent; only with two pairs, where the other value is one

    name = "recall"
    alphabet = LETTERS + "0123456789?!=|."

    def __post_init__(self) -> None:
        require(2 <= self.keys <= len(LETTERS), "recall.keys", f"is {self.keys}", f"use 2 to {len(LETTERS)}")
        most = min(self.keys, 10)
        require(1 <= self.pairs <= most, "recall.pairs", f"is {self.pairs}", f"use 1 to {most}")
        require(0 <= self.negated <= 100, "recall.negated", f"is {self.negated}", "give percent, 0 to 100")
        require(not self.negated or self.pairs == 2, "recall.negated", "needs two pairs", "set recall.pairs=2")

    def draw(self, rng: np.random.Generator) -> Problem:
        """Distinct keys and distinct values."""
        keys = [LETTERS[i] for i in rng.permutation(self.keys)[: self.pairs].tolist()]
        values = rng.permutation(10)[: self.pairs].tolist()
        negated = bool(rng.integers(100) < self.negated)
        return self.problem(
            tuple(zip(keys, map(int, values), strict=True)), keys[int(rng.integers(len(keys)))], negated
        )

    def problem(self, pairs: tuple[tuple[str, int], ...], key: str, negated: bool = False) -> Problem:
        """The question for the value of a key, or with `negated` for the other one of two."""
        listed = "".join(f"{name}{value}" for name, value in pairs)
        text = f"{listed}{'!' if negated else '?'}{key}="
        return Problem(text, text, (pairs, key, negated))

    def trap(self, rng: np.random.Generator) -> Trap:
        """A negated question; the tempting answer is that of the plain one. Needs two pairs."""
        require(self.pairs == 2, "recall.pairs", f"is {self.pairs}, and a trap needs 2", "set recall.pairs=2")
        drawn = self.draw(rng)
        pairs, key, _ = drawn.instance
        asked = [self.problem(pairs, key, negated) for negated in (True, False)]
        right, tempting = (f"{self.right_steps(problem)[0]}." for problem in asked)
        return Trap(asked[0].prompt, right, tempting)

    def right_steps(self, problem: Problem) -> list[str]:
        pairs, key, negated = problem.instance
        return [str(next(value for name, value in pairs if (name == key) != negated))]
