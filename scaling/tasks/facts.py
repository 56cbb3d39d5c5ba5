"""Questions about facts that no text states: each must be recalled, and an answer follows from several of them."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import numpy as np

from models.errors import require
from scaling.tasks.task import Problem, Task, closed_steps

ENTITIES, RELATIONS = "abcdefghijklmnopqrstuvwxyz", "01234567"
ANSWER, AGAIN = ":", "~"  # ends a thought; begins another recollection
_STEP = re.compile(rf"({AGAIN}?)([a-z][0-7][a-z])")
_MOST_ROUNDS = 5


@dataclass(frozen=True)
class Facts(Task):
    """`k31=` asks for relation 1 of relation 3 of k, and `k3c|c1m|:m.` recalls both facts and answers.

    Every entity stands in every relation to one entity, drawn at random; `world` says which. Problems are drawn of the
    first `known` per cent of all facts, in an order of their own, so that a policy can learn from some facts and be
    asked about all. In solutions to learn from, a round of steps is wrong in `again` per cent of cases, and then a `~`
    begins another one: from some step on it is about another entity, whose facts are right. The last round is right.
    Votes and verdicts are about the answer alone, of completions that can be read.
    """

    hops: int = 3
    known: int = 100
    again: int = 0
    world: int = 0

    name = "facts"
    alphabet = f"{ENTITIES}{RELATIONS}=|{AGAIN}{ANSWER}."
    shown = ("hops",)

    def __post_init__(self) -> None:
        require(1 <= self.hops <= 16, "facts.hops", f"is {self.hops}", "use 1 to 16")
        require(1 <= self.known <= 100, "facts.known", f"is {self.known}", "use 1 to 100 per cent")
        require(0 <= self.again <= 90, "facts.again", f"is {self.again}", "use 0 to 90 per cent")

    def fact(self, entity: str, relation: str) -> str:
        """What stands in this relation to an entity."""
        return ENTITIES[_world(self.world)[0][ENTITIES.index(entity), int(relation)]]

    def knows(self, entity: str, relation: str) -> bool:
        """Whether this fact is among the `known` ones."""
        order = _world(self.world)[1]
        return bool(order[ENTITIES.index(entity), int(relation)] < self.known * order.size / 100)

    def draw(self, rng: np.random.Generator) -> Problem | None:
        """Uniform among the questions about known facts."""
        start = ENTITIES[rng.integers(len(ENTITIES))]
        found = self.problem(start, "".join(RELATIONS[i] for i in rng.integers(len(RELATIONS), size=self.hops)))
        return found if self._all_known(self._chain(*found.instance)) else None

    def problem(self, start: str, relations: str) -> Problem:
        """The problem of an entity and the relations [hops] to follow from it."""
        return Problem(f"{start}{relations}=", f"{start}{relations}", (start, relations))

    def right_steps(self, problem: Problem) -> list[str]:
        """The facts to recall, as steps without what closes them."""
        return self._chain(*problem.instance)

    def right_answer(self, problem: Problem) -> str:
        """The answer, as text."""
        return self.right_steps(problem)[-1][-1]

    def solution(self, problem: Problem, rng: np.random.Generator) -> str:
        rounds = [self.right_steps(problem)]
        while len(rounds) < _MOST_ROUNDS and 100 * rng.random() < self.again:
            rounds.insert(0, self._wrong(problem, rng))
        thought = AGAIN.join("".join(step + self.delimiter for step in steps) for steps in rounds)
        return f"{thought}{ANSWER}{self.right_answer(problem)}{self.end}"

    def answer(self, completion: str) -> str | None:
        readable = completion.endswith(self.end) and self._round(completion) is not None
        return completion[-2] if readable else None

    def verify(self, problem: Problem, completion: str) -> bool:
        return self.answer(completion) == self.right_answer(problem)

    def value(self, problem: Problem, prefix: str) -> float:
        """1 if right steps after this prefix lead to the right answer, even if it holds errors that cancel."""
        if prefix.endswith(self.end):
            return float(self.verify(problem, prefix))
        steps, (start, relations) = self._round(prefix), problem.instance
        if steps is None or len(steps) > self.hops:
            return 0.0
        at = steps[-1][-1] if steps else start
        for relation in relations[len(steps) :]:
            at = self.fact(at, relation)
        return float(at == self.right_answer(problem))

    def process_reward(self, problem: Problem, completion: str) -> float:
        """1 while every step of the last round is right, otherwise 0."""
        steps, right = self._round(completion), self.right_steps(problem)
        if steps is None or steps != right[: len(steps)]:
            return 0.0
        return float(self.end not in completion or self.verify(problem, completion))

    def _round(self, text: str) -> list[str] | None:
        """The closed steps of the last round, without the answer; None if they cannot be read."""
        parts = closed_steps(self, text)
        if parts is None:
            return None
        steps, ended = parts
        found = [_STEP.fullmatch(step) for step in (steps[:-1] if ended else steps)]
        if None in found or (ended and re.fullmatch(f"{ANSWER}[a-z]", steps[-1]) is None):
            return None
        begin = max((i for i, step in enumerate(found) if step is not None and step[1]), default=0)
        return [step[2] for step in found[begin:] if step is not None]

    def _chain(self, start: str, relations: str) -> list[str]:
        steps = []
        for relation in relations:
            steps.append(f"{start}{relation}{self.fact(start, relation)}")
            start = steps[-1][-1]
        return steps

    def _all_known(self, steps: list[str]) -> bool:
        return all(self.knows(step[0], step[1]) for step in steps)

    def _wrong(self, problem: Problem, rng: np.random.Generator) -> list[str]:
        """A round that is about another entity from some step on, and does not end right. Its other facts are known
        ones: what a policy is not told, it does not learn from errors either."""
        right, (_, relations) = self.right_steps(problem), problem.instance
        for i in [int(rng.integers(self.hops)), self.hops - 1]:
            rounds = [
                [*right[:i], right[i][:2] + other, *rest]
                for other in ENTITIES
                if other != right[i][-1] and self._all_known(rest := self._chain(other, relations[i + 1 :]))
            ]
            rounds = [steps for steps in rounds if steps[-1][-1] != right[-1][-1]]
            if rounds:
                break
        return rounds[rng.integers(len(rounds))]


@functools.lru_cache(maxsize=16)
def _world(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(entity that stands in each relation to each, place of that fact in the order, both `[entities, relations]`)."""
    rng = np.random.default_rng([seed, *b"facts"])
    shape = len(ENTITIES), len(RELATIONS)
    return rng.integers(len(ENTITIES), size=shape), rng.permutation(shape[0] * shape[1]).reshape(shape)
