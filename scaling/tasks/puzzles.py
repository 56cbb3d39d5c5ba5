"""Checker jumping, river crossing and blocks world (after The Illusion of Thinking, Shojaee et al. 2025)."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.errors import require
from scaling.tasks.puzzle import Puzzle, steps_from
from scaling.tasks.state_space import State
from scaling.tasks.task import Problem


@dataclass(frozen=True)
class Checkers(Puzzle):
    """`RR_BB>BB_RR:` is solved by `12|...`: from, to. R moves right and B left, by one or over one of the others.

    The goal is all B left of the gap and all R right of it. Moves cannot be undone, and most lead to dead ends. Starts
    are arrangements on the way, with 1 to `checkers` of each colour.
    """

    checkers: int = 3
    slack: int = 0  # every solution has the same length

    name = "checkers"
    alphabet = "RB_0123456789>:|."

    def __post_init__(self) -> None:
        require(1 <= self.checkers <= 4, "checkers.checkers", f"is {self.checkers}", "use 1 to 4")
        require(self.slack == 0, "checkers.slack", f"is {self.slack}", "leave it at 0: all solutions are equally long")

    def anchor(self) -> State:
        return "R" * self.checkers + "_" + "B" * self.checkers

    def draw(self, rng: np.random.Generator) -> Problem | None:
        """A uniform arrangement that can be reached from a full start; None if the goal cannot be reached any more."""
        right, left = (int(i) for i in rng.integers(1, self.checkers + 1, 2))
        states = list(steps_from(self, "R" * right + "_" + "B" * left))
        start, goal = states[int(rng.integers(len(states)))], "B" * left + "_" + "R" * right
        return self.problem(start, goal) if start != goal and goal in steps_from(self, start) else None

    def show(self, state: Any) -> str:
        return state

    def read_move(self, text: str) -> str | None:
        return text if re.fullmatch(r"[0-9][0-9]", text) else None

    def neighbours(self, state: Any) -> list[tuple[str, State]]:
        moves: list[tuple[str, State]] = []
        gap = state.index("_")
        for place, colour, jumped in ((gap - 2, "R", "B"), (gap - 1, "R", ""), (gap + 1, "B", ""), (gap + 2, "B", "R")):
            between = state[min(place, gap) + 1 : max(place, gap)]
            if 0 <= place < len(state) and state[place] == colour and between == jumped:
                row = list(state)
                row[place], row[gap] = "_", colour
                moves.append((f"{place}{gap}", "".join(row)))
        return moves


@dataclass(frozen=True)
class River(Puzzle):
    """`AaBbL>R:` is solved by `ab|...`: who crosses. An arrangement lists who is on the left, and the side of the boat.

    Small letters must not be with another's capital, on a bank or in the boat, unless their own is there too.
    """

    pairs: int = 3
    boat: int = 2
    slack: int = 0  # moves beyond the shortest solution

    name = "river"
    alphabet = "ABCDEabcdeLR>:|."

    def __post_init__(self) -> None:
        require(1 <= self.pairs <= 5, "river.pairs", f"is {self.pairs}", "use 1 to 5")
        require(1 <= self.boat <= 2 * self.pairs, "river.boat", f"is {self.boat}", f"use 1 to {2 * self.pairs}")
        require(self.slack >= 0, "river.slack", f"is {self.slack}", "use 0 or more")

    def anchor(self) -> State:
        return self._everybody(), "L"

    def show(self, state: Any) -> str:
        return "".join(sorted(state[0])) + state[1]

    def read_move(self, text: str) -> str | None:
        people = set(text)
        whole = 1 <= len(people) == len(text) <= self.boat and people <= self._everybody()
        return "".join(sorted(text)) if whole else None

    def neighbours(self, state: Any) -> list[tuple[str, State]]:
        left, side = state
        here = left if side == "L" else self._everybody() - left
        moves: list[tuple[str, State]] = []
        for size in range(1, self.boat + 1):
            for group in itertools.combinations(sorted(here), size):
                crossing = frozenset(group)
                following = left - crossing if side == "L" else left | crossing
                if all(map(_in_peace, (crossing, following, self._everybody() - following))):
                    moves.append(("".join(group), (following, "R" if side == "L" else "L")))
        return moves

    def step(self, problem: Problem, state: Any, text: str) -> State | None:
        """In any order."""
        return super().step(problem, state, "".join(sorted(text)))

    def _everybody(self) -> frozenset[str]:
        return frozenset("ABCDE"[: self.pairs] + "abcde"[: self.pairs])


@dataclass(frozen=True)
class Blocks(Puzzle):
    """`ab,c>cba:` is solved by `b0|...`: a block, and the block (0: the table) to put it on. Stacks from the bottom."""

    blocks: int = 4
    slack: int = 0  # moves beyond the shortest solution

    name = "blocks"
    alphabet = "abcdefg0,>:|."

    def __post_init__(self) -> None:
        require(2 <= self.blocks <= 7, "blocks.blocks", f"is {self.blocks}", "use 2 to 7")
        require(self.slack >= 0, "blocks.slack", f"is {self.slack}", "use 0 or more")

    def anchor(self) -> State:
        return ("abcdefg"[: self.blocks],)

    def show(self, state: Any) -> str:
        return ",".join(state)

    def read_move(self, text: str) -> str | None:
        return text if re.fullmatch(r"[a-g][a-g0]", text) else None

    def neighbours(self, state: Any) -> list[tuple[str, State]]:
        """The top of a stack goes on another stack or on the table."""
        moves: list[tuple[str, State]] = []
        for stack in state:
            rest, block = [other for other in state if other != stack], stack[-1]
            below = [stack[:-1]] if len(stack) > 1 else []
            for other in rest:
                kept = [third for third in rest if third != other]
                moves.append((block + other[-1], tuple(sorted([*kept, *below, other + block]))))
            if below:
                moves.append((f"{block}0", tuple(sorted([*rest, *below, block]))))
        return moves


def _in_peace(group: frozenset[str]) -> bool:
    """Nobody is with another's protector without their own."""
    capitals = {person for person in group if person.isupper()}
    return not capitals or all(person.upper() in capitals for person in group if person.islower())
