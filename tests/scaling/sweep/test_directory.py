"""The run directory: what it keeps, who owns it, and that writing it twice changes nothing."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from models.config import ModelConfig
from models.errors import ConfigError
from scaling.sweep.config import SweepConfig
from scaling.sweep.directory import RunDirectory
from scaling.sweep.results import COLUMNS, Results, write_atomically
from scaling.sweep.trial import override

MODEL = ModelConfig(d_model=8, n_layers=1, n_heads=2)
SWEEP = SweepConfig(model=MODEL, points=tuple({"train.learning_rate": rate} for rate in (0.1, 0.2, 0.3)))


def row(trial, **changes):
    empty = dict.fromkeys(COLUMNS) | {"trial": trial, "flops": 1.0, "params": 1, "seed": 0}
    return empty | {"status": "done", "loss": 2.5, "split": "fit"} | changes


def test_a_directory_keeps_its_config_and_lets_only_what_no_result_depends_on_change(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.claim(SWEEP, {"": {"digest": "digest"}})
    assert directory.config() == SWEEP
    elsewhere = {"workers": 7, "limits.trial_s": 60.0, "priorities": {"train.seed=0": 1}, "data.cache_dir": "/x",
                 "data.root": "/y", "train.log_every": 3, "mesh.data": 2}  # fmt: skip
    for path, value in elsewhere.items():
        directory.check_owner(override(SWEEP, {path: value}))
    directory.claim(override(SWEEP, elsewhere), {"more": {"digest": "digest of it"}})
    assert directory.config() == override(SWEEP, elsewhere)  # what workers read
    directory.check_data({"": "digest", "more": "digest of it"})
    with pytest.raises(ConfigError, match="belongs to another sweep.*model.d_ff was null, now 8"):
        directory.check_owner(override(SWEEP, {"model.d_ff": 8}))
    directory.check_data({"": "digest"})
    with pytest.raises(ConfigError, match="the data changed since this sweep began"):
        directory.check_data({"": "other"})
    with pytest.raises(ConfigError, match="does not say what this data was"):
        directory.check_data({"unknown": "digest"})
    (tmp_path / "run" / "manifest.json").write_text('{"data": "digest"}')
    with pytest.raises(ConfigError, match=r"manifest\.json: does not hold the digest of each data: restore it"):
        directory.check_data({"": "digest"})


def test_a_second_holder_of_the_lock_is_refused_and_the_next_one_is_not(tmp_path):
    with RunDirectory(tmp_path).locked(), pytest.raises(ConfigError, match="is in use by process"):
        RunDirectory(tmp_path).locked().__enter__()
    with RunDirectory(tmp_path).locked():
        pass
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]


def test_planning_again_keeps_the_grouping_and_adds_only_new_trials(tmp_path):
    directory, trials = RunDirectory(tmp_path), SWEEP.trials()
    directory.plan(trials[:2], 8, {trials[0].id: {"split": "fit"}})
    before = (tmp_path / "stacks.json").read_bytes()
    directory.plan(trials[:2], 1, {})
    assert (tmp_path / "stacks.json").read_bytes() == before
    directory.plan(trials, 8, {})
    assert [[t.id for t in stack.trials] for stack in directory.stacks()] == [
        [trials[0].id, trials[1].id],
        [trials[2].id],
    ]
    assert directory.labels()[trials[0].id] == {"split": "fit"}


def test_a_prediction_keeps_the_run_that_tests_it(tmp_path):
    directory, trial = RunDirectory(tmp_path), SWEEP.trials()[0]
    assert directory.predictions() == [] and directory.predicted_trials() == []
    directory.append_prediction({"trial": trial.id, "mean": 2.0}, trial)
    assert directory.predicted_trials() == [trial]
    assert not directory.is_finished([], predicted=True)
    directory.results.add(row(trial.id))
    assert directory.is_finished([], predicted=True) and not directory.is_finished(SWEEP.trials(), predicted=True)


def test_the_first_row_of_a_trial_is_kept_and_rows_become_one_table_with_units(tmp_path):
    results = Results(tmp_path)
    results.add(row("b", loss=2.0))
    results.add(row("b", loss=9.0))
    results.add(row("a", flops=0.5, split=None, extra=1))
    table = pq.read_table(results.write())
    assert table.column_names == [*COLUMNS, "extra", "split"]
    assert table["trial"].to_pylist() == ["a", "b"] and table["loss"].to_pylist() == [2.5, 2.0]
    assert all(table.schema.field(name).metadata[b"unit"].decode() == unit for name, (unit, _) in COLUMNS.items())
    written = (tmp_path / "results.parquet").stat().st_mtime_ns
    results.write()
    assert (tmp_path / "results.parquet").stat().st_mtime_ns == written


def test_a_damaged_row_is_named_with_what_to_do(tmp_path):
    results = Results(tmp_path)
    results.add(row("a"))
    (tmp_path / "trials" / "a" / "result.json").write_text("{")
    with pytest.raises(ConfigError, match=r"a/result\.json: is damaged .*: delete this file and run the same command"):
        results.table()


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_no_rest(tmp_path):
    path = tmp_path / "config.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_progress_of_workers_survives_a_reader_and_a_torn_file(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.write_progress("0", {"step": 1})
    (tmp_path / "progress" / "1.json").write_text("{")
    assert directory.read_progress() == {"0": {"step": 1}}
    assert json.loads((tmp_path / "progress" / "0.json").read_text()) == {"step": 1}
