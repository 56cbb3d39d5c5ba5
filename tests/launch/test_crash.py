"""Real deaths: `kill -9` of launchers and workers, also within a save, Ctrl-C, and a disk that fills up.

After every one of them the same command goes on, and ends with what an uninterrupted run gives, bit for bit.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.launch import commands

PATIENCE_S = 120.0  # for what takes a second on an idle machine
LONG = """
train = TrainConfig(
    steps=2000, batch_size=4, seq_len=16, learning_rate=0.01, eval_sequences=8, log_every=100, checkpoint_every=100,
    eval_every=500, schedule="wsd", warmup_steps=10,
)
points = chain(
    grid({"model.d_model": [8, 16], "train.steps": [1500, 2000]}),
    grid({"model.d_model": [8], "train.learning_rate": [1e6], "train.steps": [2000]}),
)
return SweepConfig("long", MODEL, DATA, train, points=tuple(points), stack_size=3, workers=2)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("crash")
    commands.write_config(root, "long", LONG)
    return root


def everything(workdir: Path) -> dict[str, Any]:
    return {"table": commands.table(workdir), "metrics": commands.metrics(workdir)}


@pytest.fixture(scope="module")
def expected(root: Path) -> dict[str, Any]:
    """What the sweep gives when nobody disturbs it: two stacks, a branch each, and one trial that fails."""
    done = commands.sweep(root / "long.py", root / "whole")
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("4 trials done, 1 failed: ")
    found = everything(root / "whole")
    assert sorted(found["table"]["status"]) == ["done"] * 4 + ["failed"]
    failed = found["table"]["status"].index("failed")
    trial, error = found["table"]["trial"][failed], found["table"]["error"][failed]
    assert f"  failed {trial}: {error}" in done.stdout.splitlines() and " at step " in error
    assert found["table"]["loss"][failed] is None
    return found


def wait(condition: Callable[[], Any], launcher: subprocess.Popen[str] | None = None) -> Any:
    """Poll until `condition` holds; its value. False when the launcher ended first."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if found := condition():
            return found
        if launcher is not None and launcher.poll() is not None:
            return False
        time.sleep(0.002)
    raise AssertionError("waited in vain")


@contextlib.contextmanager
def running(config: Path, workdir: Path) -> Iterator[subprocess.Popen[str]]:
    """The sweep's launcher; whatever is left of it is killed at the end."""
    launcher = commands.start("sweep", f"--config={config}", f"--workdir={workdir}")
    try:
        yield launcher
    finally:
        launcher.kill()
        launcher.communicate()
        for worker in commands.workers(workdir):
            kill(worker)


def kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def finished(workdir: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in workdir.glob("trials/*/result.json")}


def gone(workdir: Path) -> None:
    """Wait until no worker is left."""
    wait(lambda: not commands.workers(workdir))


def completes(root: Path, workdir: Path, expected: dict[str, Any]) -> None:
    """The same command goes on to the expected table; what was finished stays as it is, and so does the grouping."""
    before, grouping = finished(workdir), (workdir / "stacks.json").read_bytes()
    done = commands.sweep(root / "long.py", workdir)
    assert done.returncode == 1, done.stderr
    after = finished(workdir)
    assert {path: after[path] for path in before} == before
    assert (workdir / "stacks.json").read_bytes() == grouping
    assert everything(workdir) == expected
    assert not list(workdir.glob("stacks/*"))


def checkpoints(workdir: Path) -> list[Path]:
    return list(workdir.glob("stacks/*/[0-9]*"))


@pytest.mark.slow
def test_a_sweep_killed_again_and_again_ends_with_the_same_bits(root, expected, tmp_path):
    draw, workdir = random.Random(0), tmp_path / "run"
    saved: set[Path] = set()
    for victim in ("worker", "saving", "launcher", "all"):
        with running(root / "long.py", workdir) as launcher:
            wait(lambda saved=saved: set(checkpoints(workdir)) - saved, launcher)  # so that every round gets further
            if victim == "saving":
                wait(lambda: list(workdir.glob("stacks/*/*.saving")), launcher)
            else:
                time.sleep(draw.uniform(0, 1))
            workers = commands.workers(workdir)
            if victim == "worker" and workers:  # the launcher starts another
                kill(draw.choice(workers))
                wait(lambda workers=workers: set(commands.workers(workdir)) - set(workers), launcher)
            if victim in ("launcher", "worker"):
                launcher.kill()
                gone(workdir)  # the workers notice, save and stop by themselves
            else:
                for process in (launcher.pid, *workers):
                    kill(process)
        saved = set(checkpoints(workdir))
    completes(root, workdir, expected)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 MB of its own: only a real one is full in all the ways in which a disk is."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system; test_loop.py has a full disk that needs none")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Take all the room there is; the file that takes it."""
    ballast = disk / "ballast"
    with open(ballast, "wb", buffering=0) as f, contextlib.suppress(OSError):
        while f.write(bytes(2**20)) or True:
            pass
    return ballast


@pytest.mark.slow
def test_ctrl_c_lets_the_workers_save_and_a_disk_that_fills_up_afterwards_loses_nothing(root, expected, disk):
    workdir = disk / "run"
    with running(root / "long.py", workdir) as launcher:
        wait(lambda: checkpoints(workdir), launcher)
        launcher.send_signal(signal.SIGINT)
        out, err = launcher.communicate(timeout=PATIENCE_S)
        assert launcher.returncode == 130 and out == ""
        line = f"python -m launch.sweep --config={root}/long.py --workdir={workdir}"
        assert err.endswith(f"interrupted: finished work is kept: go on with: {line}\n")
        assert commands.workers(workdir) == [] and checkpoints(workdir)
        assert not list(workdir.glob("stacks/*/*.saving"))
    with running(root / "long.py", workdir) as launcher:
        wait(lambda: commands.workers(workdir), launcher)
        ballast = fill(disk)
        _, err = launcher.communicate(timeout=PATIENCE_S)
    assert launcher.returncode == 2, err
    last = err.splitlines()[-1]
    assert last.startswith("error: ") and last.count(": ") >= 3 and "room" in last
    ballast.unlink()
    completes(root, workdir, expected)


@pytest.mark.slow
def test_a_worker_that_keeps_dying_ends_the_sweep_with_its_log_named(root, tmp_path):
    workdir = tmp_path / "run"
    with running(root / "long.py", workdir) as launcher:
        while launcher.poll() is None:
            for worker in commands.workers(workdir):
                kill(worker)
            time.sleep(0.05)
        _, err = launcher.communicate()
    assert launcher.returncode == 1
    assert " ended with -9 4 times: see " in err and f"{workdir}/logs/worker-" in err
