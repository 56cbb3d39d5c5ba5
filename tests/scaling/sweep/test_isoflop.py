"""The isoFLOP planner: every run hits its budget by exact counts, within the plan's limits, or the plan is refused."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from models import counts
from models.config import ModelConfig
from models.errors import ConfigError
from scaling.sweep.config import SweepConfig
from scaling.sweep.isoflop import Isoflop, plan_isoflop
from scaling.sweep.trial import Trial, override, steps_for
from scaling.train.config import TrainConfig

MODEL = ModelConfig(d_model=16, n_layers=2, n_heads=2)
TRAIN = TrainConfig(batch_size=4, seq_len=64)

plans = st.builds(
    Isoflop,
    budgets=st.lists(st.floats(1e8, 1e13), min_size=1, max_size=3, unique=True).map(tuple),
    widths=st.lists(st.integers(1, 32).map(lambda k: 4 * k), min_size=1, max_size=5, unique=True).map(tuple),
    min_ratio=st.floats(0.01, 10),
    max_ratio=st.floats(20, 1e5),
    tolerance=st.sampled_from((0.01, 0.003)),
    min_steps=st.integers(1, 100),
)
bases = st.builds(
    lambda batch, seq, heads: Trial(MODEL, train=TrainConfig(batch_size=batch, seq_len=seq, learning_rate=0.01)),
    st.sampled_from((1, 4, 16)), st.sampled_from((16, 64)), st.just(2),
)  # fmt: skip


def planned(plan: Isoflop, base: Trial) -> list[Trial]:
    try:
        return [override(base, point) for point in plan_isoflop(plan, base)]
    except ConfigError as error:
        assert error.field == "isoflop.budgets" and "change the budget, add widths, or lower" in error.fix
        return []


@settings(max_examples=200)
@given(plans, bases)
def test_every_planned_run_spends_its_budget_within_the_tolerance_and_the_ratios(plan, base):
    trials = planned(plan, base)
    assume(trials)
    for trial in trials:
        exact = 3 * trial.train.steps * trial.train.batch_size * counts.forward_flops(trial.model, trial.train.seq_len)
        assert trial.flops == exact  # counted once more from its definition
        assert min(abs(exact / budget - 1) for budget in plan.budgets) <= plan.tolerance <= 0.01
        assert plan.min_ratio <= trial.train.tokens / counts.params(trial.model) <= plan.max_ratio
        assert trial.train.steps >= plan.min_steps
        peak = base.train.learning_rate * (base.model.d_model / trial.model.d_model) ** plan.learning_rate_exponent
        assert trial.train.learning_rate == peak


@given(plans, bases)
def test_no_cell_that_fits_the_plan_is_left_out(plan, base):
    trials = planned(plan, base)
    assume(trials)
    cells = {(trial.model.d_model, trial.train.steps) for trial in trials}
    for budget in plan.budgets:
        for width in plan.widths:
            model = override(base, {"model.d_model": width}).model
            steps = steps_for(budget, model, base.train)
            flops = 3 * steps * base.train.batch_size * counts.forward_flops(model, base.train.seq_len)
            ratio = steps * base.train.tokens_per_step / counts.params(model)
            fits = abs(flops / budget - 1) <= plan.tolerance and plan.min_ratio <= ratio <= plan.max_ratio
            assert not (fits and steps >= plan.min_steps) or (width, steps) in cells


@given(plans, bases)
def test_the_plan_and_its_ids_are_a_function_of_the_config(plan, base):
    trials = planned(plan, base)
    again = planned(Isoflop(**vars(plan)), dataclasses.replace(base))
    assert [t.id for t in trials] == [t.id for t in again]
    assert len({t.id for t in trials}) == len({(t.model, t.train) for t in trials})


@pytest.mark.parametrize(
    "changes",
    [dict(budgets=(1e3,)), dict(budgets=(1e10, 1e20)), dict(min_ratio=1e6, max_ratio=2e6), dict(min_steps=10**9)],
)
def test_a_budget_that_no_width_reaches_is_refused_with_the_field_and_the_fix(changes):
    plan = Isoflop(**(dict(budgets=(1e10,), widths=(16, 32)) | changes))
    with pytest.raises(ConfigError, match=r"^isoflop\.budgets: no width of \[16, 32\] spends .* FLOPs .*: change the"):
        SweepConfig(model=MODEL, train=TRAIN, isoflop=plan).trials()


def test_a_sweep_trains_its_plan():
    plan = Isoflop((2e10, 4e10), (16, 32), min_ratio=0.1)
    sweep = SweepConfig(model=MODEL, train=TRAIN, isoflop=plan, seeds=2)
    assert [(t.model.d_model, t.train.seed) for t in sweep.trials()] == [(d, s) for d in (16, 32) * 2 for s in (0, 1)]


def test_a_base_with_a_head_size_keeps_it_and_one_without_keeps_its_heads():
    plan = Isoflop(budgets=(4e10,), widths=(16, 32, 64), min_ratio=0.1)
    fixed_heads = planned(plan, Trial(MODEL, train=TRAIN))
    assert [(t.model.d_model, t.model.n_heads) for t in fixed_heads] == [(16, 2), (32, 2), (64, 2)]
    fixed_size = planned(plan, Trial(dataclasses.replace(MODEL, head_dim=8, d_ff=64), train=TRAIN))
    shapes = [(t.model.d_model, t.model.n_heads, t.model.d_ff) for t in fixed_size]
    assert shapes == [(16, 2, 64), (32, 4, 128), (64, 8, 256)]
    with pytest.raises(ConfigError, match=r"^isoflop\.widths: 20 is no multiple of model\.head_dim 8: change either"):
        plan_isoflop(Isoflop((1e10,), widths=(20,)), Trial(ModelConfig(d_model=16, n_heads=2, head_dim=8)))


def test_a_width_that_the_heads_do_not_divide_is_named():
    with pytest.raises(ConfigError, match=r"n_heads: 2 heads do not divide d_model 17: use one of \[1, 17\] heads"):
        plan_isoflop(Isoflop((1e10,), widths=(16, 17)), Trial(MODEL))


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("budgets", dict(budgets=())),
        ("budgets", dict(budgets=(-1.0,))),
        ("widths", dict(widths=())),
        ("widths", dict(widths=(0,))),
        ("tolerance", dict(tolerance=0.0)),
        ("min_ratio", dict(min_ratio=5.0, max_ratio=5.0)),
    ],
)
def test_an_impossible_plan_names_its_field(field, changes):
    with pytest.raises(ConfigError) as caught:
        Isoflop(**(dict(budgets=(1e10,), widths=(16,)) | changes))
    assert caught.value.field == f"isoflop.{field}"
