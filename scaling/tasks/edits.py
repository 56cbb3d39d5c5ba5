"""Edits: one string becomes another by single edits, each of which an editor carries out."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.errors import require
from scaling.tasks.environment import FAILED, Environment, Reply
from scaling.tasks.state_space import StateSpace
from scaling.tasks.task import Problem

_LETTERS = "abcd"
_LONGEST = 8  # letters of a string, so that a place is one digit
_ASKED = re.compile(r"([dis])([0-9])([a-d]?)=")


@dataclass(frozen=True)
class Edits(StateSpace):
    """`abca>bcb:` is solved by `d0=bca|s2b=bcb.`: delete, `i2a` insert before a place, `s2b` substitute.

    Its environment is an editor, which writes the string after an `=`. After the cloning tasks of Aviary
    (Narayanan et al. 2024, arXiv:2412.21154), of which these are the form.
    """

    letters: int = 3
    length: int = 4  # of the first string
    edits: int = 2  # random ones, that lead to the second
    slack: int = 1  # edits that a completion may have beyond these

    name = "edits"
    alphabet = "0123456789abcd>:dis=|.!"

    def __post_init__(self) -> None:
        require(2 <= self.letters <= len(_LETTERS), "edits.letters", f"is {self.letters}", "use 2 to 4")
        require(2 <= self.length <= 6, "edits.length", f"is {self.length}", "use 2 to 6")
        require(1 <= self.edits <= 4, "edits.edits", f"is {self.edits}", "use 1 to 4")
        require(0 <= self.slack <= 4, "edits.slack", f"is {self.slack}", "use 0 to 4")

    def draw(self, rng: np.random.Generator) -> Problem | None:
        """A uniform string, and one that so many uniform edits make of it; none when they cancel."""
        first = "".join(_LETTERS[i] for i in rng.integers(0, self.letters, self.length).tolist())
        second = first
        for _ in range(self.edits):
            found = edited_ways(second, self.letters)
            second = found[int(rng.integers(len(found)))][1]
        return None if second == first else self.problem(first, second)

    def problem(self, first: str, second: str) -> Problem:
        """The problem of these strings."""
        return Problem(f"{first}>{second}:", f"{first}>{second}", (first, second))

    def environment(self) -> Environment:
        return Editor()

    def start(self, problem: Problem) -> str:
        return str(problem.instance[0])

    def moves(self, problem: Problem, state: Any) -> list[tuple[str, Any]]:
        return [(f"{asked}={found}", found) for asked, found in edited_ways(state, self.letters)]

    def goal(self, problem: Problem, state: Any) -> bool:
        return bool(state == problem.instance[1])

    def solution(self, problem: Problem, rng: np.random.Generator) -> str:
        """As StateSpace.solution, by the distance of Levenshtein, which needs no walk through all strings."""
        (text, goal), steps = problem.instance, []
        while left := distance(text, goal):
            closer = [move for move in edited_ways(text, self.letters) if distance(move[1], goal) == left - 1]
            asked, text = closer[int(rng.integers(len(closer)))]
            steps.append(f"{asked}={text}")
        return self.delimiter.join(steps) + self.end

    def limit(self, problem: Problem) -> int:
        return self.edits + self.slack

    def answer(self, completion: str) -> str | None:
        """The string at the end."""
        body, ended, rest = completion.partition(self.end)
        return body.rpartition("=")[2] if ended and not rest else None


class Editor(Environment):
    """`s2b=` is answered by the string after that edit. One that cannot be done is answered by `!` and ends it all."""

    calls = ("=",)

    def reset(self, problem: Problem) -> str:
        return str(problem.instance[0])

    def step(self, state: Any, text: str) -> Reply:
        match = _ASKED.fullmatch(text.rpartition("|")[2])
        found = None if match is None else edited(state, match[1], int(match[2]), match[3])
        return Reply(state, FAILED, failed=True, done=True) if found is None else Reply(found, found)


def edited(text: str, kind: str, place: int, letter: str) -> str | None:
    """A text after an edit: d(elete), i(nsert) or s(ubstitute); None where it cannot be done."""
    insert, delete = kind == "i", kind == "d"
    fits = place < len(text) + insert and 1 <= len(text) + insert - delete <= _LONGEST
    return text[:place] + letter + text[place + (not insert) :] if fits and bool(letter) != delete else None


@functools.lru_cache(maxsize=2**14)
def distance(first: str, second: str) -> int:
    """Fewest edits between two texts (Levenshtein 1966)."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        above, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]


@functools.lru_cache(maxsize=2**14)
def edited_ways(text: str, letters: int) -> tuple[tuple[str, str], ...]:
    """(what to ask for, the text after it) of all edits that can be done and change it."""
    asked = [("d", place, "") for place in range(len(text))]
    asked += [(kind, place, letter) for kind in "is" for place in range(len(text) + 1) for letter in _LETTERS[:letters]]
    found = [(f"{kind}{place}{letter}", edited(text, kind, place, letter)) for kind, place, letter in asked]
    return tuple((name, after) for name, after in found if after is not None and after != text)
