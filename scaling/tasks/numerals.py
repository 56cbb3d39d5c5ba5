"""Sums of whole numbers and of decimals as tokens of one digit or several, the first place first or last.

Formats after the Number Cookbook (Yang et al. 2024, arXiv:2411.03766).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.errors import require
from scaling.tasks.sequences import Labelled


@dataclass(frozen=True)
class Sum:
    """a, a plus sign, b, an equals sign; then a + b, whose tokens are the labels, each at the place before its own.

    A number is `digits` digits, with zeros in front, in groups of `group` from the right (a sum has one group
    more); group g is token g below 10^group, then `+`, `=` and `.` follow.
    decimals: of these digits, so many stand behind a point, which is a token of its own.
    reverse: the sum is written from its last group on, in the order in which it is computed.
    """

    digits: int = 4
    group: int = 1
    decimals: int = 0
    reverse: bool = False

    def __post_init__(self) -> None:
        require(1 <= self.group <= 3, "sum.group", f"is {self.group}", "use 1 to 3 digits")
        whole = 1 <= self.digits <= 15 and self.digits % self.group == 0
        require(whole, "sum.digits", f"is {self.digits}", f"use a multiple of {self.group} up to 15")
        whole = 0 <= self.decimals < self.digits and self.decimals % self.group == 0
        require(whole, "sum.decimals", f"is {self.decimals}", f"use a multiple of {self.group} below {self.digits}")

    @property
    def vocab_size(self) -> int:
        """The groups, `+`, `=` and `.`."""
        return 10**self.group + 3

    @property
    def groups(self) -> int:
        """Groups of an operand; the sum has one more."""
        return self.digits // self.group

    @property
    def asked_at(self) -> int:
        """The place of `=`."""
        return 2 * (self.groups + (self.decimals > 0)) + 1

    @property
    def size(self) -> int:
        """Places of a sequence."""
        return self.asked_at + self.groups + 1 + (self.decimals > 0)

    def draw(self, rng: np.random.Generator, rows: int) -> Labelled:
        """`[rows, size]` each, of uniform operands."""
        return self.sequences(*rng.integers(10**self.digits, size=(2, rows)))

    def sequences(self, first: np.ndarray, second: np.ndarray) -> Labelled:
        """Of operands `[rows]`, each in units of its last digit."""
        base, rows = 10**self.group, len(first)
        plus, equals = np.full((rows, 1), base), np.full((rows, 1), base + 1)
        total = self._written(first + second, self.groups + 1)[:, :: -1 if self.reverse else 1]
        operands = (self._written(number, self.groups) for number in (first, second))
        one, other = operands
        whole = np.concatenate([one, plus, other, equals, total], axis=1).astype(np.int32)
        scored = np.broadcast_to(np.arange(self.size) >= self.asked_at, (rows, self.size))
        return Labelled(whole[:, :-1], np.where(scored, whole[:, 1:], 0), scored)

    def _written(self, numbers: np.ndarray, groups: int) -> np.ndarray:
        """Tokens `[rows, groups (+ 1 for the point)]`, the first place first."""
        base = 10**self.group
        found = numbers[:, None] // base ** np.arange(groups)[::-1] % base
        behind = self.decimals // self.group
        return np.insert(found, groups - behind, base + 2, axis=1) if behind else found
