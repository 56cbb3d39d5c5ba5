"""Scenes render as a loop over their programs says, and judgements say what their critic was given to read."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from models.errors import ConfigError
from scaling.tasks.scenes import Critic, Judgement, Scene, Scenes, displaced
from scaling.tasks.state_space import StateSpace

TASK = Scenes(objects=3, cells=5, edits=2, slack=1)
EXAMPLE = TASK.problem(Scene("cab", (3, 2, 1), (3, 4, 2)))


def test_the_example_is_as_its_text_says() -> None:
    assert EXAMPLE.prompt == "c3a2b1>b2c3a4:" and TASK.rendered("cab", (3, 2, 1)) == "b1a2c3"
    assert TASK.verify(EXAMPLE, "b2|a4.") and TASK.seen(EXAMPLE, "b2|a4.") == "b2c3a4"
    assert TASK.seen(EXAMPLE, "b2|a3.") == "b2a3c3" and not TASK.verify(EXAMPLE, "b2|a3.")
    assert TASK.seen(EXAMPLE, "b2|a4|") is TASK.seen(EXAMPLE, "b1|a4.") is TASK.seen(EXAMPLE, "d1.") is None
    assert TASK.answer("b2|a4.") == TASK.answer("a4|b0|b2.") == "a4b2" and TASK.answer("b2|a.") is None


def test_a_rendering_is_right_for_one_program_alone() -> None:
    """So edits that lead to what is asked are those that the task has in mind."""
    programs = [(i, j, k) for i in range(5) for j in range(5) for k in range(5)]
    assert len({TASK.rendered("cab", numbers) for numbers in programs}) == len(programs)


def test_chances_of_random_edits_are_those_of_the_walk_through_all_programs() -> None:
    for task in (TASK, Scenes(objects=2, cells=3, edits=1, slack=2)):
        for problem in task.generate(0, 3):
            for state in (problem.instance.start, problem.instance.goal):
                for left in range(4):
                    walked = StateSpace.success(task, problem, state, left)
                    assert task.success(problem, state, left) == pytest.approx(walked, rel=1e-12)


def test_so_many_objects_are_in_other_cells() -> None:
    rng = np.random.default_rng(0)
    for count in range(4):
        for _ in range(20):
            before = TASK.rendered("cab", tuple(rng.integers(0, 5, 3).tolist()))
            after = displaced(before, count, 5, rng)
            cells = [{text[i]: text[i + 1] for i in range(0, 6, 2)} for text in (before, after)]
            assert sum(cells[0][letter] != cells[1][letter] for letter in "abc") == count
            assert [after[i + 1] + after[i] for i in (0, 2, 4)] == sorted(after[i + 1] + after[i] for i in (0, 2, 4))


def test_a_careful_judgement_is_the_comparison_of_what_it_looks_at() -> None:
    critic, rng, seen = Critic(slips=0), np.random.default_rng(1), set()
    for _ in range(60):
        text = critic.judgement("a0b4c4", "a0c2b4", rng)
        found = critic.read(text)
        assert found is not None and len(set(found.looked)) == 2
        assert found.read == tuple({"a": (0, 0), "b": (4, 4), "c": (4, 2)}[letter] for letter in found.looked)
        assert found.score == 2 - ("c" in found.looked)
        assert critic.right("a0b4c4", "a0c2b4", found) == ("c" in found.looked)
        assert critic.right("a0b4c4", "a0b4c4", found) == ("c" not in found.looked)
        seen.add(text)
    assert len(seen) == 6 and "ca>c42a00=1." in seen  # ordered pairs of objects
    assert critic.prompt("a0b4c4", "a0c2b4") == "a0b4c4?a0c2b4:"
    assert set(critic.prompt("a0b4c4", "a0c2b4") + "".join(seen)) <= set(critic.alphabet)


def test_slips_are_as_many_as_asked_and_come_together() -> None:
    """Of five cells a random one is right a fifth of the time; rates that differ make slips of one judgement alike."""
    critic, rng = Critic(looked=2, slips=30), np.random.default_rng(2)
    found = [critic.read(critic.judgement("a0b4c4", "a0c2b4", rng)) for _ in range(4000)]
    truth = {"a": (0, 0), "b": (4, 4), "c": (4, 2)}
    wrong = np.array([[cell != truth[letter][side] for letter, pair in zip(one.looked, one.read)
                       for side, cell in enumerate(pair)] for one in found if one], float)  # fmt: skip
    assert wrong.shape == (4000, 4) and wrong.mean() == pytest.approx(0.3 * 0.8, abs=4 * (0.25 / 4000) ** 0.5)
    both = (wrong[:, 0] * wrong[:, 3]).mean()  # E[rate^2] = 0.6^2 / 3
    assert both == pytest.approx(0.12 * 0.64, abs=4 * (0.08 / 4000) ** 0.5) and both > wrong.mean() ** 2 + 0.01


def test_judgements_of_another_form_are_not_read() -> None:
    critic = Critic()
    assert critic.read("ca>c42a00=1.") == Judgement("ca", ((4, 2), (0, 0)), 1)
    assert critic.read("ca>c42a00=2.") is not None  # a score that its critique contradicts is a score
    for text in ("ca>c42a00=1", "ca>a00c42=1.", "ca>c42=1.", "ca>c42a00=3.", "ca>c42a0=1.", "", "ca>c42a00=1.."):
        assert critic.read(text) is None


def test_bad_knobs_are_refused() -> None:
    for knobs, field in (({"objects": 7}, "objects"), ({"cells": 2}, "cells"), ({"edits": 5}, "edits"),
                         ({"slack": 9}, "slack")):  # fmt: skip
        with pytest.raises(ConfigError, match=f"scenes.{field}"):
            Scenes(**knobs)
    with pytest.raises(ConfigError, match="critic.looked"):
        dataclasses.replace(Critic(), looked=0)
    with pytest.raises(ConfigError, match="critic.slips"):
        Critic(slips=51)


def test_programs_in_another_order_are_the_same_problem() -> None:
    other = TASK.problem(Scene("abc", (2, 1, 3), (4, 2, 3)))
    assert other.canonical == EXAMPLE.canonical and other.prompt == "a2b1c3>b2c3a4:"
