"""Schedules start, turn and end exactly where their config says, whether or not their inputs are traced."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.train.config import Hyperparameters, TrainConfig, hyperparameters
from scaling.train.schedule import learning_rate

SCHEDULES = ("cosine", "wsd", "constant")


LONGEST = 220

curve = jax.jit(jax.vmap(learning_rate, in_axes=(None, 0, None)), static_argnums=0)


def rates(schedule: str, hyper: Hyperparameters, steps) -> np.ndarray:
    """Rates at `steps`; always LONGEST of them in one call, so that the suite compiles each schedule once."""
    padded = np.resize(np.asarray(steps, np.int32), LONGEST)
    return np.asarray(curve(schedule, padded, hyper))[: len(steps)]


def oracle(schedule: str, step: int, c: TrainConfig) -> float:
    """The same curve in Python floats, branch by branch."""
    warm = min(1.0, (step + 1) / (c.warmup + 1))
    start = c.warmup if schedule == "cosine" else c.decay_start
    if schedule == "constant" or step < start:
        share = 0.0
    elif step >= c.steps:
        share = 1.0
    else:
        share = (step - start) / max(c.steps - start, 1)
    fallen = (1 - math.cos(math.pi * share)) / 2 if schedule == "cosine" else share
    return c.learning_rate * warm * (1 - (1 - c.final_learning_rate) * fallen)


SHARE = st.just(0.0) | st.floats(1e-30, 1)  # configs take no number that float32 holds as 0

configs = st.builds(
    TrainConfig,
    steps=st.integers(1, 200),
    learning_rate=st.floats(1e-5, 1.0),
    warmup_fraction=SHARE,
    decay_fraction=SHARE,
    final_learning_rate=SHARE,
)


@settings(max_examples=60)
@given(st.sampled_from(SCHEDULES), configs)
def test_every_step_equals_the_curve_written_in_plain_python(schedule, config):
    steps = np.arange(config.steps + 20)
    expected = [oracle(schedule, int(step), config) for step in steps]
    atol = 4e-7 * config.learning_rate  # a few float32 roundings of a factor in [0, 1]
    np.testing.assert_allclose(rates(schedule, hyperparameters(config), steps), expected, rtol=2e-6, atol=atol)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_rises_linearly_from_above_zero_to_exactly_the_peak(schedule):
    config = TrainConfig(steps=100, warmup_steps=9, learning_rate=0.3)
    warm = rates(schedule, hyperparameters(config), range(10))
    np.testing.assert_allclose(warm, 0.3 * np.arange(1, 11) / 10, rtol=1e-6)
    assert warm[9] == np.float32(0.3)


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
@pytest.mark.parametrize("final", [0.0, 0.1, 1 / 3])
def test_the_final_rate_is_exact_at_steps_and_stays(schedule, final):
    config = TrainConfig(steps=37, learning_rate=7e-3, final_learning_rate=final)
    after = rates(schedule, hyperparameters(config), [37, 38, 10_000])
    assert set(after) == {np.float32(7e-3) * np.float32(final)}
    assert rates(schedule, hyperparameters(config), [36])[0] > after[0], "the last update is still above the end point"


def test_before_its_decay_a_wsd_run_does_not_depend_on_its_length():
    short, long = (TrainConfig(steps=n, warmup_steps=5, schedule="wsd") for n in (100, 1000))
    trunk = range(short.decay_start + 1)
    np.testing.assert_array_equal(
        rates("wsd", hyperparameters(short), trunk), rates("wsd", hyperparameters(long), trunk)
    )
    assert rates("wsd", hyperparameters(short), [short.decay_start + 1]) < np.float32(short.learning_rate)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_stacked_hyperparameters_under_vmap_give_each_trial_its_own_curve(schedule):
    trials = [
        TrainConfig(steps=n, learning_rate=lr, warmup_steps=w) for n, lr, w in [(10, 1, 0), (50, 0.1, 7), (1, 2, 1)]
    ]
    stacked = jax.tree.map(lambda *xs: np.stack(xs), *[hyperparameters(t) for t in trials])
    together = jax.jit(jax.vmap(lambda h: learning_rate(schedule, jnp.int32(4), h)))(stacked)
    alone = [learning_rate(schedule, 4, hyperparameters(t)) for t in trials]
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_no_gap_between_warm_up_and_end_divides_by_zero():
    config = TrainConfig(steps=5, warmup_fraction=1.0, decay_fraction=0.0)
    for schedule in SCHEDULES:
        assert np.isfinite(rates(schedule, hyperparameters(config), range(8))).all()
    same = dataclasses.replace(config, warmup_fraction=0.0, decay_fraction=0.0, schedule="wsd")
    np.testing.assert_array_equal(rates("wsd", hyperparameters(same), range(5)), np.float32(same.learning_rate))
