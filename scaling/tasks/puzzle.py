"""Puzzle: from one arrangement of things to another by legal moves, with exact distances."""

from __future__ import annotations

import abc
import functools
from collections import deque
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np

from scaling.tasks.state_space import State, StateSpace
from scaling.tasks.task import Problem, closed_steps


class Route(NamedTuple):
    """From where to where, and in how many moves at most."""

    start: Hashable
    goal: Hashable
    limit: int


class Puzzle(StateSpace):
    """A random legal start and a random goal (a fixed pair would be memorised): `start>goal:` and then moves.

    A completion may take `slack` more moves than the shortest; the random policy stops when it gets there.
    """

    slack: int

    @abc.abstractmethod
    def anchor(self) -> State:
        """Some legal arrangement, from which all others can be reached."""

    @abc.abstractmethod
    def neighbours(self, state: Any) -> list[tuple[str, State]]:
        """The legal moves, as (text, next arrangement)."""

    @abc.abstractmethod
    def show(self, state: Any) -> str:
        """An arrangement as the prompt shows it."""

    @abc.abstractmethod
    def read_move(self, text: str) -> str | None:
        """A move in its usual spelling; None for a text that has not the form of one."""

    def draw(self, rng: np.random.Generator) -> Problem | None:
        """A uniform pair of different arrangements; None if there is no way from the first to the second."""
        states = _arrangements(self)
        start, goal = (states[int(i)] for i in rng.integers(0, len(states), 2))
        return self.problem(start, goal) if start != goal and goal in steps_from(self, start) else None

    def problem(self, start: State, goal: State) -> Problem:
        """The problem of coming from `start` to `goal`; KeyError if there is no way."""
        shortest = steps_from(self, start)[goal]
        text = f"{self.show(start)}>{self.show(goal)}:"
        return Problem(text, text, Route(start, goal, shortest + self.slack))

    def start(self, problem: Problem) -> State:
        return problem.instance.start

    def moves(self, problem: Problem, state: Any) -> list[tuple[str, State]]:
        return _neighbours(self, state)

    def goal(self, problem: Problem, state: Any) -> bool:
        return state == problem.instance.goal

    def limit(self, problem: Problem) -> int:
        return problem.instance.limit

    def answer(self, completion: str) -> str | None:
        """The moves themselves; None unless it is a list of moves."""
        parts = closed_steps(self, completion)
        moves = [self.read_move(step) for step in parts[0]] if parts is not None and parts[1] else [None]
        return None if None in moves else self.delimiter.join(map(str, moves))

    def process_reward(self, problem: Problem, completion: str) -> float:
        """1 - distance / distance from the start; 0 after an illegal move, in a dead end, or too far to get there."""
        reached = self.replay(problem, completion)
        distances = self.distances(problem)
        if reached is None or reached[0] not in distances:
            return 0.0
        state, made, ended = reached
        left = 0 if ended else self.limit(problem) - made
        if distances[state] > left:
            return 0.0
        return max(0.0, 1 - distances[state] / distances[self.start(problem)])

    def optimality_gap(self, problem: Problem, completion: str) -> float:
        """Moves beyond the shortest solution, relative to it; NaN for a wrong completion."""
        if not self.verify(problem, completion):
            return float("nan")
        return len(completion.split(self.delimiter)) / self.distances(problem)[self.start(problem)] - 1


@functools.lru_cache(maxsize=4096)
def steps_from(puzzle: Puzzle, start: State) -> dict[State, int]:
    """The fewest moves from `start` to every arrangement that can be reached, in the order of the distance."""
    steps = {start: 0}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        for _, following in _neighbours(puzzle, state):
            if following not in steps:
                steps[following] = steps[state] + 1
                queue.append(following)
    return steps


@functools.lru_cache(maxsize=2**16)
def _neighbours(puzzle: Puzzle, state: State) -> list[tuple[str, State]]:
    return puzzle.neighbours(state)


@functools.lru_cache(maxsize=64)
def _arrangements(puzzle: Puzzle) -> list[State]:
    return list(steps_from(puzzle, puzzle.anchor()))
