"""Grouping: every trial in exactly one stack, equal shapes only, families of one trunk together."""

from __future__ import annotations

import collections

from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import ModelConfig
from scaling.sweep.stack import TRACED, make_stacks, shape_key, trunk_key
from scaling.sweep.trial import Trial, override
from scaling.train.config import TrainConfig

MODEL = ModelConfig(d_model=8, n_layers=1, n_heads=2)


@st.composite
def sweeps(draw) -> list[Trial]:
    trials = {}
    for _ in range(draw(st.integers(1, 12))):
        train = TrainConfig(
            steps=draw(st.sampled_from((10, 20, 40))),
            seed=draw(st.integers(0, 1)),
            warmup_steps=draw(st.sampled_from((None, 2))),
            decay_fraction=draw(st.sampled_from((0.0, 0.2, 0.5, 1.0))),
            schedule=draw(st.sampled_from(("cosine", "wsd"))),
            batch_size=draw(st.sampled_from((4, 8))),
        )
        trial = Trial(override(MODEL, {"d_model": draw(st.sampled_from((8, 16)))}), train=train)
        trials[trial.id] = trial
    return list(trials.values())


@settings(max_examples=50)
@given(sweeps(), st.integers(1, 6))
def test_every_trial_is_in_exactly_one_stack_of_its_shape_within_the_size(trials, size):
    stacks = make_stacks(trials, size)
    assert collections.Counter(t.id for s in stacks for t in s.trials) == collections.Counter(t.id for t in trials)
    for stack in stacks:
        assert len({shape_key(t) for t in stack.trials}) == 1
        families = [trunk_key(t) if t.train.schedule == "wsd" else t.id for t in stack.trials]
        assert len(stack.trials) <= size or len(set(families)) == 1
    homes = collections.defaultdict(set)
    for number, stack in enumerate(stacks):
        for trial in stack.trials:
            if trial.train.schedule == "wsd":
                homes[trunk_key(trial)].add(number)
    assert all(len(found) == 1 for found in homes.values())


@settings(max_examples=50)
@given(sweeps(), st.integers(1, 6))
def test_a_branch_leaves_its_trunk_before_the_trunk_decays(trials, size):
    for stack in make_stacks(trials, size):
        for trial, trunk in zip(stack.trials, stack.trunks, strict=True):
            if trunk is not None:
                root = stack.trials[trunk]
                assert stack.trunks[trunk] is None and trunk_key(root) == trunk_key(trial)
                assert trial.train.decay_start <= root.train.decay_start
        roots = [t for t, trunk in zip(stack.trials, stack.trunks) if t.train.schedule == "wsd" and trunk is None]
        assert len({trunk_key(t) for t in roots}) == len(roots)


@settings(max_examples=50)
@given(sweeps(), st.integers(1, 6))
def test_the_grouping_is_deterministic_and_the_most_work_comes_first(trials, size):
    stacks = make_stacks(trials, size)
    assert [s.id for s in stacks] == [s.id for s in make_stacks(trials, size)]
    assert len({s.id for s in stacks}) == len(stacks)
    assert [s.work for s in stacks] == sorted((s.work for s in stacks), reverse=True)


def test_trials_that_differ_in_traced_fields_share_a_program_and_others_do_not():
    base = Trial(MODEL)
    traced = {"train.steps": 7, "train.seed": 3, "train.learning_rate": 0.5, "data.unique_tokens": 99}
    assert set(traced) <= set(TRACED)
    assert len(make_stacks([base, override(base, traced)], 8)) == 1
    for path, value in {"train.batch_size": 2, "model.d_ff": 24, "data.seed": 1, "train.log_every": 7}.items():
        assert len(make_stacks([base, override(base, {path: value})], 8)) == 2, path


def test_the_work_of_a_family_counts_what_its_branches_share_once():
    base = Trial(MODEL, train=TrainConfig(schedule="wsd", steps=100, warmup_steps=2))
    (stack,) = make_stacks([base, override(base, {"train.steps": 50})], 8)
    assert stack.trunks == (None, 0)
    assert abs(stack.flops / base.flops - 1.1) < 1e-12  # the branch computes 10 of its 50 steps
