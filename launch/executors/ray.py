"""RayExecutor: workers are tasks of a Ray cluster, one that exists or one started on this machine.

A task starts `launch.worker` as a process of its own, so that threads and jax are as anywhere else (Ray sets one thread
for its own workers), and ends it when Ray cancels the task. Retries are ours, not Ray's: they know what is user error.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from launch import environment
from launch.executors.executor import REPOSITORY, Executor, Order, Pulse, Retries, ending, progress_of, refuse
from models.errors import ConfigError, require

KILLED = -9  # exit code of a task that Ray lost: its process or its node died
STOP_S = 120.0
ANSWER_S = 5.0  # what a head may take to accept a connection
ATTEMPTS = 3  # to start a cluster here
PASSED_ON = ("JAX_", "XLA_", "ISOFLOP_", "XDG_CACHE_HOME")  # variables of the launcher that a worker elsewhere needs


class RayExecutor(Executor):
    """Workers on a Ray cluster whose nodes see the directory under the same path.

    address: of the cluster's head, "auto" for the one this machine belongs to; "": one is started here, and stopped.
    """

    def __init__(self, address: str = ""):
        import ray

        self.ray, self.address, self.ours = ray, address, False
        self.tasks: dict[str, Any] = {}  # worker -> the reference of its task
        self.codes: dict[str, int | None] = {}
        self.restart_at: dict[str, float] = {}

    def check(self, order: Order) -> None:
        """ConfigError when no cluster answers, or no node has what one worker needs."""
        self._join()
        require(order.nodes == 1, "--nodes_per_worker", "is for SLURM", "use one node, or --executor=slurm")
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        most = int(max(node.get("CPU", 0) for node in nodes))
        problem = f"{order.threads} threads per worker, but no node of the cluster has more than {most} CPUs"
        require(order.threads <= most, "threads", problem, f"use at most {most}")
        fitting = [node for node in nodes if node.get("CPU", 0) >= order.threads]
        gpus = int(max(node.get("GPU", 0) for node in fitting))
        problem = f"is {order.devices}, but no node of the cluster has more than {gpus}"
        require(order.devices <= gpus, "--devices_per_worker", problem, f"give at most {gpus}")

    def _join(self) -> None:
        """Meet the cluster, or start one with the CPUs of this machine."""
        if self.ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        settings: dict[str, Any] = {
            "logging_level": logging.ERROR,
            "log_to_driver": False,
            "runtime_env": {"env_vars": {"PYTHONPATH": str(REPOSITORY)}},
        }
        if not self.address:
            os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # else it writes a token into the home directory
            cpus = len(environment.available_cpus())
            for attempt in range(ATTEMPTS):
                try:
                    self.ray.init(num_cpus=cpus, include_dashboard=False, **settings)
                    break
                except Exception as error:  # a bare Exception after 30 s, which a busy machine may need
                    if "timed out" not in str(error) or attempt == ATTEMPTS - 1:
                        raise
            self.ours = True
            return
        try:
            check_port(self.address)
            self.ray.init(address=self.address, **settings)
        except (OSError, RuntimeError, ValueError) as error:
            problem = f"no Ray cluster answers at {self.address!r} ({str(error).splitlines()[0][:120]})"
            raise ConfigError("--ray_address", problem, "start one with `ray start --head`, or leave it out") from None

    def devices(self, order: Order) -> int | None:
        """The GPUs asked for, or the CPU devices that jax is told to make."""
        return order.devices or environment.cpu_devices(os.environ)

    def submit(self, order: Order, jobs: int) -> None:
        """Start the workers as tasks, spread over the nodes."""
        self._join()
        self.order = order
        self.retries, self.pulse = Retries(partial(progress_of, order.directory)), Pulse(order.directory)
        (order.directory / "logs").mkdir(parents=True, exist_ok=True)
        self.task = self.ray.remote(
            num_cpus=order.threads, num_gpus=order.devices, max_retries=0, scheduling_strategy="SPREAD"
        )(run_worker)
        self.tasks, self.codes, self.restart_at = {}, {}, {}
        for i in range(min(order.workers or self._fitting(order), jobs)):
            self._start(str(i))

    def _fitting(self, order: Order) -> int:
        """Workers that the cluster has room for."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        each = {"CPU": order.threads, "GPU": order.devices}
        room = [min(node.get(kind, 0) // need for kind, need in each.items() if need) for node in nodes]
        return max(1, int(sum(room)))

    def _start(self, name: str) -> None:
        self.pulse.started(name)
        variables = {key: value for key, value in os.environ.items() if key.startswith(PASSED_ON)}
        log, command = str(self.order.log(name).resolve()), self.order.command(name)
        self.tasks[name] = self.task.remote(command, self.order.threads, variables, log, str(Path.cwd()))
        self.codes[name] = None

    def running(self) -> bool:
        """Whether any task runs or waits; starts those again that died."""
        done, _ = (
            self.ray.wait(list(self.tasks.values()), num_returns=len(self.tasks), timeout=0) if self.tasks else ([], [])
        )
        for name, task in list(self.tasks.items()):
            if task not in done:
                if self.pulse.stands_still(name, queued=True):
                    self.kill(name)
                continue
            del self.tasks[name]
            code = self.codes[name] = self._code(task)
            if code:
                refuse(code, self.order.log(name), self.order.directory)
                self.restart_at[name] = time.monotonic() + self.retries.pause(name, ending(code), self.order.log(name))
        for name, at in list(self.restart_at.items()):
            if time.monotonic() >= at:
                del self.restart_at[name]
                self._start(name)
        return bool(self.tasks or self.restart_at)

    def _code(self, task: Any) -> int:
        try:
            return int(self.ray.get(task))
        except self.ray.exceptions.RayError:
            return KILLED

    def kill(self, name: str) -> None:
        """Let Ray kill the process that waits for a worker that does not answer."""
        self.ray.cancel(self.tasks[name], force=True)

    def cancel(self) -> None:
        """Ask every worker to save and stop, and wait for it; what stays after STOP_S is killed."""
        self.restart_at.clear()
        tasks = list(self.tasks.values())
        for task in tasks:
            self.ray.cancel(task, force=False)
        _, left = self.ray.wait(tasks, num_returns=len(tasks), timeout=STOP_S) if tasks else ([], [])
        for task in left:
            self.ray.cancel(task, force=True)

    def collect(self) -> dict[str, int | None]:
        """Worker -> exit code; -9: Ray lost it."""
        return dict(self.codes)

    def close(self) -> None:
        """Leave the cluster; one that was started here is stopped."""
        if self.ours or (self.address and self.ray.is_initialized()):
            self.ray.shutdown()
            self.ours = False


def check_port(address: str) -> None:
    """OSError unless somebody listens at host:port; Ray itself would try for minutes. Other addresses are left to it.

    ValueError for a port that is no number.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_S):
            pass


def run_worker(
    command: Sequence[str], threads: int, variables: Mapping[str, str], log: str, folder: str
) -> int:  # pragma: no cover - runs inside Ray
    """The task: start a worker, wait for it, and take it along when the task is cancelled; its exit code."""
    base = dict(os.environ) | dict(variables)  # Ray's own CUDA_VISIBLE_DEVICES stays
    made = environment.worker_environment(threads, None, base)
    made["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), made.get("PYTHONPATH", "")]))
    with open(log, "ab") as out:
        process = subprocess.Popen(
            [*command, "--launcher", str(os.getpid())],
            stdout=out,
            stderr=out,
            env=made,
            cwd=folder,
            start_new_session=True,
        )
    try:
        return process.wait()
    except BaseException:
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise
