"""What a person sees while a sweep or a job runs does not depend on clocks that somebody may set."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from launch.feed import Feed
from launch.jobs import Job, JobConfig
from launch.progress import JobDisplay, SweepDisplay
from launch.prompts import PromptFile
from models.config import ModelConfig
from scaling.sweep.config import SweepConfig
from scaling.sweep.directory import RunDirectory

DAY_S = 86_400.0


class Clocks:
    """A clock that ticks and one that is set back a day in the middle."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.ticked, self.set = 1000.0, 1.8e9
        monkeypatch.setattr(time, "monotonic", lambda: self.ticked)
        monkeypatch.setattr(time, "time", lambda: self.set + self.ticked)

    def later(self, seconds: float) -> None:
        """So many seconds pass, and the clock on the wall is set back a day."""
        self.ticked += seconds
        self.set -= DAY_S


def test_time_left_and_speed_of_a_job_survive_a_clock_set_back(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    clocks = Clocks(monkeypatch)
    display = JobDisplay(4)
    clocks.later(40)
    display.add(200)
    assert display.left(1, 4) == "120 s left"
    assert "1/4 samples, 5 tokens/s, 120 s left" in capsys.readouterr().err


def test_what_a_job_took_is_no_less_than_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n')
    job = Job.open(tmp_path / "out", JobConfig(), PromptFile(tmp_path / "p.jsonl"), "model")
    clocks, told = Clocks(monkeypatch), []
    monkeypatch.setattr(job, "write_progress", lambda name, state, last: told.append(state))
    feed = Feed.__new__(Feed)
    feed.job, feed.drawn, feed.presence = job, {"samples": 1}, type("Presence", (), {"name": "0"})()
    feed.begin = feed.reported = time.monotonic()
    clocks.later(7)
    feed.report()
    assert [state["seconds"] for state in told] == [7]


def test_the_speed_of_a_sweep_is_that_of_workers_who_told_something_since(tmp_path: Path, monkeypatch) -> None:
    clocks = Clocks(monkeypatch)
    sweep = SweepConfig(model=ModelConfig(d_model=8, n_layers=1, n_heads=2))
    directory = RunDirectory(tmp_path)
    directory.plan(sweep.trials(), 1, {})
    (stack,) = directory.stacks()
    state = {"stack": stack.id, "fraction": 0.5, "tokens": 4000, "seconds": 2.0, "flops": 2e9, "peak_flops": 1e10}
    directory.write_progress("0", state | {"time": time.time()})
    display = SweepDisplay(directory, [stack], "trials")
    said: list[tuple[str, ...]] = []
    monkeypatch.setattr(display, "say", lambda label, *parts: said.append(parts))
    display.update()
    clocks.later(10)
    directory.write_progress("0", state | {"tokens": 6000, "time": time.time()})
    directory.write_progress("1", {})
    display.update()
    assert said == [("50%", "", "0 s left"), ("50%", "3k tokens/s, MFU 10% of 10 GFLOP/s", "10 s left")]
