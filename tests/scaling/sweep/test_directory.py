"""The run directory: what it keeps, who owns it, and that writing it twice changes nothing."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest

from models.config import ModelConfig
from models.errors import ConfigError
from scaling import kept, tables
from scaling.kept import write_atomically
from scaling.sweep.config import SweepConfig
from scaling.sweep.directory import RunDirectory
from scaling.sweep.results import COLUMNS, Results
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
    with pytest.raises(ConfigError, match=r"manifest\.json: is damaged \(data is .*: restore it"):
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


DAMAGE = {
    "not JSON": lambda text: "{",
    "null": lambda text: "null",
    "a list": lambda text: "[]",
    "empty": lambda text: "{}",
    "a changed digit": lambda text: text.replace("2.5", "2.6"),
    "deep nesting": lambda text: "[" * 100_000,
    "a number beyond 64 bits": lambda text: text.replace('"params": 1', '"params": 36893488147419103232'),
    "a number of 5,000 digits": lambda text: text.replace('"params": 1', '"params": ' + "1" * 5000),
    "another trial's": lambda text: text.replace('"trial": "a"', '"trial": "b"'),
    "no state": lambda text: text.replace('"done"', '"ready"'),
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("seal", [True, False])
def test_a_damaged_row_costs_its_trial_and_not_the_table(tmp_path, name, seal, caplog):
    results = Results(tmp_path)
    results.add(row("a"))
    results.add(row("c", loss=3.0))
    path = tmp_path / "trials" / "a" / "result.json"
    text = path.read_text() if seal else json.dumps(row("a"))
    path.write_text(DAMAGE[name](text))
    if name == "a changed digit" and not seal:
        return
    found = Results(tmp_path)
    assert found.get("a") is None and not found.has("a")
    assert found.table()["trial"].to_pylist() == ["c"]
    assert [r.getMessage().partition(": is ")[0] for r in caplog.records] == [str(path)]
    found.add(row("a"))
    assert found.table()["loss"].to_pylist() == [2.5, 3.0]
    assert path.with_name("result.damaged.json").exists()


def test_a_row_that_is_no_utf_8_or_no_file_is_as_if_it_were_not_there(tmp_path):
    results = Results(tmp_path)
    path = tmp_path / "trials" / "a" / "result.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\xfe")
    assert results.get("a") is None
    path.unlink()
    os.mkfifo(path)
    assert results.get("a") is None
    results.add(row("a"))
    assert results.get("a")["loss"] == 2.5


def test_the_table_says_when_it_was_changed(tmp_path):
    results = Results(tmp_path)
    results.add(row("a"))
    path = results.write()
    assert tables.read(path).to_pandas()["loss"].tolist() == [2.5]
    content = bytearray(path.read_bytes())
    at = bytes(content).index(np.float64(2.5).tobytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"results\.parquet: is damaged"):
        tables.read(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda stacks: {}, "it is an empty object, not a list"),
        (lambda stacks: [None], r"\[0\] is null, not an object"),
        (lambda stacks: [stacks[0] | {"trials": 1}], r"\[0\].trials is 1, not a list"),
        (lambda stacks: [stacks[0] | {"trunks": [None]}], "trunks does not fit its trials"),
        (lambda stacks: [stacks[0] | {"trunks": [None, 0, None]}], "is not the stack that its id names"),
        (lambda stacks: [stacks[0] | {"trials": stacks[0]["trials"][::-1]}], "is not the stack that its id names"),
        (lambda stacks: [stacks[0], stacks[0]], "is there twice"),
    ],
)
def test_stacks_that_changed_are_refused_with_what_to_do(tmp_path, change, words):
    directory = RunDirectory(tmp_path)
    directory.plan(SWEEP.trials(), 8, {})
    path = tmp_path / "stacks.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    said = rf"stacks\.json: is damaged \(.*{words}.*\): delete it and run the sweep"
    with pytest.raises(ConfigError, match=said):
        RunDirectory(tmp_path).stacks()
    with pytest.raises(ConfigError, match=said):
        RunDirectory(tmp_path).plan(SWEEP.trials(), 8, {})


def test_a_config_under_another_trials_id_is_refused(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.plan(SWEEP.trials(), 8, {})
    path = tmp_path / "stacks.json"
    path.write_text(path.read_text().replace('"learning_rate": 0.1', '"learning_rate": 0.2', 1))
    with pytest.raises(ConfigError, match="has the config of"):
        directory.stacks()


@pytest.mark.parametrize("name", ["config.json", "manifest.json", "predictions.jsonl"])
@pytest.mark.parametrize("content", ["null", "[]", "1", "[" * 100_000, "\udcff", "{}", '{"trial": 1, "data": 1}'])
def test_no_file_of_a_run_directory_can_be_of_another_structure_unnoticed(tmp_path, name, content):
    directory = RunDirectory(tmp_path)
    directory.claim(SWEEP, {"": {"digest": "digest"}})
    directory.append_prediction({"trial": SWEEP.trials()[0].id, "mean": 2.0}, SWEEP.trials()[0])
    (tmp_path / name).write_bytes((content + "\n").encode(errors="surrogateescape"))

    def use():
        directory.config(), directory.predictions(), directory.check_owner(SWEEP), directory.check_data({})

    with pytest.raises(ConfigError):
        use()


def test_of_two_sweeps_started_on_one_new_directory_one_is_refused_with_the_difference(tmp_path, monkeypatch):
    first, second, other = RunDirectory(tmp_path), RunDirectory(tmp_path), dataclasses.replace(SWEEP, name="other")
    write = kept.create

    def after_the_other(path, content, durable=True):  # both have seen an empty directory by now
        monkeypatch.setattr(kept, "create", write)
        second.claim(other, {"": {"digest": "digest"}})
        return write(path, content, durable)

    monkeypatch.setattr(kept, "create", after_the_other)
    with pytest.raises(ConfigError, match='belongs to another sweep.*name was "other", now "sweep"'):
        first.claim(SWEEP, {"": {"digest": "digest"}})
    assert RunDirectory(tmp_path).config() == other


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_no_rest(tmp_path):
    path = tmp_path / "config.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_progress_of_workers_survives_a_reader_and_a_torn_file(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.write_progress("0", {"step": 1})
    for i, damaged in enumerate(("{", "null", "[]", '{"seconds": "1"}', "[" * 100_000), 1):
        (tmp_path / "progress" / f"{i}.json").write_text(damaged)
    assert directory.read_progress() == {"0": {"step": 1}}
    assert json.loads((tmp_path / "progress" / "0.json").read_text()) == {"step": 1}
