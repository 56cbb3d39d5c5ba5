"""A run on a mesh from the command line: it trains, saves, and goes on elsewhere with the batches it would have had."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.launch import commands

pytestmark = pytest.mark.slow
ENVIRONMENT = commands.environment() | {"JAX_NUM_CPU_DEVICES": "8"}
STEPS = 150


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sharded")
    body = """
    from models.channels.experts import Experts
    experts = Experts(experts=4, top_k=2, d_ff=8, capacity_factor=2.0)
    model = dataclasses.replace(MODEL, n_layers=2, scan_layers=True, moe=experts)
    train = dataclasses.replace(TRAIN, steps=STEPS, batch_size=8, log_every=1, learning_rate=0.003, microbatches=4)
    return Trial(model, DATA, train)
    """
    commands.write_config(root, "one", body.replace("STEPS", str(STEPS)))
    path = root / "one.py"
    path.write_text(path.read_text().replace("from models.config", "import dataclasses\n\nfrom models.config", 1))
    return root


def arguments(root: Path, workdir: str, mesh: str) -> list[str]:
    overrides = [f"--config.mesh.{axis}" for axis in mesh.split(",") if axis]
    return [f"--config={root}/one.py", f"--workdir={root}/{workdir}", *overrides]


def train(root: Path, workdir: str, mesh: str = "") -> Path:
    done = commands.run("train", *arguments(root, workdir, mesh), env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr + log(root / workdir)
    return root / workdir


def log(workdir: Path) -> str:
    return "".join(path.read_text() for path in workdir.glob("logs/*.log"))


def rows(workdir: Path) -> dict[int, dict[str, Any]]:
    """The training rows of metrics.jsonl by step."""
    (path,) = workdir.glob("trials/*/metrics.jsonl")
    return {row["step"]: row for row in map(json.loads, path.read_text().splitlines()) if "loss" in row}


@pytest.fixture(scope="module")
def alone(root: Path) -> dict[int, dict[str, Any]]:
    """The run on one device, uninterrupted."""
    return rows(train(root, "alone"))


def interrupted(root: Path, workdir: str, mesh: str) -> list[int]:
    """Start a run, stop it once it has saved a step, and say which steps there are."""
    process = commands.start("train", *arguments(root, workdir, mesh), env=ENVIRONMENT)
    saved: list[Path] = []
    while process.poll() is None and not saved:
        saved = list((root / workdir).glob("stacks/*/[0-9]*"))
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate()
    return sorted(int(path.name) for path in (root / workdir).glob("stacks/*/[0-9]*") if path.name.isdigit())


def test_a_run_goes_on_on_other_meshes_with_the_same_batches(root: Path, alone: Any) -> None:
    steps = interrupted(root, "moved", "fsdp=2,stage=2")
    assert steps and max(steps) < STEPS, log(root / "moved")
    moved = rows(train(root, "moved", "expert=4,data=2"))
    assert moved.keys() == alone.keys() == set(range(1, STEPS + 1))
    # Another batch would be off by whole tenths at once; rounding alone grows with the steps.
    for step, row in alone.items():
        assert moved[step]["loss"] == pytest.approx(row["loss"], rel=1e-4 if step <= 20 else 2e-2), step
        assert moved[step]["dropped_share"] == 0
    (trial,) = commands.table(root / "moved")["trial"]
    assert [trial] == commands.table(root / "alone")["trial"]
    config = json.loads((root / "moved" / "trials" / trial / "config.json").read_text())
    assert (config["mesh"]["expert"], config["mesh"]["fsdp"], config["mesh"]["stage"]) == (4, 1, 1)


def test_more_devices_than_there_are_are_refused_on_one_line(root: Path) -> None:
    done = commands.run("train", *arguments(root, "many", "data=16"), "--config.train.batch_size=64", env=ENVIRONMENT)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: mesh: data=16 does not make 8 devices: choose axes whose product is 8")
    assert done.stderr.count("\n") == 1


def test_a_mesh_that_cannot_train_the_model_is_refused_before_anything_is_written(root: Path) -> None:
    done = commands.run("train", *arguments(root, "bad", "stage=3"), env=ENVIRONMENT)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: mesh.stage: 3 stages for 2 layers: use at most 2\n"
    assert not (root / "bad" / "config.json").exists()
