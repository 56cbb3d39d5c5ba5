"""Searches of one thread and of several are those of a loop over Countdown's moves, and claim what can be checked."""

from __future__ import annotations

import re

import pytest

from models.errors import ConfigError
from scaling.tasks.countdown import Countdown
from scaling.tasks.task import Problem
from scaling.tasks.threads import Threads

TASK = Countdown(numbers=3, largest=6, smallest_target=10, largest_target=30)
THREADS = Threads(TASK)
PROBLEMS = [*TASK.generate(0, 60), TASK.problem((3, 5, 8), 24), TASK.problem((2, 2, 2), 8), TASK.problem((1, 1, 1), 30)]


def results(a: int, b: int) -> dict[str, int]:
    """Everything that two numbers give."""
    small, large = sorted((a, b))
    found = {"+": large + small, "*": large * small, "-": large - small}
    if small and large % small == 0:
        found["/"] = large // small
    return {f"{large}{sign}{small}": value for sign, value in found.items()}


def by_hand(problem: Problem) -> dict[str, tuple[int, dict[str, int]]]:
    """Every first move: its result, and every second one with what it gives."""
    numbers, found = problem.instance[0], {}
    for i, j in ((0, 1), (0, 2), (1, 2)):
        (rest,) = (numbers[k] for k in range(3) if k not in (i, j))
        for call, value in results(numbers[i], numbers[j]).items():
            found[call] = (value, results(value, rest))
    return found


def test_children_try_all_that_follows_up_to_the_target() -> None:
    for problem in PROBLEMS:
        moves, target = by_hand(problem), problem.instance[1]
        assert set(THREADS.firsts(problem)) == set(moves)
        for call, (value, after) in moves.items():
            text = THREADS.searched(problem, call)
            head, _, tail = text.partition(":")
            assert head == f"={value}"
            tried = [one.split("=") for one in re.split("[,!;]", tail)[:-1]]
            assert all(after[move] == int(end) for move, end in tried)
            hits = [int(end) == target for _, end in tried]
            assert text.endswith("!." if target in after.values() else ";.")
            assert hits == [False] * (len(hits) - 1) + [target in after.values()]
            assert target in after.values() or len(tried) == len(after)


def test_a_serial_search_tries_first_moves_in_order_and_ends_at_the_first_solution() -> None:
    for problem in PROBLEMS:
        moves, target = by_hand(problem), problem.instance[1]
        text = THREADS.serial(problem)
        sections = [one for one in re.split("[;!]", text) if one not in ("-.", ".")]
        assert [one.partition("=")[0] for one in sections] == list(THREADS.firsts(problem))[: len(sections)]
        solves = [target in moves[call][1].values() for call in THREADS.firsts(problem)]
        if any(solves):
            assert len(sections) == solves.index(True) + 1 and THREADS.verify(problem, text)
        else:
            assert len(sections) == len(moves) and text.endswith(";-.") and not THREADS.verify(problem, text)


def test_a_family_that_errs_nowhere_solves_every_problem_that_can_be() -> None:
    for problem in PROBLEMS:
        calls = THREADS.calls(THREADS.called(problem))
        assert calls == list(THREADS.firsts(problem))
        reply = THREADS.reply(calls, [THREADS.searched(problem, call) for call in calls])
        assert THREADS.verify(problem, THREADS.answered(reply)) == TASK.solvable(problem)
        assert reply == "{-}" or len(reply.split(",")) <= 3
        assert (reply == "{-}") == (THREADS.answered(reply) == "-.") == (not TASK.solvable(problem))


def test_texts_are_those_of_the_docstring() -> None:
    problem = TASK.problem((3, 5, 8), 24)
    assert THREADS.child(problem, "8-5") == "24:3,5,8>@8-5"
    assert THREADS.searched(problem, "5+3") == "=8:8+8=16,8*8=64,8-8=0,8/8=1;."
    assert THREADS.serial(problem).startswith("5+3=8:8+8=16,8*8=64,8-8=0,8/8=1;5*3=15:")
    assert THREADS.reply(["5+3", "5*3"], ["=8:8+8=16;.", "=15:15+8=23,15+9=24!."]) == "{5*3=15:15+9=24}"
    assert set(THREADS.serial(problem) + THREADS.called(problem) + "{-}@") <= set(THREADS.alphabet)


def test_claims_that_are_not_so_are_not_right() -> None:
    problem = TASK.problem((2, 4, 6), 20)
    assert THREADS.completion(problem, "4*6=24:24-2=22,24-4=20!.") == "4*6=24>24,2|24-4=20>20."
    for text in ("4*6=24:24-4=20!.", "4*6=24:24-4=20.", "4*5=22:22-2=20.", "6+2=8:8*4=20!.", "-.", "", "]", "6*4=24:",
                 "6*4=22:22-2=20!."):  # fmt: skip
        assert not THREADS.verify(problem, text)
    assert THREADS.verify(TASK.problem((2, 4, 6), 22), "6+2=8:8*4=32;6*4=24:24+2=26,24-2=22!.")
    assert THREADS.verify(TASK.problem((2, 4, 6), 22), "6*4=24:24-2=22.")
    assert THREADS.calls("[6+2,6+2,x,4*6]") == ["6+2", "4*6"] and THREADS.calls("6+2") == []
    assert THREADS.reply(["6+2"], ["=8:8*4=2x!."]) == "{-}"


def test_other_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="threads.task: has 4 numbers"):
        Threads(Countdown(numbers=4))
    with pytest.raises(ConfigError, match="threads.children"):
        Threads(TASK, children=0)
