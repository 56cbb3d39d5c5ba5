"""Runs of the tiny trial by several real processes under the supervisor, for tests that disturb them."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from launch.preflight import check_trials
from launch.supervisor import Supervisor, newest_steps
from scaling.sweep import run
from scaling.sweep.config import SweepConfig
from scaling.sweep.directory import RunDirectory
from scaling.sweep.trial import Trial
from tests.quick import QUICK_FLAGS
from tests.scaling.sweep import tiny

PATIENCE_S = 240.0  # for what takes seconds on an idle machine
INTERVAL, STEPS = 4, 20
QUICK = {"XLA_FLAGS": QUICK_FLAGS}  # only process 0 finds its programs in the cache


def trial(root: Path, **changes: Any) -> Trial:
    """Two layers of width 16 on a mesh that takes any number of devices: data=2, the rest fsdp."""
    shape = {"model__d_model": 16, "model__n_layers": 2, "model__d_ff": 32, "mesh__data": 2, "mesh__fsdp": -1}
    train = {"train__batch_size": 8, "train__steps": STEPS, "train__log_every": 2, "train__checkpoint_every": INTERVAL}
    return tiny.trial(root, **shape | train | changes)


def planned(workdir: Path, one: Trial) -> Path:
    """A run directory of one trial, as launch.train plans it."""
    directory = RunDirectory(workdir)
    sweep = SweepConfig("ranks", one.model, one.data, one.train, one.mesh, threads=one.threads, workers=1)
    directory.claim(sweep, check_trials(sweep.trials()))
    directory.plan(sweep.trials(), 1, {})
    return workdir


def supervisor(workdir: Path, processes: int = 2, devices: int = 4, limit: str = "", **options: Any) -> Supervisor:
    """Of workers on a directory. limit: shell commands that the processes run first."""
    command = [sys.executable, "-m", "launch.worker", "--workdir", str(workdir)]
    command = ["bash", "-c", f'{limit}; exec "$@"', "limited", *command] if limit else command
    standard = {"heartbeat_s": 10, "saved": lambda: newest_steps(workdir), "base": os.environ | QUICK}
    return Supervisor(command, processes, workdir / "logs", devices, **standard | options)


@contextlib.contextmanager
def running(boss: Supervisor) -> Iterator[Callable[[], int]]:
    """The supervisor at work; yields what waits for its exit code. Nothing of it is left behind."""
    result: list[Any] = []

    def work() -> None:
        try:
            result.append(boss.run())
        except Exception as error:
            result.append(error)
        finally:
            boss.working = False

    def finish() -> int:
        thread.join(PATIENCE_S)
        assert result, f"still running: {logs(boss)}"
        if isinstance(result[0], Exception):
            raise result[0]
        return result[0]

    boss.working = True
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield finish
    finally:
        boss.restarts, boss.stop_signal = 0, boss.stop_signal or 15
        for rank in boss.ranks:
            with contextlib.suppress(ProcessLookupError):
                rank.process.kill()
        thread.join(PATIENCE_S)


def complete(workdir: Path, processes: int = 2, devices: int = 4, **options: Any) -> None:
    """Run a directory to its end."""
    boss = supervisor(workdir, processes, devices, **{"restarts": 0} | options)
    with running(boss) as finish:
        assert finish() == 0, logs(boss)


def complete_here(workdir: Path, devices: int, patch: pytest.MonkeyPatch) -> None:
    """Run a directory to its end in this process, on so many devices."""
    (stack,) = RunDirectory(workdir).stacks()
    patch.setattr(run, "devices_of", lambda trial: jax.devices()[:devices])
    run.run_stack(stack, workdir, "ranks")


def logs(boss: Supervisor) -> str:
    """The ends of all logs."""
    return "\n".join(f"{path.name}: {path.read_text()[-3000:]}" for path in sorted(boss.logs.glob("rank-*.log")))


def wait(boss: Supervisor, condition: Callable[[], Any]) -> Any:
    """Poll until `condition` holds; its value."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and boss.working:
        if found := condition():
            return found
        time.sleep(0.002)
    raise AssertionError(f"waited in vain: {logs(boss)}")


def last_step(workdir: Path, one: Trial) -> int:
    """The step of the last complete row of metrics; 0 when there is none."""
    path = workdir / "trials" / one.id / "metrics.jsonl"
    try:
        return max((row["step"] for row in tiny.metrics(workdir, one)), default=0) if path.exists() else 0
    except ValueError:  # a row is being written
        return 0


def saved_steps(workdir: Path) -> list[int]:
    """Complete checkpoints of the only stack."""
    return sorted(int(path.name) for path in workdir.glob("stacks/*/*") if path.name.isdigit())
