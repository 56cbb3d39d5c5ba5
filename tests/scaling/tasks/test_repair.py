"""Broken programs: worked by hand, told apart by two inputs and not by one, broken at the rate asked for."""

from __future__ import annotations

import itertools

import numpy as np

from scaling.tasks.repair import Issue, Repair, after

TASK = Repair(modulus=7, lines=2)
ISSUE = Issue(("+1", "*2"), (3, 6), ("+1", "*4"))


def test_a_program_worked_by_hand_is_shown_run_and_judged_line_by_line() -> None:
    problem = TASK.problem(*ISSUE)
    assert problem.prompt == "36,40,10;+1,*4>" and TASK.solution(problem, np.random.default_rng(0)) == "+1|*2."
    assert TASK.values(ISSUE.wanted, 3) == (3, 4, 1) and TASK.values(ISSUE.broken, 3) == (3, 4, 2)
    assert TASK.verdicts(ISSUE, ISSUE.broken) == "yn" and TASK.verdicts(ISSUE, ("*6", "*2")) == "ny"
    assert TASK.program("+1|*2.") == ("+1", "*2") and TASK.answer("+1|*2.") == "+1|*2"
    assert [TASK.program(text) for text in ("+1|*2", "+1.", "+1|*1.", "+1|*2|+1.", "+1|*2.+")] == [None] * 5


def test_two_inputs_tell_all_operations_apart_and_one_leaves_another_of_the_other_kind() -> None:
    for first, second in itertools.permutations(range(7), 2):
        both = {(after(first, line, 7), after(second, line, 7)) for line in TASK.spelled}
        assert len(both) == len(TASK.spelled) == 11
    for value in range(1, 7):
        kinds: dict[int, set[str]] = {}
        for line in TASK.spelled:
            kinds.setdefault(after(value, line, 7), set()).add(line[0])
        assert sorted(map(sorted, kinds.values())) == [["*", "+"]] * 5 + [["+"]]  # nothing multiplies it to 0


def test_lines_are_put_wrong_at_their_rate_half_of_them_so_that_one_input_does_not_show_it() -> None:
    task, rng = Repair(lines=8), np.random.default_rng(0)
    program = ("+1", "*2", "+3", "*4", "+5", "*6", "+6", "*3")
    assert task.injected(rng, program, 2, 0.0) == program
    everywhere = [task.injected(rng, program, 2, 1.0) for _ in range(200)]
    assert all(a != b for found in everywhere for a, b in zip(found, program, strict=True))
    some = np.array([[a != b for a, b in zip(task.injected(rng, program, 2, 0.3), program)] for _ in range(800)])
    assert np.abs(some.mean(0) - 0.3).max() < 4 * np.sqrt(0.21 / 800)
    before = task.values(program, 2)
    hidden = np.array([[after(x, a, 7) == after(x, b, 7) for x, a, b in zip(before, found, program)]
                       for found in everywhere])  # fmt: skip
    alike = [[o for o in task.spelled if o != b and after(x, o, 7) == after(x, b, 7)]
             for x, b in zip(before, program)]  # fmt: skip
    expected = [0.5 + 0.5 * len(options) / 10 if options else 0.0 for options in alike]
    assert np.abs(hidden.mean(0) - expected).max() < 4 * np.sqrt(0.25 / 200) and max(expected) > 0.5


def test_a_problem_has_at_least_one_wrong_line() -> None:
    assert all(p.instance.broken != p.instance.wanted for p in Repair(lines=3, wrong=10).generate(0, 100))
