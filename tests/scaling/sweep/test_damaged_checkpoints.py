"""When every checkpoint of a stack is damaged, training starts again, says so, and keeps what was damaged."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch.summary import damaged
from scaling.sweep.directory import RunDirectory
from scaling.sweep.run import clear, stack_directory
from scaling.train.checkpoint import AllDamaged, NoCheckpoint
from scaling.train.loop import Training
from tests.scaling.sweep import tiny


@pytest.mark.parametrize("kind", [AllDamaged, NoCheckpoint])
def test_a_run_that_lost_its_checkpoints_says_so_and_a_new_one_does_not(kind, caplog) -> None:
    def restore(abstract):
        raise kind("run/8/manifest.json", "is missing; step 8 was renamed 8.corrupt, and no other was usable", "train")

    programs = SimpleNamespace(abstract=None, initial=lambda *arguments: "new")
    training = SimpleNamespace(
        placement=SimpleNamespace(abstract=lambda state: state), programs=programs, seeds=None, hyper=None,
        directory=Path("run"), _started=lambda state: state,
    )  # fmt: skip
    assert Training._restore(training, SimpleNamespace(restore=restore)) == (0, "new")  # type: ignore[arg-type]
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert bool(said) == (kind is AllDamaged)
    assert all("starts again from step 0: run/8/manifest.json is" in line for line in said)


def test_damaged_checkpoints_of_a_finished_stack_are_kept_and_told_of(tmp_path: Path) -> None:
    stack, directory = tiny.one_stack([tiny.trial(tmp_path)]), RunDirectory(tmp_path / "run")
    home = stack_directory(directory.path, stack)
    for name in ("8", "8.corrupt", "16.corrupt.1"):
        (home / name).mkdir(parents=True)
        (home / name / "manifest.json").write_text(name)
    assert damaged(directory) == []
    clear(directory.path, stack)
    clear(directory.path, stack)
    kept = {path.name: (path / "manifest.json").read_text() for path in (directory.path / "corrupt").iterdir()}
    assert kept == {f"{stack.id}-8": "8.corrupt", f"{stack.id}-16.1": "16.corrupt.1"} and not home.exists()
    (line,) = damaged(directory)
    assert line.startswith("2 damaged checkpoint(s) were set aside, and their steps trained again: ")
