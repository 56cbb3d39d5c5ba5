"""Edit, run, edit again, in many trajectories side by side, and a choice among their ends by tests.

After CodeMonkeys (Ehrlich et al. 2025, arXiv:2501.14723): what running a program gave is read before the next edit; the
programs that many trajectories end with are run on tests, which a policy may have written itself and which may be
wrong; and the few that pass most are told apart by tests that are written for that.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from models.errors import require

P = TypeVar("P", bound=Hashable)  # a program


class UnitTest(NamedTuple):
    """An input, and what a program has to give for it."""

    given: Any
    expected: Any


class Trajectory(NamedTuple):
    """The edits of one trajectory, in order, None for one that could not be read; the program it ends with, which is
    the last that could be read; and whether a run found nothing wrong with it."""

    edits: list[Any]
    program: Any
    passed: bool


# numbers of problems [n], each with the program there is [n] -> edits [n], programs or None
Edit = Callable[[Sequence[int], Sequence[Any]], Sequence[Any]]


def trajectories(
    edit: Edit, passes: Callable[[int, Any], bool], begun: Sequence[Any], side_by_side: int, most: int
) -> list[list[Trajectory]]:
    """So many trajectories of each problem, each of at most `most` edits; all that go on are edited at once.

    begun: the program of each problem that its trajectories begin with. A trajectory ends when what it wrote passes the
    run that its writer sees (`edit` runs the program it is given, and so knows what that gave). An edit that cannot be
    read changes nothing.
    """
    require(side_by_side >= 1 and most >= 1, "trajectories", f"are {side_by_side} of {most} edits", "give 1 or more")
    found = [[Trajectory([], program, False)] * side_by_side for program in begun]
    for _ in range(most):
        going = [(i, j) for i, row in enumerate(found) for j, one in enumerate(row) if not one.passed]
        if not going:
            break
        edits = edit([i for i, _ in going], [found[i][j].program for i, j in going])
        for (i, j), new in zip(going, edits, strict=True):
            before = found[i][j]
            program = before.program if new is None else new
            found[i][j] = Trajectory([*before.edits, new], program, passes(i, program))
    return found


def selected(
    programs: Sequence[P],
    gives: Callable[[P, Any], Any],
    tests: Sequence[UnitTest],
    inputs: Sequence[Any],
    ask: Callable[[Any], Sequence[UnitTest]],
    keep: int = 3,
) -> int:
    """The place of the program that is chosen, of one or more.

    Programs that give the same on all `inputs` are one, the first of them. The `keep` that pass most of `tests` go on.
    They are run on the tests that `ask` writes for the input on which they give the most different things (of equals
    the first), and the one that passes most of those is chosen; of equals the one that passed more before, then the
    first.
    """
    require(bool(programs), "programs", "are none", "give one or more")
    outputs = [tuple(gives(program, x) for x in inputs) for program in programs]
    first = sorted({out: i for i, out in reversed(list(enumerate(outputs)))}.values())
    passed = {i: sum(gives(programs[i], test.given) == test.expected for test in tests) for i in first}
    best = sorted(first, key=lambda i: (-passed[i], i))[:keep]
    if len(best) == 1:
        return best[0]
    unlike = [len({outputs[i][place] for i in best}) for place in range(len(inputs))]
    asked = ask(inputs[int(np.argmax(unlike))])
    again = {i: sum(gives(programs[i], test.given) == test.expected for test in asked) for i in best}
    return min(best, key=lambda i: (-again[i], -passed[i], i))
