"""Trajectories read what their own program gave, and the choice among their ends is that of a plain count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from models.errors import ConfigError
from search.strategies.debugging import Trajectory, UnitTest, selected, trajectories

WANTED = (0, 3, 5, 9)  # what each problem's number has to become


def test_every_trajectory_goes_on_from_its_own_program_until_it_passes() -> None:
    """An editor that adds 1, 2, 1, 2, ... in the order in which it is asked, and writes nothing readable at 4."""
    asked: list[tuple[tuple[int, int], ...]] = []

    def edit(numbers: Sequence[int], programs: Sequence[int]) -> list[int | None]:
        asked.append(tuple(zip(numbers, programs, strict=True)))
        return [None if p == 4 else p + 1 + k % 2 for k, p in enumerate(programs)]

    def passes(number: int, program: int) -> bool:
        return program >= WANTED[number]

    found = trajectories(edit, passes, [0, 0, 0, 0], 2, 3)
    assert asked == [
        ((0, 0), (0, 0), (1, 0), (1, 0), (2, 0), (2, 0), (3, 0), (3, 0)),
        ((1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)),
        ((1, 2), (2, 2), (2, 4), (3, 2), (3, 4)),
    ]
    assert found == [
        [Trajectory([1], 1, True), Trajectory([2], 2, True)],
        [Trajectory([1, 2, 3], 3, True), Trajectory([2, 4], 4, True)],
        [Trajectory([1, 2, 4], 4, False), Trajectory([2, 4, None], 4, False)],
        [Trajectory([1, 2, 4], 4, False), Trajectory([2, 4, None], 4, False)],
    ]
    with pytest.raises(ConfigError, match="give 1 or more"):
        trajectories(edit, passes, [0], 0, 3)


def chosen(programs: list[tuple[int, ...]], tests: list[UnitTest], more: dict[int, list[UnitTest]], keep: int) -> int:
    """Row by row: programs are tables of what they give."""
    rows = []
    for i, program in enumerate(programs):
        if program not in programs[:i]:
            rows.append((-sum(program[t.given] == t.expected for t in tests), i))
    rows = sorted(rows)[:keep]
    if len(rows) > 1:
        kinds = [len({programs[i][x] for _, i in rows}) for x in range(3)]
        asked = more[kinds.index(max(kinds))]
        rows = sorted((-sum(programs[i][t.given] == t.expected for t in asked), before, i) for before, i in rows)
    return rows[0][-1]


def test_the_choice_is_that_of_a_plain_count() -> None:
    rng = np.random.default_rng(0)
    passes_decided = 0
    for _ in range(300):
        programs = [tuple(rng.integers(0, 3, 3).tolist()) for _ in range(rng.integers(1, 9))]
        tests = [UnitTest(*rng.integers(0, 3, 2).tolist()) for _ in range(rng.integers(0, 6))]
        more = {x: [UnitTest(x, int(rng.integers(3))) for _ in range(3)] for x in range(3)}
        found = selected(programs, lambda p, x: p[x], tests, range(3), more.__getitem__, keep=3)
        assert found == chosen(programs, tests, more, 3)
        passes_decided += found != selected(programs, lambda p, x: p[x], tests, range(3), lambda x: [], keep=3)
    assert passes_decided > 30
    with pytest.raises(ConfigError, match="give one or more"):
        selected([], lambda p, x: p, [], [0], lambda x: [])
