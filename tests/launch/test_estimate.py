"""What --dry_run says: exact work, the order that workers would take it in, and nothing written."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from launch.estimate import COMPILE_S, TRIAL_S, estimate, print_estimate
from launch.executors.choice import Options
from models.errors import ConfigError
from scaling.sweep.combinators import grid
from scaling.sweep.config import SweepConfig
from scaling.sweep.directory import RunDirectory
from scaling.sweep.results import COLUMNS
from scaling.sweep.stack import make_stacks
from tests.scaling.sweep import tiny

POINTS = tuple(grid({"model.d_model": [8, 16], "train.steps": [100, 200, 400]}))
SWEEP = SweepConfig("cost", tiny.MODEL, train=tiny.TRAIN, points=POINTS, stack_size=1, workers=2)


def test_the_estimate_counts_exactly_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = estimate(SWEEP, tmp_path / "run", Options())
    assert (found.trials, found.finished, len(found.seconds), found.workers) == (6, 0, 6, 2)
    assert found.flops == sum(trial.flops for trial in SWEEP.trials())
    assert sum(found.seconds) / 2 <= found.soonest_s <= found.ends_s
    steps = sum(stack.work for stack in make_stacks(SWEEP.trials(), 1)) / found.speed
    shapes, books = 2 * sum(COMPILE_S), 6 * TRIAL_S  # two widths of one layer, six trials
    assert sum(found.seconds) == pytest.approx(steps + shapes + books)
    assert print_estimate(SWEEP, tmp_path / "run", Options()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["trials", "FLOPs", "speed", "device-hours", "ends", "disk"]
    assert lines[0] == "trials        6, in 6 stacks" and not (tmp_path / "run").exists()


def test_finished_trials_are_not_counted_and_give_the_speed(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.claim(SWEEP, {"": {"digest": "digest"}})
    first = SWEEP.trials()[0]
    row = {"trial": first.id, "status": "done", "wall_s": 2.0, "flops": first.flops, "params": 1, "seed": 0}
    directory.results.add(dict.fromkeys(COLUMNS) | row)
    found = estimate(SWEEP, tmp_path, Options())
    assert found.finished == 1 and len(found.seconds) == 5 and found.source == "measured on 1 finished trial"
    assert found.speed > first.flops / 2.0
    with pytest.raises(ConfigError, match="belongs to another sweep"):
        estimate(SweepConfig("other"), tmp_path, Options())


def test_thousands_of_tiny_trials_cost_what_their_books_take(tmp_path: Path) -> None:
    points = tuple(grid({"train.seed": list(range(300))}))
    sweep = SweepConfig("many", tiny.MODEL, train=dataclasses.replace(tiny.TRAIN, steps=10), points=points, workers=2)
    found = estimate(sweep, tmp_path / "run", Options())
    assert 300 * 0.05 < sum(found.seconds) < 300 * 0.25  # 0.054 to 0.074 s each in benchmarks/sweep_overhead.py
    assert found.ends_s > sum(found.seconds) / 2
