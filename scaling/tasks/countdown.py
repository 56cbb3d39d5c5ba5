"""Countdown: combine all numbers with + - * / to reach a target, two at a time."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.errors import require
from scaling.tasks.state_space import State, StateSpace
from scaling.tasks.task import Problem, closed_steps

_NUMBER = r"(?:0|[1-9][0-9]{0,17})"
_STEP = re.compile(f"({_NUMBER})([-+*/])({_NUMBER})=({_NUMBER})>({_NUMBER}(?:,{_NUMBER})*)")


_WAYS = {2: 4, 3: 48, 4: 1152, 5: 46080}  # to combine so many numbers
_BLOCK = 2**18  # ways that are tried at once


@dataclass(frozen=True)
class Countdown(StateSpace):
    """`24:3,5,8>` is solved by `8-5=3>3,3|...`: an operation, its result, and the numbers that are left, in any order.

    Two numbers become their sum, product, difference (not negative) or quotient (exact); all are used. Problems are
    uniform numbers and a uniform target, of those that have a solution (Stream of Search, Gandhi et al. 2024).
    """

    numbers: int = 3
    largest: int = 20  # numbers are 1 to this
    smallest_target: int = 10
    largest_target: int = 30

    name = "countdown"
    alphabet = "0123456789+-*/=:,>|."
    shown = ("numbers", "largest", "smallest_target", "largest_target")

    def __post_init__(self) -> None:
        require(2 <= self.numbers <= 5, "countdown.numbers", f"is {self.numbers}", "use 2 to 5")
        require(1 <= self.largest <= 999, "countdown.largest", f"is {self.largest}", "use 1 to 999")
        require(
            0 <= self.smallest_target <= self.largest_target <= 9999,
            "countdown.largest_target",
            f"the targets are {self.smallest_target} to {self.largest_target}",
            "use an increasing range from 0 to 9999",
        )

    def draw(self, rng: np.random.Generator) -> Problem | None:
        """Uniform numbers and target; None without a solution."""
        return next(self.draws(rng))

    def draws(self, rng: np.random.Generator) -> Iterator[Problem | None]:
        """See Task.draws: a block of numbers is tried at once."""
        block = max(1, _BLOCK // _WAYS[self.numbers])
        while True:
            numbers = np.sort(rng.integers(1, self.largest + 1, (block, self.numbers)), axis=1)
            target = rng.integers(self.smallest_target, self.largest_target + 1, block)
            for row, has_solution in enumerate(solvable(numbers, target)):
                yield self.problem(tuple(numbers[row].tolist()), int(target[row])) if has_solution else None

    def problem(self, numbers: tuple[int, ...], target: int) -> Problem:
        """The problem of these numbers and this target, solvable or not."""
        listed = ",".join(map(str, sorted(numbers)))
        return Problem(f"{target}:{listed}>", f"{target}:{listed}", (tuple(sorted(numbers)), target))

    def solution(self, problem: Problem, rng: np.random.Generator) -> str:
        """A solution, each step uniform among those that lead to one."""
        numbers, target = problem.instance
        steps = _random_solution(numbers, target, rng)
        require(steps is not None, "problem", f"{problem.prompt!r} has no solution", "take one from generate")
        return self.delimiter.join(steps or ()) + self.end

    def start(self, problem: Problem) -> State:
        return problem.instance[0]

    def moves(self, problem: Problem, state: Any) -> list[tuple[str, State]]:
        """Every pair of places with every operation: a sum, a product, a difference and, where exact, a quotient."""
        return list(_moves(state))

    def goal(self, problem: Problem, state: Any) -> bool:
        return len(state) == 1 and state[0] == problem.instance[1]

    def step(self, problem: Problem, state: Any, text: str) -> State | None:
        parsed = _parse(text)
        if parsed is None:
            return None
        first, operation, second, result, left = parsed
        pool = list(state)
        for number in (first, second):
            if number not in pool:
                return None
            pool.remove(number)
        if _apply(first, operation, second) != result:
            return None
        following = tuple(sorted([*pool, result]))
        return following if following == left else None

    def verify_carelessly(self, problem: Problem, completion: str) -> bool:
        """As a checker that forgets to remove used numbers would, such as one in the code of APR (Pan et al. 2025)."""
        parts = closed_steps(self, completion)
        numbers, target = problem.instance
        known, result = set(numbers), None
        for parsed in map(_parse, parts[0]) if parts is not None and parts[1] else ():
            if parsed is None:
                return False
            first, operation, second, result, _ = parsed
            if not known.issuperset((first, second)) or _apply(first, operation, second) != result:
                return False
            known.add(result)
        return result == target

    def answer(self, completion: str) -> str | None:
        """The expression, with the operands of sums and products in order; None if a step uses what is not there."""
        parts = closed_steps(self, completion)
        parsed = [_parse(step) for step in parts[0]] if parts and parts[1] else []
        made: list[tuple[int, str]] = []  # results so far, with their expressions
        for step in parsed:
            if step is None:
                return None
            first, operation, second, result, left = step
            operands = [_take(made, number) for number in (first, second)]
            if operation in "+*":
                operands.sort()
            made.append((result, f"({operands[0]}{operation}{operands[1]})"))
            unused = [number for number, _ in made if number not in left]
            if unused:
                return None
        return made[0][1] if len(made) == 1 else None


def _take(made: list[tuple[int, str]], number: int) -> str:
    """The expression of a number: of the newest result with its value, or itself."""
    for place in reversed(range(len(made))):
        if made[place][0] == number:
            return made.pop(place)[1]
    return str(number)


def _parse(text: str) -> tuple[int, str, int, int, tuple[int, ...]] | None:
    match = _STEP.fullmatch(text)
    if match is None:
        return None
    first, operation, second, result, left = match.groups()
    return int(first), operation, int(second), int(result), tuple(sorted(map(int, left.split(","))))


def _apply(first: int, operation: str, second: int) -> int | None:
    """The result of an operation; None for one that is not allowed."""
    if operation == "+":
        return first + second
    if operation == "*":
        return first * second
    if operation == "-":
        return first - second if first >= second else None
    return first // second if second and first % second == 0 else None


@functools.lru_cache(maxsize=2**16)
def _moves(numbers: tuple[int, ...]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    moves = []
    for i in range(len(numbers)):
        for j in range(i + 1, len(numbers)):
            small, large = numbers[i], numbers[j]  # sorted
            rest = numbers[:i] + numbers[i + 1 : j] + numbers[j + 1 :]
            for operation in "+*-/":
                result = _apply(large, operation, small)
                if result is not None:
                    left = tuple(sorted((*rest, result)))
                    moves.append((f"{large}{operation}{small}={result}>{','.join(map(str, left))}", left))
    return tuple(moves)


def _random_solution(numbers: tuple[int, ...], target: int, rng: np.random.Generator) -> list[str] | None:
    """The first solution in a random order of the moves."""
    moves = _moves(numbers)
    if len(numbers) == 2:
        moves = tuple(move for move in moves if move[1] == (target,))
    for place in rng.permutation(len(moves)).tolist():
        step, left = moves[place]
        if len(left) == 1:
            return [step]
        if (rest := _random_solution(left, target, rng)) is not None:
            return [step, *rest]
    return None


def solvable(numbers: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Which targets [problems] can be made of all of the numbers [problems, n]; bool [problems]. Tries everything."""
    pool = np.asarray(numbers, np.int64)[:, None, :]  # [problems, ways, numbers left]
    legal = np.ones(pool.shape[:2], bool)
    while (left := pool.shape[-1]) > 1:
        pools, legals = [], []
        for i in range(left):
            for j in range(i + 1, left):
                small, large = np.minimum(pool[..., i], pool[..., j]), np.maximum(pool[..., i], pool[..., j])
                rest = np.delete(pool, (i, j), axis=-1)
                quotient, remainder = np.divmod(large, np.maximum(small, 1))
                for result in (large + small, large * small, large - small, quotient):
                    pools.append(np.concatenate([rest, result[..., None]], axis=-1))
                    legals.append(legal & (small > 0) & (remainder == 0) if result is quotient else legal)
        pool, legal = np.concatenate(pools, axis=1), np.concatenate(legals, axis=1)
    return (legal & (pool[..., 0] == np.asarray(target)[:, None])).any(axis=1)
