"""One model from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.launch import commands
from tests.scaling.sweep import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("train")
    commands.write_config(root, "one", "return Trial(MODEL, DATA, TRAIN)")
    return root


@pytest.fixture(scope="module")
def trained(root: Path) -> Path:
    done = commands.run("train", f"--config={root}/one.py", f"--workdir={root}/run", "--config.train.steps=13")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"1 trials done, 0 failed: {root}/run/results.parquet")
    return root / "run"


def test_a_trial_leaves_its_row_its_metrics_its_config_and_its_parameters(root, trained):
    table = commands.table(trained)
    (trial,) = table["trial"]
    assert table["steps"] == [13] and table["tokens"] == [13 * 4 * 16] and table["status"] == ["done"]
    folder = trained / "trials" / trial
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [10, 13]
    assert {path.name for path in folder.iterdir()} >= {"config.json", "result.json", "checkpoints", "tensorboard"}
    assert tiny.params(trained, tiny.trial(root, train__steps=13))


def test_the_config_that_a_trial_left_gives_the_same_trial_with_the_same_bits(root, trained):
    (trial,) = commands.table(trained)["trial"]
    config = trained / "trials" / trial / "config.json"
    done = commands.run("train", f"--config={config}", f"--workdir={root}/again")
    assert done.returncode == 0, done.stderr
    assert commands.table(root / "again") == commands.table(trained)
