"""A mixed task is its parts by weight: their problems, their verdicts, their side of the split, each with its level."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from models.errors import ConfigError
from scaling.tasks import CharTokenizer, task_by_name
from scaling.tasks.mixed import Mixed
from scaling.tasks.task import side
from scaling.tasks.text import TaskText
from tests.scaling.tasks.replay import is_right

CHAINS = "modular:operations=1/4/32,modulus=5,weights=2/1/1"
TAGS = "tag:steps=2/16"


@pytest.mark.parametrize("name", [CHAINS, TAGS, "countdown:numbers=2/3,largest=12"])
def test_problems_of_every_level_are_judged_as_their_own_part_judges_them(name: str) -> None:
    task, rng = task_by_name(name), np.random.default_rng(0)
    assert isinstance(task, Mixed)
    problems = task.generate(0, 40, "test")
    assert problems == task.generate(0, 40, "test") and problems[:7] == task.generate(0, 7, "test")
    assert {side(task.name, problem.canonical) for problem in problems} == {"test"}
    assert {task.level(problem) for problem in problems} == set(map(float, task.levels))
    tokenizer = CharTokenizer.of(task)
    for problem in problems:
        part, own = task.parts[problem.instance.part], problem.instance.problem
        assert problem.prompt.endswith(own.prompt) and problem.canonical == own.canonical
        right = task.solution(problem, rng)
        tokenizer.encode(problem.prompt + right)
        for text in (right, right[1:], right[:-2] + ".", "?"):
            judged = (part.verify(own, text), part.value(own, text), part.process_reward(own, text))
            assert (task.verify(problem, text), task.value(problem, text), task.process_reward(problem, text)) == judged
            assert task.verify(problem, text) == is_right(part.name, own.prompt, text) or name == TAGS
            assert task.verify(problem, right) and task.answer(right) == part.answer(right)


def test_long_chains_and_tags_are_drawn_by_their_weights_and_tell_how_long_they_are() -> None:
    chains, tags = task_by_name(CHAINS), task_by_name(TAGS)
    count = Counter(chains.level(problem) for problem in chains.generate(1, 2000))
    for level, share in ((1, 0.5), (4, 0.25), (32, 0.25)):
        assert abs(count[level] / 2000 - share) < 4 * (share * (1 - share) / 2000) ** 0.5
    for problem in chains.generate(2, 30):
        assert sum(map(problem.prompt.count, "+-*")) == chains.level(problem)
    halves = Counter(tags.level(problem) for problem in tags.generate(1, 600))
    assert abs(halves[16] / 600 - 0.5) < 4 * 0.5 / 600**0.5  # though far fewer systems run so long without a repeat
    lengths = set()
    for problem in tags.generate(2, 60):
        assert problem.prompt.startswith(f"{tags.level(problem):.0f}#")
        states = tags.solution(problem, np.random.default_rng(0)).rstrip(".").split("|")
        lengths.add(len(states))
        assert len(states) == tags.level(problem) or states[-1].endswith("!")
        assert all(before[2:] == after.rstrip("!")[: len(before) - 2] for before, after in pairwise(states))
    assert max(lengths) == 16
    plain = TaskText.of("tag:steps=16")
    assert TaskText.of(f"{TAGS},examples=50").digest != plain.digest


def test_a_slip_in_a_mixture_is_one_line() -> None:
    for name, problem in (
        ("modular:operations=4/4", "modular.operations: names a level twice"),
        ("modular:operations=4/8,weights=1/2/3", "modular.weights: are 3 for 2 levels of operations"),
        ("modular:operations=4/8,weights=1/0", "modular.weights: hold a 0"),
        ("modular:weights=1/2", "modular.weights: weigh nothing: give a knob several values"),
        ("modular:operations=4/8,modulus=5/7", "modular: has several values for operations and modulus: mix one"),
        ("modular:operation=4/8", "modular.operation: is no knob of this task: did you mean 'operations'"),
        ("modular:operations=4/x", "modular.operations: is '4/x': give a whole number"),
        ("modular:operations=0/4", "modular.operations: is 0"),
    ):
        with pytest.raises(ConfigError, match=problem):
            task_by_name(name)
    assert np.isnan(task_by_name("modular").level(task_by_name("modular").generate(0, 1)[0]))
