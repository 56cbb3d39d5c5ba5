"""Task and Problem: problems with exact verifiers, whose solutions are written in steps that can be scored."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from models.errors import ConfigError, require
from scaling.tasks.environment import Environment, Silence

Split = Literal["train", "test"]
TEST_FRACTION = 0.2  # of the canonical forms of a task
_MOST_REPEATS = 20_000  # draws without a new problem, after which a task is taken to have no more


@dataclass(frozen=True)
class Problem:
    """One problem; those with equal `canonical` are the same in other words and lie on one side of the split."""

    prompt: str
    canonical: str
    instance: Any  # what the task knows of it: hashable, and not needed to read the prompt


class Task(abc.ABC):
    """A family of problems; subclasses are frozen dataclasses of difficulty knobs.

    A completion is a series of steps, each closed by `delimiter`, the last by `end`. A prefix of a completion is
    judged at its last closed step; text after that is ignored.
    """

    name: ClassVar[str]
    alphabet: ClassVar[str]  # every character of prompts and completions, at most 40
    delimiter: ClassVar[str] = "|"
    end: ClassVar[str] = "."
    shown: ClassVar[tuple[str, ...]] = ()  # knobs whose value a prompt shows; a mixture tells the others

    @abc.abstractmethod
    def draw(self, rng: np.random.Generator) -> Problem | None:
        """A random problem of either side of the split; None for a draw that is no problem."""

    def draws(self, rng: np.random.Generator) -> Iterator[Problem | None]:
        """An endless stream of `draw`; a task that can draw many at once faster overrides it."""
        while True:
            yield self.draw(rng)

    @abc.abstractmethod
    def solution(self, problem: Problem, rng: np.random.Generator) -> str:
        """One right completion."""

    @abc.abstractmethod
    def verify(self, problem: Problem, completion: str) -> bool:
        """Whether the completion is right; any text is an answer, none raises."""

    @abc.abstractmethod
    def answer(self, completion: str) -> str | None:
        """What votes count: equal for completions that say the same; None for one that cannot be read."""

    @abc.abstractmethod
    def process_reward(self, problem: Problem, completion: str) -> float:
        """How good a prefix is, in [0, 1]; 0 after a wrong step."""

    @abc.abstractmethod
    def value(self, problem: Problem, prefix: str) -> float:
        """The probability that the uniformly random legal policy, going on from `prefix`, ends right; exact."""

    def level(self, problem: Problem) -> float:
        """The difficulty that the problem was drawn at, where the task mixes several (mixed.py); otherwise NaN."""
        return float("nan")

    def environment(self) -> Environment:
        """What answers within a completion."""
        return Silence()

    def solvable(self, problem: Problem, prefix: str = "") -> bool:
        """Whether some legal continuation ends right."""
        return self.value(problem, prefix) > 0

    def generate(self, seed: int, count: int, split: Split = "train") -> list[Problem]:
        """`count` problems, the same for the same arguments; fewer are a prefix of more.

        A hash of the canonical form decides the side, so train and test are disjoint for any seeds and counts. Test
        problems are distinct, training problems may repeat.

        Raises:
          ConfigError: the task has fewer distinct problems.
        """
        require(split in ("train", "test"), "split", f"is {split!r}", "use 'train' or 'test'")
        require(count >= 0, "count", f"is {count}", "give the number of problems")
        require(seed >= 0, "seed", f"is {seed}", "use 0 or more")
        rng = np.random.default_rng([seed, *self.name.encode()])
        found: list[Problem] = []
        seen: set[str] = set()
        misses = 0
        draws = self.draws(rng)
        while len(found) < count:
            problem = next(draws)
            if problem is None or side(self.name, problem.canonical) != split or problem.canonical in seen:
                misses += 1
                if misses > _MOST_REPEATS:
                    self._too_few(len(found), count, split)
                continue
            misses = 0
            found.append(problem)
            if split == "test":
                seen.add(problem.canonical)
        return found

    def step_rewards(self, problem: Problem, completion: str) -> list[float]:
        """`process_reward` after each closed step."""
        ends = [i + 1 for i, character in enumerate(completion) if character in (self.delimiter, self.end)]
        return [self.process_reward(problem, completion[:stop]) for stop in ends]

    def _too_few(self, found: int, count: int, split: str) -> None:
        problem = f"{self} has only {found} distinct problems of the {split} split, not {count}"
        raise ConfigError("count", problem, "ask for fewer, or give the task a larger range")


def side(name: str, canonical: Hashable) -> Split:
    """The split that a canonical form belongs to: a property of itself alone."""
    digest = hashlib.sha256(f"{name}\0{canonical}".encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") < TEST_FRACTION * 2**64 else "train"


def closed_steps(task: Task, text: str) -> tuple[list[str], bool] | None:
    """The closed steps of a text without what closes them, and whether it has ended; None if text follows the end."""
    body, found_end, rest = text.partition(task.end)
    if rest:
        return None
    steps = body.split(task.delimiter)
    return (steps, True) if found_end else (steps[:-1], False)
