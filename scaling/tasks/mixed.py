"""Mixed: one task over several values of one knob, so that its problems run from easy to hard."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from models.errors import require
from scaling.tasks.task import Problem, Task

MARK = "#"  # between a level and the prompt of the problem
_DRAWS = 10_000  # in a row of one level that may be no problems, such as tag systems that come back to a state


class Levelled(NamedTuple):
    """What a mixed task knows of a problem: which part it is of, and that part's own problem."""

    part: int
    problem: Problem


@dataclass(frozen=True)
class Mixed(Task):
    """`modular:operations=4/8/16,weights=2/1/1`: the same task with `knob` at each of `levels`, drawn by weight.

    A problem lies on the side of the split on which it lies without the mixture. Where the prompts do not show the
    knob (`Task.shown`), the level comes before them: `16#A:BC,B:A,C:AB;ABC>` asks for 16 steps.
    """

    parts: tuple[Task, ...]
    knob: str
    levels: tuple[int, ...]
    weights: tuple[int, ...]

    def __post_init__(self) -> None:
        name, first = f"{self.parts[0].name}.{self.knob}", self.parts[0]
        require(len(set(self.levels)) == len(self.levels), name, "names a level twice", "name each once")
        problem = f"are {len(self.weights)} for {len(self.levels)} levels of {self.knob}"
        require(len(self.weights) == len(self.levels), f"{first.name}.weights", problem, "give one each, as in 2/1/1")
        require(min(self.weights) > 0, f"{first.name}.weights", "hold a 0", "leave that level out")
        told = "" if self.knob in first.shown else f"0123456789{MARK}"
        letters = "".join(dict.fromkeys("".join([*(part.alphabet for part in self.parts), told])))
        for field, value in (("name", first.name), ("alphabet", letters), ("delimiter", first.delimiter),
                             ("end", first.end)):  # fmt: skip
            object.__setattr__(self, field, value)

    def draw(self, rng: np.random.Generator) -> Problem | None:
        return next(self.draws(rng))

    def draws(self, rng: np.random.Generator) -> Iterator[Problem | None]:
        """Levels by weight, whatever share of a level's draws are no problems."""
        streams = [part.draws(rng) for part in self.parts]
        shares = np.cumsum(self.weights) / sum(self.weights)
        while True:
            part = int(np.searchsorted(shares, rng.random(), side="right"))
            drawn = itertools.islice(streams[part], _DRAWS)
            problem = next((problem for problem in drawn if problem is not None), None)
            yield None if problem is None else self.levelled(part, problem)

    def levelled(self, part: int, problem: Problem) -> Problem:
        """A problem of one of the parts as one of the mixture."""
        told = "" if self.knob in self.parts[part].shown else f"{self.levels[part]}{MARK}"
        return Problem(f"{told}{problem.prompt}", problem.canonical, Levelled(part, problem))

    def level(self, problem: Problem) -> float:
        return float(self.levels[problem.instance.part])

    def solution(self, problem: Problem, rng: np.random.Generator) -> str:
        part, own = self._own(problem)
        return part.solution(own, rng)

    def verify(self, problem: Problem, completion: str) -> bool:
        part, own = self._own(problem)
        return part.verify(own, completion)

    def answer(self, completion: str) -> str | None:
        answers = (part.answer(completion) for part in self.parts)
        return next((answer for answer in answers if answer is not None), None)

    def process_reward(self, problem: Problem, completion: str) -> float:
        part, own = self._own(problem)
        return part.process_reward(own, completion)

    def value(self, problem: Problem, prefix: str) -> float:
        part, own = self._own(problem)
        return part.value(own, prefix)

    def _own(self, problem: Problem) -> tuple[Task, Problem]:
        part, own = problem.instance
        return self.parts[part], own
