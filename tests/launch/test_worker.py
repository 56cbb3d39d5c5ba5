"""A worker trains on the data of the sweep, wherever it is started, or on none."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch import worker
from launch.preflight import check_trials
from models.errors import ConfigError
from scaling.sweep import run
from scaling.sweep.config import SweepConfig
from scaling.sweep.directory import RunDirectory
from tests.scaling.sweep import tiny


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A sweep whose text is named by a relative path, planned in the folder that it starts from."""
    here = tmp_path / "here"
    one = tiny.trial(here, data__path="text")
    monkeypatch.chdir(here)
    sweep = SweepConfig("placed", one.model, one.data, one.train, one.mesh, workers=1).anchored(Path.cwd())
    directory = RunDirectory(tmp_path / "run")
    directory.claim(sweep, check_trials(sweep.trials()))
    directory.plan(sweep.trials(), 1, {})
    return directory


def test_a_worker_started_elsewhere_reads_the_text_of_the_sweep(planned, tmp_path, monkeypatch):
    (stack,) = planned.stacks()
    expected = run._prepared(stack)[stack.trials[0].id].digest
    tiny.write_text(tmp_path / "there" / "text", seed=1)
    monkeypatch.chdir(tmp_path / "there")
    (stack,) = RunDirectory(planned.path).stacks()
    assert run._prepared(stack)[stack.trials[0].id].digest == expected


def test_a_worker_refuses_text_that_was_edited_after_the_sweep_began(planned, tmp_path):
    (tmp_path / "here" / "text" / "7.txt").write_text("something else")
    with pytest.raises(ConfigError, match=r"manifest\.json: the data changed since this sweep began"):
        worker.work(planned, "0", lambda: False)
    assert not planned.results.has(planned.stacks()[0].trials[0].id)
