"""LocalExecutor: workers are processes on this machine, each with CPUs or accelerators of its own.

One that dies is started again; one that stands still (its counter in the directory does not move) is killed before.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from launch import environment
from launch.executors.executor import Executor, Order, Pulse, Retries, ending, importable, progress_of, refuse
from models.errors import require

STOP_S = 120.0  # what workers may take to save when they are cancelled


@dataclass
class Worker:
    """One worker: its share of the machine, its process, and what was seen of its counter."""

    name: str
    cpus: list[int]
    devices: tuple[str, ...]
    process: subprocess.Popen[bytes]
    log: Path
    restart_at: float = 0.0  # monotonic; 0: it is not waiting


class LocalExecutor(Executor):
    """Workers of this machine. 0 of them: as many as fit; with accelerators one for each group of `devices`."""

    def __init__(self) -> None:
        self.workers: list[Worker] = []

    def check(self, order: Order) -> None:
        """ConfigError when there are fewer CPUs than threads, or fewer accelerators than a worker is to have."""
        cpus = environment.available_cpus()
        problem = f"{order.threads} threads per worker, but this machine lends {len(cpus)} CPUs"
        require(order.threads <= len(cpus), "threads", problem, f"use at most {len(cpus)}")
        found = len(visible_gpus(os.environ)) if environment.accelerators() else 0
        problem = f"is {order.devices}, but this machine has {found}"
        require(not order.devices or order.devices <= found, "--devices_per_worker", problem, f"give at most {found}")

    def devices(self, order: Order) -> int | None:
        """GPUs of a worker's own, or the CPU devices that jax is told to make."""
        if environment.accelerators():
            return order.devices or len(visible_gpus(os.environ)) or None
        return environment.cpu_devices(os.environ)

    def submit(self, order: Order, jobs: int) -> None:
        """Start the workers; each takes work from the directory until none is left."""
        self.order, self.workers = order, []
        self.retries, self.pulse = Retries(partial(progress_of, order.directory)), Pulse(order.directory)
        (order.directory / "logs").mkdir(parents=True, exist_ok=True)
        for i, (cpus, devices) in enumerate(shares(order, environment.accelerators())[:jobs]):
            process = self._start(str(i), cpus, devices)
            self.workers.append(Worker(str(i), cpus, devices, process, order.log(str(i))))

    def _start(self, name: str, cpus: list[int], devices: tuple[str, ...]) -> subprocess.Popen[bytes]:
        self.pulse.started(name)
        made = environment.worker_environment(self.order.threads, cpus)
        made["PYTHONPATH"] = importable(made)
        if devices:
            made["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        command = [*self.order.command(name), "--launcher", str(os.getpid())]
        out: IO[bytes]
        with open(
            self.order.log(name), "ab"
        ) as out:  # its own session, so that Ctrl-C reaches it only through cancel()
            return subprocess.Popen(command, stdout=out, stderr=out, env=made, start_new_session=True)

    def running(self) -> bool:
        """Whether any worker still works; restarts the dead and kills what hangs."""
        alive = False
        for worker in self.workers:
            code = worker.process.poll()
            if code == 0:
                continue
            alive = True
            if code is None:
                if self.pulse.stands_still(worker.name):
                    self.kill(worker.name)
            elif not worker.restart_at:
                refuse(code, worker.log, self.order.directory)
                worker.restart_at = time.monotonic() + self.retries.pause(worker.name, ending(code), worker.log)
            elif time.monotonic() >= worker.restart_at:
                worker.restart_at = 0.0
                worker.process = self._start(worker.name, worker.cpus, worker.devices)
        return alive

    def kill(self, name: str) -> None:
        """SIGKILL to one worker."""
        for worker in self.workers:
            if worker.name == name:
                worker.process.kill()
                worker.process.wait()

    def cancel(self) -> None:
        """Ask every worker to save and stop, and wait for it; what does not stop within STOP_S is killed."""
        for worker in self.workers:
            worker.restart_at = 0.0
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + STOP_S
        for worker in self.workers:
            try:
                worker.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()

    def collect(self) -> dict[str, int | None]:
        """Worker -> exit code; negative: the signal that it died by."""
        return {worker.name: worker.process.poll() for worker in self.workers}


def shares(order: Order, accelerator: bool) -> list[tuple[list[int], tuple[str, ...]]]:
    """(CPUs, GPUs) of every worker that an order starts on this machine.

    Without accelerators each worker has `threads` CPUs of its own, or all share all where there are not enough. With
    `devices` given, each has so many GPUs of its own; else one worker takes every accelerator, as jax finds them.
    """
    cpus = environment.available_cpus()
    if accelerator:
        gpus = visible_gpus(os.environ) if order.devices else []
        groups = [tuple(gpus[i : i + order.devices]) for i in range(0, len(gpus), order.devices or 1)]
        groups = [group for group in groups if len(group) == order.devices] if order.devices else [()]
        return [(cpus, group) for group in groups[: order.workers or None]]
    count = order.workers or max(1, len(cpus) // order.threads)
    pinned = count * order.threads <= len(cpus)
    return [(cpus[i * order.threads : (i + 1) * order.threads] if pinned else cpus, ()) for i in range(count)]


def visible_gpus(variables: Mapping[str, str]) -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes."""
    given = variables.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name.strip()]
    found = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    return sorted(found, key=int)
