"""The tower of Hanoi from any arrangement to any other."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from models.errors import require
from scaling.tasks.puzzle import Puzzle
from scaling.tasks.state_space import State

_PEGS = "ABC"


@dataclass(frozen=True)
class Hanoi(Puzzle):
    """`AAB>CCC:` is solved by `1AC|2AB...`: disk, from, to. The peg of each disk is listed, the smallest first."""

    disks: int = 3
    slack: int = 0  # moves beyond the shortest solution

    name = "hanoi"
    alphabet = "123456789ABC>:|."

    def __post_init__(self) -> None:
        require(1 <= self.disks <= 8, "hanoi.disks", f"is {self.disks}", "use 1 to 8")
        require(self.slack >= 0, "hanoi.slack", f"is {self.slack}", "use 0 or more")

    def anchor(self) -> State:
        return "A" * self.disks

    def show(self, state: Any) -> str:
        return state

    def read_move(self, text: str) -> str | None:
        return text if re.fullmatch(r"[1-9][ABC][ABC]", text) else None

    def neighbours(self, state: Any) -> list[tuple[str, State]]:
        """The smallest disk of a peg goes to a peg without a smaller one."""
        moves: list[tuple[str, State]] = []
        for disk, peg in enumerate(state):
            smaller = state[:disk]
            if peg in smaller:
                continue
            for other in _PEGS:
                if other != peg and other not in smaller:
                    moves.append((f"{disk + 1}{peg}{other}", smaller + other + state[disk + 1 :]))
        return moves
