"""Blocks with and without a thought: the draw, the rule, the judge and what a checker leaves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from scaling.tasks.stacking import DIRECT, THINK, Stacking
from scaling.tasks.task import Problem


def moved(state: tuple[str, ...], move: str) -> tuple[str, ...] | None:
    """The plain way: take the block off the stack that it tops, and put it down."""
    block, onto = move
    above = [stack for stack in state if stack[-1] == block]
    below = [stack for stack in state if stack[-1] == onto]
    if not above or block == onto or (onto != "0" and not below) or (onto == "0" and above[0] == block):
        return None
    rest = [stack for stack in state if stack not in above + below] + [stack[:-1] for stack in above if len(stack) > 1]
    return tuple(sorted([*rest, (below[0] if below else "") + block]))


@pytest.mark.parametrize(("blocks", "arrangements"), [(2, 3), (3, 13), (4, 73)])
def test_every_arrangement_is_drawn_equally_often(blocks: int, arrangements: int) -> None:
    task, rng, draws = Stacking(blocks), np.random.default_rng(0), 60
    seen, counts = np.unique([",".join(task.arrangement(rng)) for _ in range(draws * arrangements)], return_counts=True)
    assert len(seen) == arrangements
    assert ((counts - draws) ** 2 / draws).sum() < arrangements + 4 * np.sqrt(2 * arrangements)  # chi-square, 4 sigma


@pytest.mark.parametrize("blocks", [3, 5, 7])
def test_solutions_of_the_rule_write_true_arrangements_and_take_two_moves_a_block_at_most(blocks: int) -> None:
    rng = np.random.default_rng(0)
    for direct, problem in itertools.product((0, 100), Stacking(blocks).generate(0, 20)):
        task = Stacking(blocks, direct=direct)
        text, state = task.solution(problem, rng), problem.instance.start
        steps = text[1:-1].split("|")
        assert text[0] == (DIRECT if direct else THINK) and text[-1] == "." and len(steps) <= 2 * blocks
        for step in steps:
            move, _, shown = step.partition("=")
            state = moved(state, move)
            assert shown == ("" if direct else ",".join(state))
        assert state == problem.instance.goal and task.verify(problem, text)


def test_a_completion_is_right_when_its_moves_are_whatever_a_thought_says_of_them() -> None:
    task = Stacking(3)
    problem = task.problem(("ab", "c"), ("cba",))
    said = {
        "!b0|bc|ab.": True, "?b0|bc|ab.": True, "?b0=abc|bc=|ab=cba.": True, "b0|bc|ab.": True, "!bc|ab.": True,
        "!bc=a,cb|ab=cba.": False, "bc=a,cb|ab.": False, "?bc=!|ab.": False, "!bc|ab|": False, "!bc|ab": False,
        "!bc.": False, "!ab.": False, "?!bc|ab.": False, "!bc|ab|a0|ab|a0|ab.": True, "!?bc|ab.": False,
        "!bc|ab|a0|ab|a0|ab|a0|ab.": False, "!bc|ab..": False, "": False,
    }  # fmt: skip
    assert {text: task.verify(problem, text) for text in said} == said
    assert task.answer("?bc=a,cb|ab=cba.") == task.answer("!bc|ab.") == "bc|ab"


def checked(problem: Problem, completion: str, limit: int) -> str:
    """What a checker leaves, one step after the other."""
    thought, state, text, made = completion[0] == THINK, problem.instance.start, completion[0], 0
    for step in completion[1:].replace(".", "|").split("|")[:-1]:
        move, equals, _ = step.partition("=")
        legal = len(move) == 2 and not (equals and not thought) and made < limit
        following = moved(state, move) if legal else None
        if following is None:
            break
        state, made = following, made + 1
        text += move + (f"={','.join(state)}" if thought else "") + "|"
    return text[:-1] + "." if made and state == problem.instance.goal else text


@pytest.mark.parametrize("mark", [THINK, DIRECT])
def test_a_checker_leaves_the_legal_steps_with_what_they_truly_led_to(mark: str) -> None:
    task, rng, left = Stacking(3), np.random.default_rng(1), []
    for problem in task.generate(0, 60):
        solved = Stacking(3, direct=100 * (mark == DIRECT)).solution(problem, rng)
        for text in (solved, solved[:-1] + "|a0.", solved[:-2], solved.replace("b", "c"), mark, solved[:4] + "."):
            left.append(task.accepted(problem, text))
            assert left[-1] == checked(problem, text, task.limit(problem)), text
        assert task.accepted(problem, solved) == solved
    assert any(text.endswith("|") for text in left) and any(text == mark for text in left)
