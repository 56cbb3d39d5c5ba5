"""Trackers: every step reaches them once, whatever is restarted; the real ones are tried where they are installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launch import trackers
from launch.trackers import Trackers
from models.errors import ConfigError
from scaling.sweep.directory import RunDirectory

ROWS = [{"step": step, "loss": 3.0 / step} for step in range(1, 8)]


class Recorder:
    """A tracker that keeps what it is sent."""

    def __init__(self, directory: Path, sweep: str):
        self.directory, self.sweep = directory, sweep

    sent: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012 shared by the restarts of one test

    def write(self, trial: str, config: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        assert config == {"name": trial}
        self.sent += [(trial, row) for row in rows]

    def close(self) -> None:
        pass


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.setitem(trackers.TRACKERS, "recorder", Recorder)
    monkeypatch.setattr(trackers, "_check_installed", lambda name: None)
    monkeypatch.setattr(Recorder, "sent", [])
    for trial in ("a", "b"):
        write(tmp_path, trial, 0)
        (tmp_path / "trials" / trial / "config.json").write_text(json.dumps({"name": trial}))
    return RunDirectory(tmp_path)


def write(path: Path, trial: str, rows: int) -> None:
    folder = path / "trials" / trial
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:rows]))


def test_every_step_is_sent_once_also_after_restarts_and_rewritten_files(directory: RunDirectory) -> None:
    for rows in (3, 5, 2, 7):  # the third: a worker resumed from an older checkpoint and writes the same rows again
        write(directory.path, "a", rows)
        with Trackers(["recorder"], directory, "sweep") as found:
            found.update()
            found.update()
    with Trackers(["recorder"], directory, "sweep") as found:
        (directory.path / "trials" / "b" / "metrics.jsonl").write_text(
            '{"step": 1, "loss": 2.0}\n{"step": 1, "heldout_loss": 3.0}\n'
        )
        found.update()
        assert [row["step"] for trial, row in Recorder.sent if trial == "b"] == []  # its step may not be complete
        found.update(all_of_it=True)
    assert [row for trial, row in Recorder.sent if trial == "a"] == ROWS
    assert [row for trial, row in Recorder.sent if trial == "b"] == [{"step": 1, "loss": 2.0, "heldout_loss": 3.0}]


def test_an_unknown_or_absent_tracker_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--track: 'wandbb' is no tracker: did you mean wandb?"):
        Trackers(["wandbb"], RunDirectory(tmp_path), "sweep")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--track: mlflow is not installed: pip install 'isoflop\[mlflow\]'"):
        Trackers(["mlflow"], RunDirectory(tmp_path), "sweep")


@pytest.mark.slow
def test_wandb_keeps_runs_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="Weights & Biases is not installed; pip install 'isoflop[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracker = trackers.Wandb(tmp_path, "sweep")
    tracker.write("0123456789ab", {"train": {"steps": 7}}, ROWS)
    (kept,) = tmp_path.glob("wandb/offline-run-*-0123456789ab/run-0123456789ab.wandb")
    assert kept.stat().st_size > 0


@pytest.mark.slow
def test_mlflow_keeps_every_step_without_a_server(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="MLflow is not installed; pip install 'isoflop[mlflow]'")
    for rows in (ROWS[:3], ROWS[3:]):
        tracker = trackers.Mlflow(tmp_path, "sweep")
        tracker.write("0123456789ab", {"train": {"steps": 7}}, rows)
    (run,) = tracker.client.search_runs([tracker.experiment])
    assert run.data.params == {"train.steps": "7"}
    history = tracker.client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(row["step"], row["loss"]) for row in ROWS]
