"""Executor: where workers run. It starts them on a directory, follows them, restarts those that die, and stops them.

Workers (`python -m launch.worker --workdir DIR`) take their work from the directory themselves, so an executor moves no
data and knows nothing of trials. A new one is one file, a subclass of Executor, and a line in choice.py.
"""

from __future__ import annotations

import abc
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launch import distributed
from models.errors import ConfigError

if TYPE_CHECKING:
    from scaling.sweep import lease

PATIENCE = 3  # deaths of one worker without any progress of the directory in between
START_SILENCES = 10  # times the silence that a running worker may keep: to start Python and to load its model
BACK_OFF_S = (1.0, 60.0)  # before a restart, doubled for each death without progress, up to the second
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Order:
    """What is asked of an executor: workers on a directory.

    workers: at most so many; 0: as many as fit here, or one on a cluster. threads: CPU threads of each.
    devices: accelerators of each; 0: CPUs only, or all that a local worker finds.
    nodes: machines that one worker spans, each with `threads` and `devices` (a trial larger than one machine).
    arguments: more flags for `launch.worker`.
    """

    directory: Path
    workers: int = 0
    threads: int = 1
    devices: int = 0
    nodes: int = 1
    arguments: tuple[str, ...] = ()

    def command(self, name: str) -> list[str]:
        """The command line of the worker with this name."""
        python = [sys.executable, "-m", "launch.worker"]
        return [*python, "--workdir", str(self.directory.resolve()), "--name", name, *self.arguments]

    def log(self, name: str) -> Path:
        """Where the worker with this name writes what it has to say."""
        return self.directory / "logs" / f"worker-{name}.log"


class Executor(abc.ABC):
    """Submit, follow, cancel, collect. What was computed is in the directory; what workers said, in its logs."""

    @abc.abstractmethod
    def check(self, order: Order) -> None:
        """ConfigError when this order cannot be carried out here; starts nothing and writes nothing."""

    @abc.abstractmethod
    def devices(self, order: Order) -> int | None:
        """jax devices that one worker will see, all its machines together; None when only the worker can tell."""

    @abc.abstractmethod
    def submit(self, order: Order, jobs: int) -> None:
        """Start the workers, no more than there are `jobs`. May be called again after `running` became false."""

    @abc.abstractmethod
    def running(self) -> bool:
        """Whether any worker works or waits to start; restarts the dead.

        Raises ConfigError for a worker's bad input or a full disk, RuntimeError when one keeps dying.
        """

    @abc.abstractmethod
    def cancel(self) -> None:
        """Ask every worker to save and stop, and wait until none is left."""

    @abc.abstractmethod
    def kill(self, name: str) -> None:
        """End one worker that does not answer, the hard way; `running` starts it again."""

    @abc.abstractmethod
    def collect(self) -> dict[str, int | None]:
        """Worker -> exit code of its last start; None: it has none yet."""

    def close(self) -> None:  # noqa: B027 most have nothing to give back
        """Give back what the executor itself started."""


class Retries:
    """Which deaths of workers are borne: those after progress always, others PATIENCE times in a row.

    progress: a number that grows with what is on disk.
    """

    def __init__(self, progress: Callable[[], float]):
        self.progress = progress
        self.deaths: dict[str, int] = {}
        self.marks: dict[str, float] = {}

    def pause(self, worker: str, ending: str, log: Path) -> float:
        """Seconds to wait before this worker is started again; RuntimeError when it died too often for nothing."""
        mark = self.progress()
        moved = worker in self.marks and mark > self.marks[worker]
        self.marks[worker] = mark
        self.deaths[worker] = 1 if moved else self.deaths.get(worker, 0) + 1
        deaths = self.deaths[worker]
        if deaths > PATIENCE:
            raise RuntimeError(f"worker {worker} {ending} {deaths} times: see {log}")
        return min(BACK_OFF_S[0] * 2 ** (deaths - 1), BACK_OFF_S[1])


class Pulse:
    """How long the workers of one order have stood still, from the counters that they keep in the directory."""

    def __init__(self, directory: Path):
        self.directory = directory / ".leases" / "workers"
        self.watches: dict[str, lease.Watch] = {}
        self.past: set[str] = set()  # files of processes that are gone

    def started(self, name: str) -> None:
        """The worker with this name starts anew; what it wrote before says nothing any more."""
        from scaling.sweep import lease

        self.watches[name] = lease.Watch()
        self.past |= {path.name for path in self.directory.glob(f"{name}-*")}

    def stands_still(self, name: str, queued: bool = False) -> bool:
        """Whether a worker has stopped counting for longer than a live one can, or never began.

        queued: it may still wait for its turn, so that not having begun says nothing.
        """
        from scaling.sweep import lease

        paths = [path for path in self.directory.glob(f"{name}-*") if path.name not in self.past]
        found = [said for path in paths if (said := lease.read_worker(path)) is not None and not said.ended]
        newest = max(found, key=lambda worker: worker.started, default=None)
        if newest is None:
            return self.watches[name].look(None) > START_SILENCES * lease.SILENCE_S and not queued
        if self.watches[name].look(newest.count) <= lease.SILENCE_S:
            return False
        self.past.add(newest.id)
        return True


def progress_of(directory: Path) -> float:
    """What a directory holds, as one number that grows with work: rows, steps of checkpoints, bytes of samples."""
    rows = sum(1 for _ in directory.glob("trials/*/result.json")) * 1e12
    steps = sum(int(path.name) for path in directory.glob("stacks/*/*") if path.name.isdigit())
    samples = 0
    for path in directory.glob("shards/*.jsonl"):
        try:
            samples += path.stat().st_size
        except FileNotFoundError:  # a partial file has just become final
            continue
    return rows + steps + samples


def refuse(code: int, log: Path, directory: Path) -> None:
    """Raise ConfigError for an exit code that another start would only repeat."""
    if code == 2:
        raise ConfigError(*said(log))
    if code == distributed.DISK_FULL:
        raise ConfigError(str(directory), "the disk is full", "make room and run the same command again")


def said(log: Path) -> tuple[str, str, str]:
    """(field, problem, fix) of the last error line in a worker's log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    found = (line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: "))
    field, problem, fix = [*next(found, "worker").split(": ", 2), "failed", f"see {log}"][:3]
    return field, problem, fix


def ending(code: int) -> str:
    """An exit code in words."""
    from scaling.sweep import lease

    words = {
        distributed.SAVED: "was stopped from outside",
        lease.LOST: "was silent for too long",
        distributed.CRASHED: "crashed",
    }
    return words.get(code, f"ended with {code}")


def importable(environment: Mapping[str, str]) -> str:
    """PYTHONPATH with which a worker finds these packages, wherever it starts."""
    return os.pathsep.join(filter(None, [str(REPOSITORY), environment.get("PYTHONPATH", "")]))


def wait(condition: Callable[[], bool], patience_s: float, poll_s: float = 0.05) -> bool:
    """Poll until `condition` holds or `patience_s` is over; whether it held."""
    end = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(poll_s)
    return True


def one_line(text: str) -> str:
    """The last line of a scheduler's message, without its own prefixes."""
    last = (text.strip().splitlines() or ["no reason given"])[-1]
    return re.sub(r"^(sbatch|srun|scontrol|sinfo|squeue|slurm_\w+): ((error|fatal): )?", "", " ".join(last.split()))
