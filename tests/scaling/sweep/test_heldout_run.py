"""The held-out run: what cannot be foretold is refused before training, and a sweep that grew foretells anew."""

from __future__ import annotations

import dataclasses

import pytest

from launch import sweep as command
from models.errors import ConfigError
from scaling.sweep.config import Prediction, SweepConfig
from scaling.sweep.directory import RunDirectory
from scaling.sweep.heldout import check_prediction, is_foretold, law_inputs
from scaling.sweep.isoflop import Isoflop
from scaling.sweep.results import COLUMNS
from tests.scaling.sweep import tiny

PLAN = Isoflop(budgets=(3e8, 6e8, 1.2e9), widths=(8, 12, 16), min_ratio=0.1, max_ratio=1e5, min_steps=20)
PREDICTION = Prediction(factor=2.0, bootstrap=0)
SWEEP = SweepConfig("iso", tiny.MODEL, train=tiny.TRAIN, isoflop=PLAN, prediction=PREDICTION)


@pytest.mark.parametrize(
    ("plan", "prediction", "words"),
    [
        ({"budgets": (3e8,), "widths": (8, 12)}, {}, r"chinchilla has 5 parameters, but the sweep has 2 "),
        ({}, {"widths": (4096,)}, r"prediction\.widths: none of \[4096\] reaches 2.4e\+09 FLOPs: add widths"),
        ({}, {"law": "test_time"}, r"test_time is a law of loss, samples, which a sweep does not"),
        ({}, {"law": "routed_moe"}, r"prediction\.law: routed_moe is a law of .*: use a law of"),
    ],
)
def test_what_cannot_be_fitted_or_foretold_is_refused_before_training(plan, prediction, words):
    sweep = dataclasses.replace(
        SWEEP, isoflop=dataclasses.replace(PLAN, **plan), prediction=dataclasses.replace(PREDICTION, **prediction)
    )
    with pytest.raises(ConfigError, match=words):
        check_prediction(sweep, sweep.trials())
    check_prediction(SWEEP, SWEEP.trials())


def test_runs_that_do_not_differ_in_an_input_of_the_law_are_refused():
    sweep = dataclasses.replace(SWEEP, isoflop=dataclasses.replace(PLAN, widths=(8,)), seeds=3)
    with pytest.raises(ConfigError, match=r"prediction\.law: chinchilla needs runs that differ in params"):
        check_prediction(sweep, sweep.trials())


def trained(directory: RunDirectory, sweep: SweepConfig) -> None:
    """The directory with a row for every trial, as if all were trained."""
    directory.claim(sweep, {})
    directory.plan(sweep.trials(), 8, {})
    for trial in sweep.trials():
        inputs = law_inputs(trial)
        inputs |= {name: int(inputs[name]) for name in ("params", "params_nonembed", "tokens")}
        loss = 1.5 + 40 / inputs["params"] ** 0.4 + 20 / inputs["tokens"] ** 0.3
        row = dict.fromkeys(COLUMNS) | {"trial": trial.id, "status": "done", "seed": 0, "loss": loss, "split": "fit"}
        directory.results.add(row | inputs | {"wall_s": 1.0, "devices": 1, "config": "{}"})


def test_a_sweep_that_grew_foretells_another_run_and_keeps_what_it_foretold(tmp_path):
    directory = RunDirectory(tmp_path)
    trained(directory, SWEEP)
    command.predict_held_out(SWEEP, directory)
    (first,) = directory.predictions()
    assert is_foretold(SWEEP, directory)
    command.predict_held_out(SWEEP, directory)
    assert directory.predictions() == [first]
    grown = dataclasses.replace(SWEEP, isoflop=dataclasses.replace(PLAN, budgets=(*PLAN.budgets, 1.8e9)))
    trained(directory, grown)
    assert directory.config() == grown and not is_foretold(grown, directory)
    command.predict_held_out(grown, directory)
    assert directory.predictions()[0] == first and len(directory.predictions()) == 2 and is_foretold(grown, directory)
    assert directory.predictions()[1]["inputs"]["flops"] == pytest.approx(3.6e9, rel=0.01)
    with pytest.raises(ConfigError, match="belongs to another sweep .*3 of its trials are gone"):
        directory.check_owner(SWEEP)


def test_a_run_that_was_trained_before_it_could_be_foretold_tests_nothing(tmp_path):
    directory = RunDirectory(tmp_path)
    trained(directory, SWEEP)
    command.predict_held_out(SWEEP, directory)
    (held,) = directory.predicted_trials()
    directory.results.add(directory.results.get(SWEEP.trials()[0].id) | {"trial": held.id, "split": "heldout"})
    other = dataclasses.replace(SWEEP, prediction=dataclasses.replace(PREDICTION, interval=0.5))
    directory.claim(other, {})  # what is foretold may change, and be dropped
    command.predict_held_out(other, directory)
    assert [line.get("late", False) for line in directory.predictions()] == [False, True]
    directory.check_owner(dataclasses.replace(SWEEP, prediction=None))


def test_a_fit_that_fails_leaves_the_report_and_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    directory = RunDirectory(tmp_path)
    trained(directory, SWEEP)

    def fails(*arguments, **options):
        raise ConfigError("runs", "chinchilla is not finite at any start", "check the units of the columns")

    monkeypatch.setattr("scaling.laws.fit", fails)
    with pytest.raises(ConfigError, match=r"not finite at any start.*or --config\.prediction=none"):
        command.predict_held_out(SWEEP, directory)
    assert (tmp_path / "report.html").exists() and "9 trials done, 0 failed" in capsys.readouterr().out
