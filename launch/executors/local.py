"""LocalExecutor: workers are processes on this machine, pinned to disjoint CPUs and restarted when they crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from launch.environment import available_cpus, worker_environment
from models.errors import ConfigError, require

DISK_FULL = 74  # launch.worker's exit code for it
RESTARTS = 3  # of one worker that was stopped, died by a signal or an unexpected error


@dataclass
class Worker:
    """One worker process and its log."""

    name: str
    cpus: list[int]
    process: subprocess.Popen[bytes]
    log: Path
    restarts: int = 0


class LocalExecutor:
    """Starts `workers` processes with `threads` CPU threads each on one run directory.

    0 workers: as many as fit; with an `accelerator` that is one, which takes all of its devices.
    """

    def __init__(self, workers: int, threads: int, accelerator: bool = False):
        cpus = available_cpus()
        fitting = 1 if accelerator else max(1, len(cpus) // threads)
        problem = f"{threads} threads per worker, but this machine lends {len(cpus)} CPUs"
        require(threads <= len(cpus), "threads", problem, f"use at most {len(cpus)}")
        self.count, self.threads = workers or fitting, threads
        pinned = self.count * threads <= len(cpus) and not accelerator
        self.shares = [cpus[i * threads : (i + 1) * threads] if pinned else cpus for i in range(self.count)]
        self.workers: list[Worker] = []

    def submit(self, workdir: Path, jobs: int, arguments: list[str] | None = None) -> None:
        """Start the workers, no more than there are `jobs`; each takes stacks of `workdir` until none is left."""
        self.workdir, self.arguments = workdir, arguments or []
        (workdir / "logs").mkdir(parents=True, exist_ok=True)
        for i in range(min(self.count, jobs)):
            log = workdir / "logs" / f"worker-{i}.log"
            self.workers.append(Worker(str(i), self.shares[i], self._start(str(i), self.shares[i], log), log))

    def _start(self, name: str, cpus: list[int], log: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "launch.worker", "--workdir", str(self.workdir), "--name", name]
        command += ["--launcher", str(os.getpid()), *self.arguments]
        environment = worker_environment(self.threads, cpus)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_root()), environment.get("PYTHONPATH", "")]))
        out: IO[bytes]
        with open(log, "ab") as out:  # its own session, so that Ctrl-C reaches it only through cancel()
            return subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)

    def running(self) -> bool:
        """Whether any worker still works; restarts the crashed, raises ConfigError for the worker's bad input."""
        alive = False
        for worker in self.workers:
            code = worker.process.poll()
            if code is None:
                alive = True
            elif code == 2:
                raise _bad_input(worker)
            elif code == DISK_FULL:
                fix = "make room and run the same command again; finished work is kept"
                raise ConfigError(str(self.workdir), "the disk is full", fix)
            elif code != 0:
                if worker.restarts >= RESTARTS:
                    raise RuntimeError(f"worker {worker.name} ended with {code} {RESTARTS + 1} times: see {worker.log}")
                worker.restarts += 1
                worker.process = self._start(worker.name, worker.cpus, worker.log)
                alive = True
        return alive

    def cancel(self) -> None:
        """Ask every worker to save and stop, and wait for it."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGTERM)
        for worker in self.workers:
            worker.process.wait()


def _root() -> Path:
    return Path(__file__).resolve().parents[2]


def _bad_input(worker: Worker) -> ConfigError:
    lines = worker.log.read_text(encoding="utf-8", errors="replace").splitlines()
    messages = (line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: "))
    field, problem, fix = [*next(messages, "worker").split(": ", 2), "failed", f"see {worker.log}"][:3]
    return ConfigError(field, problem, fix)
