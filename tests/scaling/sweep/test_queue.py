"""The queue: priorities first, then the longest first, which ends close to the earliest possible moment."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import ModelConfig
from models.errors import ConfigError
from scaling.sweep.combinators import grid
from scaling.sweep.config import SweepConfig
from scaling.sweep.queue import lower_bound, makespan, ordered
from scaling.sweep.stack import make_stacks

DURATIONS = st.lists(st.floats(0, 1e4), min_size=1, max_size=40)


@given(DURATIONS, st.integers(1, 8))
def test_the_makespan_is_that_of_a_plain_loop_and_above_the_bound(durations: list[float], workers: int) -> None:
    free = [0.0] * workers
    for duration in durations:
        first = free.index(min(free))
        free[first] += duration
    assert makespan(durations, workers) == pytest.approx(max(free))
    assert makespan(durations, workers) >= lower_bound(durations, workers) * (1 - 1e-12)


@given(DURATIONS, st.integers(1, 8))
def test_longest_first_is_within_a_third_of_the_bound(durations: list[float], workers: int) -> None:
    """Graham 1969: 4/3 of the best order; the bound is below that by at most one more job."""
    longest_first = makespan(sorted(durations, reverse=True), workers)
    assert longest_first <= lower_bound(durations, workers) * (2 - 1 / workers) * (1 + 1e-12)


@pytest.mark.parametrize("workers", [1, 2, 7, 16, 64])
def test_500_trials_end_within_a_tenth_of_the_bound(workers: int) -> None:
    draw = random.Random(workers)
    sizes = [draw.choice([8, 16, 24, 32, 48, 64]) for _ in range(500)]
    points = tuple(
        {"train.steps": draw.randint(50, 2000), "model.d_model": d, "train.seed": i} for i, d in enumerate(sizes)
    )
    base = ModelConfig(d_model=16, n_layers=1, n_heads=2)
    trials = SweepConfig("queue", base, points=points, stack_size=1).trials()
    stacks = ordered(make_stacks(trials, 1), {})
    assert len(stacks) == 500
    durations = [stack.work / 1e10 for stack in stacks]
    assert makespan(durations, workers) <= 1.1 * lower_bound(durations, workers)
    shuffled = draw.sample(durations, 500)
    assert makespan(durations, workers) <= makespan(shuffled, workers) * (1 + 1e-12)


def test_priorities_come_before_length() -> None:
    points = tuple(grid({"train.learning_rate": [0.1, 0.2], "train.steps": [10, 20], "model.d_model": [8, 16]}))
    base = ModelConfig(d_model=8, n_layers=1, n_heads=2)
    stacks = make_stacks(SweepConfig("queue", base, points=points).trials(), 1)
    found = ordered(stacks, {"train.learning_rate=0.2": 1, "model.d_model=8": 2})
    levels = [2 if t.model.d_model == 8 else int(t.train.learning_rate == 0.2) for t in (s.trials[0] for s in found)]
    assert levels == [2] * 4 + [1] * 2 + [0] * 2
    assert [s.work for s in found[:4]] == sorted((s.work for s in found[:4]), reverse=True)


def test_rules_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match='priorities: has "?.?d_model'):
        SweepConfig("queue", priorities={"d_model": 1})
    sweep = SweepConfig("queue", priorities={"model.width=8": 1})
    with pytest.raises(ConfigError, match="names 'model.width', which trials do not have"):
        ordered(make_stacks(sweep.trials(), 1), sweep.priorities)
