"""Stacking: blocks to be moved into other stacks, with the arrangement written after every move, or moves alone."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from math import comb, factorial
from typing import Any

import numpy as np

from models.errors import require
from scaling.tasks.puzzle import Route
from scaling.tasks.puzzles import Blocks
from scaling.tasks.state_space import State
from scaling.tasks.task import Problem

THINK, DIRECT = "?", "!"  # the first character of a completion; moves alone may do without
_STEP = re.compile(r"([a-g][a-g0])(=[a-g,]*)?")


@dataclass(frozen=True)
class Stacking(Blocks):
    """`ab,c>cba:` is solved by `!b0|bc|ab.`, and with a thought by `?b0=a,b,c|bc=a,cb|ab=cba.`.

    Moves are those of Blocks, at most two per block. What a thought says of arrangements is not judged. Solutions to
    learn from are those of a rule: a block goes to its place as soon as it may; where none may, one that is not in its
    place goes to the table. `direct` per cent of them have no thought.
    """

    direct: int = 50

    name = "stacking"
    alphabet = Blocks.alphabet + f"={THINK}{DIRECT}"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.slack == 0, "stacking.slack", f"is {self.slack}", "leave it at 0: two moves per block are allowed")
        require(0 <= self.direct <= 100, "stacking.direct", f"is {self.direct}", "use 0 to 100")

    def draw(self, rng: np.random.Generator) -> Problem | None:
        """A uniform pair of different arrangements, of any number of blocks without listing them all."""
        start, goal = (self.arrangement(rng) for _ in range(2))
        return self.problem(start, goal) if start != goal else None

    def arrangement(self, rng: np.random.Generator) -> tuple[str, ...]:
        """Uniform: there are n! C(n - 1, k - 1) / k! arrangements in k stacks, the number of Lah."""
        n = self.blocks
        ways = np.array([comb(n - 1, k - 1) * factorial(n) // factorial(k) for k in range(1, n + 1)])
        stacks = 1 + int(rng.choice(n, p=ways / ways.sum()))
        row = "".join("abcdefg"[i] for i in rng.permutation(n))
        cuts = [0, *sorted(1 + rng.choice(n - 1, stacks - 1, replace=False)), n]
        return tuple(sorted(row[a:b] for a, b in itertools.pairwise(cuts)))

    def problem(self, start: State, goal: State) -> Problem:
        text = f"{self.show(start)}>{self.show(goal)}:"
        return Problem(text, text, Route(start, goal, 2 * self.blocks))

    def solution(self, problem: Problem, rng: np.random.Generator) -> str:
        state, moves = problem.instance.start, list[tuple[str, State]]()
        while state != problem.instance.goal:
            options = self._ruled(problem, state)
            move, state = options[int(rng.integers(len(options)))]
            moves.append((move, state))
        return self._written(moves, 100 * rng.random() >= self.direct) + self.end

    def random_completion(self, problem: Problem, rng: np.random.Generator) -> str:
        return DIRECT + super().random_completion(problem, rng)

    def answer(self, completion: str) -> str | None:
        moves = self._moves(completion)
        return None if moves is None else super().answer(moves)

    def replay(self, problem: Problem, text: str) -> tuple[State, int, bool] | None:
        moves = self._moves(text)
        return None if moves is None else super().replay(problem, moves)

    def accepted(self, problem: Problem, completion: str) -> str:
        """What a checker leaves of a completion: steps before the first illegal one, with what they truly led to.

        An end that comes elsewhere than at the goal, and a last step that was not closed, are taken away.
        """
        state, moves = problem.instance.start, list[tuple[str, State]]()
        thought = completion.startswith(THINK)
        for step in re.split(rf"[{re.escape(self.delimiter + self.end)}]", _bare(completion))[:-1]:
            read = _STEP.fullmatch(step)
            following = self.step(problem, state, read[1]) if read and (thought or not read[2]) else None
            if read is None or following is None or len(moves) == self.limit(problem):
                break
            state = following
            moves.append((read[1], state))
        text = self._written(moves, thought)
        ends = bool(moves) and state == problem.instance.goal
        return text + (self.end if ends else self.delimiter if moves else "")

    def _ruled(self, problem: Problem, state: Any) -> list[tuple[str, State]]:
        """The rule's moves with what they lead to."""
        goal, moves = problem.instance.goal, self.moves(problem, state)
        placed = _placed(state, goal)
        better = [move for move in moves if placed < _placed(move[1], goal)]
        loose = [move for move in moves if move[0][1] == "0" and move[0][0] not in placed]
        return better or loose

    def _written(self, moves: list[tuple[str, State]], thought: bool) -> str:
        steps = [f"{move}={self.show(state)}" if thought else move for move, state in moves]
        return (THINK if thought else DIRECT) + self.delimiter.join(steps)

    def _moves(self, text: str) -> str | None:
        """A text as Blocks has it; None for one whose steps have another form than its first character says."""
        closed = re.split(rf"([{re.escape(self.delimiter + self.end)}])", _bare(text))
        read = [_STEP.fullmatch(step) for step in closed[:-1:2]]
        if None in read or (not text.startswith(THINK) and any(step and step[2] for step in read)):
            return None
        return "".join(f"{step[1]}{mark}" for step, mark in zip(read, closed[1::2]) if step) + closed[-1]


def _bare(text: str) -> str:
    return text[1:] if text.startswith((THINK, DIRECT)) else text


def _placed(state: Any, goal: Any) -> set[str]:
    """The blocks that stand as in the goal, both tuples of stacks, with all that is below them."""
    return {stack[i] for stack in state for i in range(len(stack)) if any(g.startswith(stack[: i + 1]) for g in goal)}
