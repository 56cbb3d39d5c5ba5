"""StateSpace: tasks whose solutions are paths through a finite space of states, so that everything is exact."""

from __future__ import annotations

import abc
import functools
from collections import deque
from collections.abc import Hashable
from typing import Any

import numpy as np

from models.errors import require
from scaling.tasks.task import Problem, Task, closed_steps

State = Hashable
_NEVER = 1 << 30  # a distance beyond any path


class StateSpace(Task):
    """A task that is a walk from a start to a goal.

    The uniformly random legal policy draws one of `moves` with equal probability and ends when it reaches a goal, has
    no move, or has made `limit` moves.
    """

    @abc.abstractmethod
    def start(self, problem: Problem) -> State:
        """Where the walk starts."""

    @abc.abstractmethod
    def moves(self, problem: Problem, state: Any) -> list[tuple[str, State]]:
        """The legal steps in a fixed order, as (text without what closes it, next state); repeats count twice."""

    @abc.abstractmethod
    def goal(self, problem: Problem, state: Any) -> bool:
        """Whether a walk may end here."""

    def step(self, problem: Problem, state: Any, text: str) -> State | None:
        """The state after a step, in any spelling that is right; None if it is illegal."""
        return dict(self.moves(problem, state)).get(text)

    def limit(self, problem: Problem) -> int:
        """The most steps a completion may have."""
        return _NEVER

    def replay(self, problem: Problem, text: str) -> tuple[State, int, bool] | None:
        """(state, steps made, ended) after the closed steps of a text; None if one of them is illegal."""
        if (parts := closed_steps(self, text)) is None:
            return None
        steps, ended = parts
        if len(steps) > self.limit(problem):
            return None
        state = self.start(problem)
        for step in steps:
            following = self.step(problem, state, step)
            if following is None:
                return None
            state = following
        return state, len(steps), ended

    def verify(self, problem: Problem, completion: str) -> bool:
        """Every step legal, the end written, and a goal reached."""
        reached = self.replay(problem, completion)
        return reached is not None and reached[2] and self.goal(problem, reached[0])

    def value(self, problem: Problem, prefix: str = "") -> float:
        """See Task.value: dynamic programming over (state, steps left)."""
        reached = self.replay(problem, prefix)
        if reached is None:
            return 0.0
        state, made, ended = reached
        if ended:
            return float(self.goal(problem, state))
        return self.success(problem, state, self.limit(problem) - made)

    def success(self, problem: Problem, state: State, left: int) -> float:
        """The probability that the uniformly random policy reaches a goal from `state` within `left` moves."""
        known = _successes(self, problem)
        left = min(left, _NEVER // 2)  # without a limit the walk ends by itself
        return self._success(problem, state, left, known)

    def _success(self, problem: Problem, state: State, left: int, known: dict) -> float:
        if left == 0:
            return 0.0
        key = (state, left)
        if key not in known:
            total, moves = 0.0, self.moves(problem, state)
            for _, following in moves:
                arrived = self.goal(problem, following)
                total += 1.0 if arrived else self._success(problem, following, left - 1, known)
            known[key] = total / len(moves) if moves else 0.0
        return known[key]

    def distances(self, problem: Problem) -> dict[State, int]:
        """Moves to the nearest goal, of every state that can be reached from the start and can reach a goal."""
        return _distances(self, problem)

    def process_reward(self, problem: Problem, completion: str) -> float:
        """1 if every step so far is legal and a goal can still be reached, otherwise 0."""
        return float(self.solvable(problem, completion))

    def closing(self, problem: Problem, state: State, made: int) -> str:
        """What closes the step that led to `state`, the `made`-th, in the text of the random policy."""
        over = self.goal(problem, state) or made >= self.limit(problem) or not self.moves(problem, state)
        return self.end if over else self.delimiter

    def solution(self, problem: Problem, rng: np.random.Generator) -> str:
        """A shortest solution, each step uniform among those that lead to one."""
        distances, state, text = self.distances(problem), self.start(problem), []
        require(state in distances, "problem", f"{problem.prompt!r} has no solution", "take one from generate")
        while (left := distances[state]) > 0:
            closer = [move for move in self.moves(problem, state) if distances.get(move[1], _NEVER) == left - 1]
            step, state = closer[int(rng.integers(len(closer)))]
            text.append(step)
        return self.delimiter.join(text) + self.end

    def random_completion(self, problem: Problem, rng: np.random.Generator) -> str:
        """What the uniformly random legal policy writes."""
        state, text, made = self.start(problem), "", 0
        while not text.endswith(self.end):
            moves = self.moves(problem, state)
            if not moves:
                return text + self.end
            step, state = moves[int(rng.integers(len(moves)))]
            made += 1
            text += step + self.closing(problem, state, made)
        return text


@functools.lru_cache(maxsize=512)
def _successes(task: StateSpace, problem: Problem) -> dict[tuple[State, int], float]:
    """The table that `StateSpace.success` fills."""
    return {}


@functools.lru_cache(maxsize=512)
def _distances(task: StateSpace, problem: Problem) -> dict[State, int]:
    origin = task.start(problem)
    before: dict[State, list[State]] = {origin: []}
    queue = deque([origin])
    while queue:
        state = queue.popleft()
        for _, following in task.moves(problem, state):
            if following not in before:
                before[following] = []
                queue.append(following)
            before[following].append(state)
    distances = {state: 0 for state in before if task.goal(problem, state)}
    queue = deque(distances)
    while queue:
        state = queue.popleft()
        for previous in before[state]:
            if previous not in distances:
                distances[previous] = distances[state] + 1
                queue.append(previous)
    return distances
