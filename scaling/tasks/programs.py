"""Programs of a few operations modulo a prime, asked for by examples of what they give and judged on every input."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from models.errors import require
from scaling.tasks.state_space import State, StateSpace
from scaling.tasks.task import Problem, closed_steps

SQUARE = "s"


class Asked(NamedTuple):
    """What the program has to give for every input, and the inputs that the prompt shows."""

    outputs: tuple[int, ...]
    shown: tuple[int, ...]


class Running(NamedTuple):
    """What a program gives so far for every input, and how many operations it has."""

    outputs: tuple[int, ...]
    length: int


@dataclass(frozen=True)
class Programs(StateSpace):
    """`2:0,0:3>` is solved by `s|+3.`: operations on x, one after the other.

    Operations are `+n`, `*n` and `s`, the square, modulo a prime. A program is right when it gives what is asked for
    on every input, not only on those shown; votes take programs for the same that give the same on all of them. It has
    at most `operations` of them.
    """

    modulus: int = 7
    operations: int = 3
    examples: int = 7  # that a prompt shows

    name = "program"
    alphabet = f"0123456789+*{SQUARE}:,>|."
    shown = ("examples",)

    def __post_init__(self) -> None:
        primes = (3, 5, 7, 11, 13)
        require(self.modulus in primes, "program.modulus", f"is {self.modulus}", f"use one of {primes}")
        require(1 <= self.operations <= 4, "program.operations", f"is {self.operations}", "use 1 to 4")
        fix = f"use 1 to {self.modulus}"
        require(1 <= self.examples <= self.modulus, "program.examples", f"is {self.examples}", fix)

    def draw(self, rng: np.random.Generator) -> Problem | None:
        """A random program of random length, and random inputs; None for one that is no change at all."""
        state = self.begin
        for _ in range(int(rng.integers(1, self.operations + 1))):
            state = self.after(state, self.spelled[int(rng.integers(len(self.spelled)))])
        shown = tuple(int(i) for i in rng.permutation(self.modulus)[: self.examples])
        return None if state.outputs == self.begin.outputs else self.problem(state.outputs, shown)

    def problem(self, outputs: tuple[int, ...], shown: tuple[int, ...]) -> Problem:
        """The problem of these outputs `[modulus]`, of which the prompt shows some."""
        listed = ",".join(f"{x}:{outputs[x]}" for x in shown)
        return Problem(f"{listed}>", ",".join(map(str, outputs)), Asked(outputs, shown))

    @functools.cached_property
    def begin(self) -> Running:
        """The program without operations, which gives its input."""
        return Running(tuple(range(self.modulus)), 0)

    @functools.cached_property
    def spelled(self) -> tuple[str, ...]:
        """Every operation that changes something."""
        return (*(f"+{n}" for n in range(1, self.modulus)), *(f"*{n}" for n in range(2, self.modulus)), SQUARE)

    def after(self, state: Running, operation: str) -> Running:
        """The program with one more operation."""
        n = int(operation[1:] or 0)
        rule = {"+": lambda x: x + n, "*": lambda x: x * n, SQUARE: lambda x: x * x}[operation[0]]
        return Running(tuple(rule(x) % self.modulus for x in state.outputs), state.length + 1)

    def start(self, problem: Problem) -> Running:
        return self.begin

    def moves(self, problem: Problem, state: Any) -> list[tuple[str, State]]:
        if state.length == self.operations:
            return []
        return _longer(self, state)

    def goal(self, problem: Problem, state: Any) -> bool:
        return state.outputs == problem.instance.outputs

    def limit(self, problem: Problem) -> int:
        return self.operations

    def answer(self, completion: str) -> str | None:
        """What the program gives on every input."""
        parts = closed_steps(self, completion)
        if parts is None or not parts[1] or len(parts[0]) > self.operations or not set(parts[0]) <= set(self.spelled):
            return None
        return ",".join(map(str, functools.reduce(self.after, parts[0], self.begin).outputs))

    def passes(self, problem: Problem, completion: str) -> bool:
        """Whether a program gives what the prompt shows: the tests that one may look at."""
        outputs, asked = self.answer(completion), problem.instance
        return outputs is not None and all(int(outputs.split(",")[x]) == asked.outputs[x] for x in asked.shown)

    def functions(self) -> tuple[np.ndarray, np.ndarray]:
        """(outputs `[functions, modulus]` int64, share of random programs `[functions]`): all that can be written.

        A random program has 1 to `operations` operations, each length and each operation as likely as any other.
        """
        x = np.arange(self.modulus)
        rules = np.stack([*((x + n) % self.modulus for n in x[1:]), *(x * n % self.modulus for n in x[2:]),
                          x * x % self.modulus])  # fmt: skip
        outputs, share = x[None], np.ones(1)
        found, shares = [], []
        for _ in range(self.operations):
            longer = rules[:, outputs].reshape(-1, self.modulus)
            outputs, share = _merged(longer, np.tile(share, len(rules)) / len(rules))
            found.append(outputs)
            shares.append(share / self.operations)
        return _merged(np.concatenate(found), np.concatenate(shares))


@functools.lru_cache(maxsize=2**14)
def _longer(task: Programs, state: Running) -> list[tuple[str, State]]:
    return [(operation, task.after(state, operation)) for operation in task.spelled]


def _merged(outputs: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equal rows of `outputs` put together."""
    unique, code = np.unique(outputs, axis=0, return_inverse=True)
    return unique, np.bincount(code.ravel(), share)
