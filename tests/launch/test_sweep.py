"""The whole loop from the command line: plan, run, measure, fit, predict, check; and again, which changes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from scaling.sweep.directory import RunDirectory
from tests.launch import commands
from tests.scaling.sweep import tiny

ISO = """
plan = Isoflop(budgets=(3e8, 6e8, 1.2e9), widths=(8, 12, 16), min_ratio=0.1, max_ratio=1e5, min_steps=20)
return SweepConfig("iso", MODEL, DATA, TRAIN, isoflop=plan, prediction=Prediction(factor=2.0, bootstrap=20), workers=1)
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sweep")
    commands.write_config(root, "iso", ISO)
    return root


@pytest.fixture(scope="module")
def finished(root: Path) -> tuple[Path, Any]:
    done = commands.sweep(root / "iso.py", root / "run")
    assert done.returncode == 0, done.stderr
    return root / "run", done


def test_a_sweep_trains_fits_predicts_and_reports(finished):
    workdir, done = finished
    table = commands.table(workdir)
    assert table["status"] == ["done"] * 10 and sorted(table["split"]) == ["fit"] * 9 + ["heldout"]
    (prediction,) = RunDirectory(workdir).predictions()
    held = table["split"].index("heldout")
    assert prediction["trial"] == table["trial"][held] and prediction["fitted_on"] == 9
    assert prediction["inputs"]["params"] == table["params"][held]
    assert prediction["inputs"]["flops"] == table["flops"][held] == pytest.approx(2.4e9, rel=0.01)
    for budget, flops, split in zip(table["budget"], table["flops"], table["split"], strict=True):
        assert split == "heldout" or abs(flops / budget - 1) <= 0.01
    lines = done.stdout.splitlines()
    assert lines[0] == f"10 trials done, 0 failed: {workdir}/results.parquet"
    assert lines[1].startswith("held-out run at 2.0x the largest fitted compute: predicted ")
    assert f"measured {table['loss'][held]:.4f}: error " in lines[1] and "side the 90% interval" in lines[1]
    assert (workdir / "report.html").exists() and (workdir / "fit.json").exists()


def test_the_prediction_is_on_disk_before_the_run_that_tests_it_starts(finished):
    workdir, _ = finished
    directory = RunDirectory(workdir)
    (prediction,) = directory.predictions()
    (held,) = (stack for stack in directory.stacks() if stack.trials[0].id == prediction["trial"])
    started = (workdir / ".leases" / f"{held.id}.0").stat().st_mtime_ns  # made by the worker that takes the stack
    assert (workdir / "predictions.jsonl").stat().st_mtime_ns < started


def test_a_finished_sweep_run_again_changes_no_file_and_says_the_same(root, finished):
    workdir, first = finished
    before = tiny.hashes(workdir)
    again = commands.sweep(root / "iso.py", workdir)
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert tiny.hashes(workdir) == before


def rewound(finished: tuple[Path, Any], target: Path) -> Path:
    """A copy of the finished directory as it was when the prediction had just been written."""
    shutil.copytree(finished[0], target)
    held = RunDirectory(target).predictions()[0]["trial"]
    for path in (target / "trials" / held).iterdir():
        if path.name != "config.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    entries = json.loads((target / "stacks.json").read_text())
    kept = [entry for entry in entries if entry["trials"][0]["id"] != held]
    assert len(kept) == len(entries) - 1
    (target / "stacks.json").write_text(json.dumps(kept))
    return target


def test_a_sweep_killed_after_its_prediction_keeps_it_and_runs_the_test(root, finished, tmp_path):
    workdir = rewound(finished, tmp_path / "run")
    prediction = (workdir / "predictions.jsonl").read_bytes()
    done = commands.sweep(root / "iso.py", workdir)
    assert done.returncode == 0, done.stderr
    assert (workdir / "predictions.jsonl").read_bytes() == prediction
    assert commands.table(workdir) == commands.table(finished[0])
