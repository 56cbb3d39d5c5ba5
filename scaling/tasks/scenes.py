"""Scenes: programs that place objects, edited until they render as asked; and judgements of what was rendered."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from models.errors import require
from scaling.tasks.state_space import StateSpace
from scaling.tasks.task import Problem

_LETTERS = "abcdef"


class Scene(NamedTuple):
    """order: the objects as the program draws them; start, goal: the number of each statement."""

    order: str
    start: tuple[int, ...]
    goal: tuple[int, ...]


@dataclass(frozen=True)
class Scenes(StateSpace):
    """`c3a2b1>b2c3a4:` is solved by `b2|a4.`: a program draws each object in a cell, and a rendering lists them so.

    The prompt shows a program and what is to be seen, cell by cell. `b2` is an edit: the number of b's statement, in
    the place of another. After the tasks of BlenderGym (Gu et al. 2025, arXiv:2504.01786).
    """

    objects: int = 4
    cells: int = 5
    edits: int = 2  # statements that differ
    slack: int = 1  # edits that a completion may have beyond these

    name = "scenes"
    alphabet = f"0123456789{_LETTERS}>:|."
    shown = ("objects",)

    def __post_init__(self) -> None:
        require(2 <= self.objects <= len(_LETTERS), "scenes.objects", f"is {self.objects}", "use 2 to 6")
        require(3 <= self.cells <= 10, "scenes.cells", f"is {self.cells}", "use 3 to 10")
        require(1 <= self.edits <= self.objects, "scenes.edits", f"is {self.edits}", f"use 1 to {self.objects}")
        require(0 <= self.slack <= 4, "scenes.slack", f"is {self.slack}", "use 0 to 4")

    def draw(self, rng: np.random.Generator) -> Problem:
        """A uniform program, of which uniform statements get other uniform numbers."""
        order = "".join(_LETTERS[i] for i in rng.permutation(self.objects))
        start = rng.integers(0, self.cells, self.objects)
        goal = start.copy()
        chosen = rng.choice(self.objects, self.edits, replace=False)
        goal[chosen] = (start[chosen] + rng.integers(1, self.cells, self.edits)) % self.cells
        return self.problem(Scene(order, tuple(start.tolist()), tuple(goal.tolist())))

    def problem(self, scene: Scene) -> Problem:
        """The problem of these programs."""
        program = [f"{letter}{number}" for letter, number in zip(scene.order, scene.start, strict=True)]
        goal = self.rendered(scene.order, scene.goal)
        return Problem(f"{''.join(program)}>{goal}:", f"{''.join(sorted(program))}>{goal}", scene)

    def rendered(self, order: str, numbers: tuple[int, ...]) -> str:
        """What a program shows, such as `a0b4c4`; those of one cell by their letters."""
        return _listed(dict(zip(order, numbers, strict=True)))

    def seen(self, problem: Problem, completion: str) -> str | None:
        """What the program shows after the edits; None for a completion that did not end or cannot be carried out."""
        reached: Any = self.replay(problem, completion)
        return self.rendered(problem.instance.order, reached[0]) if reached is not None and reached[2] else None

    def start(self, problem: Problem) -> tuple[int, ...]:
        return tuple(problem.instance.start)

    def moves(self, problem: Problem, state: Any) -> list[tuple[str, Any]]:
        """Every other number of every statement."""
        return [
            (f"{letter}{number}", (*state[:i], number, *state[i + 1 :]))
            for i, letter in enumerate(problem.instance.order) for number in range(self.cells) if number != state[i]
        ]  # fmt: skip

    def goal(self, problem: Problem, state: Any) -> bool:
        return bool(state == problem.instance.goal)

    def limit(self, problem: Problem) -> int:
        return self.edits + self.slack

    def success(self, problem: Problem, state: Any, left: int) -> float:
        """As StateSpace.success; only how many statements differ matters."""
        return _success(self.objects, self.cells, _differing(state, problem.instance.goal), left)

    def solution(self, problem: Problem, rng: np.random.Generator) -> str:
        """The statements that differ, in any order."""
        _, state, goal = problem.instance
        steps = [f"{problem.instance.order[i]}{goal[i]}" for i in rng.permutation(self.objects) if state[i] != goal[i]]
        return self.delimiter.join(steps) + self.end

    def answer(self, completion: str) -> str | None:
        """The last number of each statement that is edited."""
        body, ended, rest = completion.partition(self.end)
        steps = body.split(self.delimiter)
        if not ended or rest or not all(re.fullmatch(f"[{_LETTERS}][0-9]", step) for step in steps):
            return None
        return "".join(map("".join, sorted({step[0]: step[1] for step in steps}.items())))


def _differing(state: Any, goal: Any) -> int:
    return sum(a != b for a, b in zip(state, goal, strict=True))


@functools.lru_cache(maxsize=4096)
def _success(objects: int, cells: int, differing: int, left: int) -> float:
    """The chance that uniform edits, at most so many, come to a program in which no statement differs."""
    if left == 0:
        return 0.0

    def then(number: int) -> float:
        return _success(objects, cells, number, left - 1) if number else 1.0

    share, mend = differing / objects, 1 / (cells - 1)
    spoiled = (1 - share) * then(differing + 1) if differing < objects else 0.0
    mended = share * (mend * then(differing - 1) + (1 - mend) * then(differing)) if differing else 0.0
    return spoiled + mended


def _listed(cells: dict[str, int]) -> str:
    return "".join(f"{letter}{cell}" for letter, cell in sorted(cells.items(), key=lambda pair: pair[::-1]))


def _cells(rendering: str) -> dict[str, int]:
    return dict(zip(rendering[::2], map(int, rendering[1::2]), strict=True))


def displaced(rendering: str, objects: int, cells: int, rng: np.random.Generator) -> str:
    """A rendering in which so many objects, drawn uniformly, are in other cells, drawn uniformly."""
    found = _cells(rendering)
    for letter in rng.choice(sorted(found), objects, replace=False).tolist():
        found[letter] = int(found[letter] + rng.integers(1, cells)) % cells
    return _listed(found)


class Judgement(NamedTuple):
    """looked: the objects that were to be looked at; read: of each, its cell as asked and as seen; score: how many were
    said to agree."""

    looked: str
    read: tuple[tuple[int, int], ...]
    score: int


@dataclass(frozen=True)
class Critic:
    """`a0b4c4?a0c2b4:` is judged by `ca>c42a00=1.`: a principle, which objects to look at; a critique, their cells as
    asked and as seen; and a score, how many agree.

    In judgements to learn from, uniform objects are looked at, and `slips` per cent of the cells are read at random, in
    judgements that differ in care: the rate of one is uniform between none and twice that. A judgement of a right
    rendering is right if all that it looked at agree, one of a wrong rendering if not all do. The form is that of
    DeepSeek-GRM (Liu et al. 2025, arXiv:2504.02495).
    """

    cells: int = 5
    looked: int = 2
    slips: int = 15

    alphabet = f"0123456789{_LETTERS}?:>=."
    end = "."

    def __post_init__(self) -> None:
        require(1 <= self.looked <= len(_LETTERS), "critic.looked", f"is {self.looked}", "use 1 to 6")
        require(0 <= self.slips <= 50, "critic.slips", f"is {self.slips}", "use 0 to 50")

    def prompt(self, asked: str, seen: str) -> str:
        """The question about a rendering."""
        return f"{asked}?{seen}:"

    def judgement(self, asked: str, seen: str, rng: np.random.Generator) -> str:
        """One to learn from."""
        both, rate = (_cells(asked), _cells(seen)), rng.uniform(0, 2 * self.slips / 100)
        looked = rng.choice(sorted(both[0]), self.looked, replace=False).tolist()
        read = [tuple(int(rng.integers(self.cells)) if rng.random() < rate else one[letter] for one in both)
                for letter in looked]  # fmt: skip
        critique = "".join(f"{letter}{a}{b}" for letter, (a, b) in zip(looked, read, strict=True))
        return f"{''.join(looked)}>{critique}={sum(a == b for a, b in read)}{self.end}"

    def read(self, text: str) -> Judgement | None:
        """None for a text of another form, or with a score that cannot be."""
        n = self.looked
        found = re.fullmatch(rf"([{_LETTERS}]{{{n}}})>((?:[{_LETTERS}][0-9][0-9]){{{n}}})=([0-{n}])[.]", text)
        if found is None or found[2][::3] != found[1]:
            return None
        read = tuple((int(found[2][i + 1]), int(found[2][i + 2])) for i in range(0, 3 * n, 3))
        return Judgement(found[1], read, int(found[3]))

    def right(self, asked: str, seen: str, judgement: Judgement) -> bool:
        """Whether the score is on the right side; see the class."""
        return (judgement.score == self.looked) == (asked == seen)
