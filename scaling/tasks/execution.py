"""Execution: programs in a small language of registers and digits, what they print, and how a wrong answer went wrong.

After SURGE (Lyu et al. 2025, arXiv:2502.11167): a language model stands in for the machine that runs a program.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.errors import ConfigError, nearest, require
from scaling.tasks.sequences import Labelled

DIGITS, REGISTERS = 10, 4
SET, MOVE, ADD, SUBTRACT, UNLESS, LOOP, PRINT = range(DIGITS + REGISTERS, DIGITS + REGISTERS + 7)  # tokens
PLAIN = {"assignment": (SET, MOVE), "arithmetic": (ADD, SUBTRACT), "branch": (SET, MOVE), "loop": (ADD, SUBTRACT)}
CONTROL = {"assignment": (), "arithmetic": (), "branch": (UNLESS,), "loop": (LOOP,)}
CATEGORIES = tuple(PLAIN)
ERRORS = ("control", "stale", "register", "other")
_MOST_TURNS = 4


@dataclass(frozen=True)
class Execution:
    """Statements of three tokens each, `print`, every register; the label of a register's place is the digit it holds.

    Digit d is token d, register r token 10 + r; all sums are modulo 10. `set r d`, `move r s`, `add r s` and
    `subtract r s` write to r. `unless r s` skips the next statement where r < s; `loop k 0` runs it k times, 2 to 4. A
    program begins by setting every register, in their order; its category says of which kinds its further statements
    are.
    """

    category: str = "assignment"
    statements: int = 3  # after those that set every register

    def __post_init__(self) -> None:
        if self.category not in CATEGORIES:
            match = nearest(self.category, CATEGORIES)
            fix = f"did you mean {match!r}?" if match else f"use one of {', '.join(CATEGORIES)}"
            raise ConfigError("execution.category", f"is {self.category!r}", fix)
        require(1 <= self.statements <= 64, "execution.statements", f"is {self.statements}", "use 1 to 64")

    @property
    def vocab_size(self) -> int:
        """Digits, registers and the seven words."""
        return PRINT + 1

    @property
    def size(self) -> int:
        """Places of a sequence."""
        return 3 * (REGISTERS + self.statements) + 1 + REGISTERS

    def draw(self, rng: np.random.Generator, rows: int) -> Labelled:
        """`[rows, size]` each."""
        n, plain, control = REGISTERS + self.statements, PLAIN[self.category], CONTROL[self.category]
        word = rng.choice(plain + control, size=(rows, n))
        again = rng.choice(plain, size=(rows, n))
        word[:, -1] = again[:, -1]
        word[:, :REGISTERS] = SET
        for i in range(REGISTERS, n):  # what is controlled controls nothing itself
            word[:, i] = np.where(np.isin(word[:, i - 1], control), again[:, i], word[:, i])
        first, second = (DIGITS + rng.integers(REGISTERS, size=(rows, n)) for _ in range(2))
        first[:, :REGISTERS] = every = DIGITS + np.arange(REGISTERS)
        first = np.where(word == LOOP, rng.integers(2, _MOST_TURNS + 1, (rows, n)), first)
        second = np.where(word == SET, rng.integers(DIGITS, size=(rows, n)), np.where(word == LOOP, 0, second))
        body = np.stack([word, first, second], axis=2).reshape(rows, -1)
        tokens = np.concatenate([body, np.full((rows, 1), PRINT), np.tile(every, (rows, 1))], axis=1).astype(np.int32)
        labels = np.zeros_like(tokens)
        labels[:, -REGISTERS:] = printed(tokens)
        scored = np.broadcast_to(np.arange(self.size) >= self.size - REGISTERS, tokens.shape)
        return Labelled(tokens, labels, scored)


def history(tokens: np.ndarray, obey: bool = True) -> np.ndarray:
    """What every register holds at first and after each statement of programs `[rows, size]`, as `[1 + statements,
    rows, registers]` int64. obey: otherwise every statement runs once, as if nothing were skipped or repeated."""
    rows = len(tokens)
    registers, times, every = np.zeros((rows, REGISTERS), np.int64), np.ones(rows, np.int64), np.arange(rows)
    states = [registers.copy()]
    for word, first, second in tokens[:, : -1 - REGISTERS].reshape(rows, -1, 3).transpose(1, 2, 0):
        target, source = first % DIGITS % REGISTERS, second % DIGITS % REGISTERS  # of words that name registers
        for turn in range(_MOST_TURNS):
            old, other = registers[every, target], registers[every, source]
            new = np.select(
                [word == SET, word == MOVE, word == ADD, word == SUBTRACT],
                [second, other, (old + other) % DIGITS, (old - other) % DIGITS], old,
            )  # fmt: skip
            registers[every, target] = np.where(turn < times, new, old)
        skips = registers[every, target] < registers[every, source]
        times = np.select([word == UNLESS, word == LOOP], [1 - skips, first], 1) if obey else times
        states.append(registers.copy())
    return np.stack(states)


def printed(tokens: np.ndarray, obey: bool = True) -> np.ndarray:
    """The digits that programs `[rows, size]` print, `[rows, registers]` int64."""
    return history(tokens, obey)[-1]


def errors(tokens: np.ndarray, answers: np.ndarray) -> list[str | None]:
    """How answers `[rows, registers]` to programs `[rows, size]` are wrong, one after the other, by the first name that
    fits; None where they are right.

    control: it is what would be printed if nothing were skipped or repeated. stale: the register held it before.
    register: another one holds it at the end. other: none of these.
    """
    states = history(tokens)[REGISTERS:]  # from where all are set
    fits = {
        None: states[-1] == answers, "control": printed(tokens, obey=False) == answers,
        "stale": (states == answers).any(0), "register": (states[-1][:, None] == answers[:, :, None]).any(2),
    }  # fmt: skip
    return [next((name for name, found in fits.items() if found[at]), "other") for at in np.ndindex(answers.shape)]
