"""SlurmExecutor: workers are the tasks of an sbatch array; what SLURM preempts saves, and is queued again.

The batch script is the whole interface: it starts `launch.worker`, turns SLURM's signals into SIGTERM, and keeps the
exit code in the run directory, since a cluster need not keep accounts. USR1 (a minute before the time limit, and when
SLURM preempts) and TERM mean: save and queue again; USR2 is ours and means: save and end. A job that ends in order in
its grace time counts as completed, so the script asks for the requeue itself, and leaves when SLURM's TERM says that it
was heard. After a plain scancel it does not: the job's state is then no longer RUNNING.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from launch import distributed, environment
from launch.executors.executor import (
    Executor,
    Order,
    Pulse,
    Retries,
    ending,
    importable,
    one_line,
    progress_of,
    refuse,
    wait,
)
from models.errors import ConfigError, nearest, require

POLL_S = 2.0  # between questions to the controller
ANSWER_S = 30.0  # what one question may take
PATIENCE_S = 600.0  # how long a controller may not answer while workers run
STOP_S = 180.0
WARN_S = 60  # before the time limit
VANISHED = -1  # exit code of a task that left the queue and said nothing: its node died, or somebody cancelled it
OVER = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT", "REVOKED")

SCRIPT = """#!/bin/bash
{options}
name=$SLURM_ARRAY_TASK_ID end={logs}/worker-$SLURM_ARRAY_TASK_ID.exit asked=
rm -f "$end"
{exports}
pass_on() {{ {signal}; }}
trap 'asked=again; pass_on' USR1 TERM
trap 'asked=end; pass_on' USR2
{command} &
child=$!
while wait $child; code=$?; [ $code -gt 128 ] && kill -0 $child 2>/dev/null; do :; done
if [ $code = {saved} ] && [ "$asked" = again ] && scontrol show job $SLURM_JOB_ID | grep -q JobState=RUNNING
then trap '' USR1 USR2; trap 'exit $code' TERM; scontrol requeue $SLURM_JOB_ID && {{ sleep 60 & wait; exit $code; }}
fi
echo $code > "$end.partial" && mv "$end.partial" "$end"
exit $code
"""


class SlurmExecutor(Executor):
    """Workers on a SLURM cluster whose nodes see the directory under the same path.

    partition: "" for the cluster's default. more: further options of sbatch, as "--account=x".
    """

    def __init__(self, partition: str = "", more: Sequence[str] = ()):
        self.partition, self.more = partition, list(more)
        self.jobs: dict[str, str] = {}  # worker (the task's number) -> array job
        self.codes: dict[str, int | None] = {}
        self.restart_at: dict[str, float] = {}
        self.asked = self.answered = 0.0
        self.alive: set[str] = set()

    # -- before anything is written ---------------------------------------------------------------------------

    def check(self, order: Order) -> None:
        """ConfigError without SLURM, without its controller, for an unknown partition, and for what sbatch refuses."""
        fix = "run this on a login node of the cluster, or use another --executor"
        require(shutil.which("sbatch") is not None, "--executor", "slurm needs sbatch, which is not in PATH", fix)
        up = "see that the cluster is up: sinfo has to work here"
        try:
            done = _slurm("sinfo", "--noheader", "--format=%R")
        except (OSError, subprocess.TimeoutExpired) as error:
            said = one_line(str(error)) if isinstance(error, OSError) else f"sinfo said nothing for {ANSWER_S:.0f} s"
            problem = f"no SLURM controller answers ({said})"
            raise ConfigError("--executor", problem, up) from None
        require(done.returncode == 0, "--executor", f"no SLURM controller answers ({one_line(done.stderr)})", up)
        known = sorted(set(done.stdout.split()))
        guess = nearest(self.partition, known)
        fix = f"did you mean {guess}?" if guess else f"this cluster has {', '.join(known)}"
        require(not self.partition or self.partition in known, "--partition", f"{self.partition} does not exist", fix)
        test = _slurm("sbatch", "--test-only", *self.options(order), "--wrap=true")
        fix = "ask for less: threads, --devices_per_worker, --nodes_per_worker, or correct --sbatch"
        require(test.returncode == 0, "--sbatch", f"SLURM refuses such workers ({one_line(test.stderr)})", fix)

    def devices(self, order: Order) -> int | None:
        """The accelerators asked for on all nodes of a worker, or its CPU devices."""
        return order.nodes * (order.devices or environment.cpu_devices(os.environ))

    def options(self, order: Order) -> list[str]:
        """What sbatch is told about every worker."""
        return [
            f"--job-name=isoflop-{order.directory.resolve().name}",
            f"--nodes={order.nodes}",
            "--ntasks-per-node=1",
            f"--cpus-per-task={order.threads}",
            *([f"--gpus-per-node={order.devices}"] if order.devices else []),
            *([f"--partition={self.partition}"] if self.partition else []),
            "--requeue",
            "--open-mode=append",
            f"--signal=B:USR1@{WARN_S}",
            *self.more,
        ]

    # -- at work ----------------------------------------------------------------------------------------------

    def submit(self, order: Order, jobs: int) -> None:
        """Queue an array of workers, less those of an earlier launcher that are still queued or run."""
        self.order = order
        self.retries, self.pulse = Retries(partial(progress_of, order.directory)), Pulse(order.directory)
        count = min(order.workers or 1, jobs)
        self.codes, self.jobs, self.restart_at, self.alive = {}, {}, {}, set()
        from scaling import kept

        before = kept.read_or_none(order.directory / "logs" / "slurm.json", {str: str})
        if before is not None:
            self.jobs = before
            self.answered = time.monotonic()
            self._look()
            self.jobs = {name: job for name, job in self.jobs.items() if name in self.alive}
        for name in self.jobs:
            self.codes[name] = None
            self.pulse.started(name)
        names = [str(i) for i in range(count) if str(i) not in self.jobs]
        if names:
            self._queue(names)

    def _queue(self, names: Sequence[str]) -> None:
        logs = self.order.directory.resolve() / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        for name in names:
            (logs / f"worker-{name}.exit").unlink(missing_ok=True)
            self.codes[name] = None
            self.pulse.started(name)
        path = logs / "slurm.sh"
        path.write_text(self.script(), encoding="utf-8")
        done = _slurm("sbatch", "--parsable", f"--array={','.join(names)}", str(path))
        problem = f"SLURM refuses such workers ({one_line(done.stderr)})"
        require(done.returncode == 0, "--sbatch", problem, "see sinfo, or correct --partition and --sbatch")
        self.jobs |= dict.fromkeys(names, done.stdout.split(";")[0].strip())
        self.alive |= set(names)
        from scaling.kept import write_atomically

        write_atomically(logs / "slurm.json", json.dumps(self.jobs))
        self.answered = time.monotonic()

    def script(self) -> str:
        """The batch script of every worker of this order."""
        order, logs = self.order, self.order.directory.resolve() / "logs"
        made = environment.worker_environment(order.threads, None)
        made["PYTHONPATH"] = importable(made)
        changed = {name: made[name] for name in made if environment.os.environ.get(name) != made[name]}
        several = order.nodes > 1
        command = shlex.join(order.command("NAME")).replace("--name NAME", '--name "$name"')
        before = f"srun --ntasks={order.nodes} --ntasks-per-node=1 --kill-on-bad-exit=1 " if several else ""
        options = [*self.options(order), f"--chdir={Path.cwd()}", f"--output={logs}/worker-%a.log"]
        return SCRIPT.format(
            options="\n".join(f"#SBATCH {option}" for option in options),
            logs=shlex.quote(str(logs)),
            exports="\n".join(f"export {name}={shlex.quote(value)}" for name, value in sorted(changed.items())),
            signal="scancel --signal=TERM $SLURM_JOB_ID" if several else "kill -TERM $child 2>/dev/null",
            command=before + command,
            saved=distributed.SAVED,
        )

    def running(self) -> bool:
        """Whether a worker is queued or runs; queues those again that died."""
        if time.monotonic() - self.asked < POLL_S:
            return bool(self.alive or self.restart_at)
        self.asked = time.monotonic()
        self._look()
        for name in list(self.jobs):
            code = self.codes[name]
            if name in self.alive:
                if self.pulse.stands_still(name):
                    self.kill(name)
            elif name in self.restart_at:
                if time.monotonic() >= self.restart_at[name]:
                    del self.restart_at[name]
                    self._queue([name])
            elif code:
                refuse(code, self.order.log(name), self.order.directory)
                said = "left the queue" if code == VANISHED else ending(code)
                self.restart_at[name] = time.monotonic() + self.retries.pause(name, said, self.order.log(name))
        return bool(self.alive or self.restart_at)

    def _look(self) -> None:
        """Ask which tasks are queued or run, and read the exit codes of the others."""
        ids = sorted(set(self.jobs.values()))
        try:
            done = _slurm(
                "squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(ids)}", "--format=%F %K %T"
            )
            known = done.returncode == 0 or "Invalid job id" in done.stderr  # those it has forgotten
        except (OSError, subprocess.TimeoutExpired):
            known = False
        if not known:
            patience = f"SLURM has not answered for {PATIENCE_S:.0f} s; the workers may still run"
            if time.monotonic() - self.answered > PATIENCE_S:
                raise RuntimeError(patience)
            return
        self.answered = time.monotonic()
        lines = [line.split() for line in done.stdout.splitlines()]
        live = {(job, task): state for job, task, state in lines if state not in OVER}
        for name, job in self.jobs.items():
            if (job, name) in live:
                self.alive.add(name)
                if live[job, name] != "RUNNING":
                    self.pulse.started(name)  # queued again: what it did before says nothing
            elif name in self.alive:
                self.alive.discard(name)
                self.codes[name] = self._exit_code(name)

    def _exit_code(self, name: str) -> int:
        path = self.order.directory / "logs" / f"worker-{name}.exit"
        wait(path.exists, 1.0)  # the controller may know before the file system shows it
        text = path.read_text(encoding="ascii").strip() if path.is_file() else ""
        return int(text) if re.fullmatch(r"\d+", text) else VANISHED

    def kill(self, name: str) -> None:
        """End a task that does not answer."""
        _slurm("scancel", "--full", "--signal=KILL", f"{self.jobs[name]}_{name}")

    def cancel(self) -> None:
        """Take back what waits, let the others save, and wait for them; what stays after STOP_S is killed by SLURM."""
        self.restart_at.clear()
        ids = sorted(set(self.jobs.values()))
        if not ids:
            return
        _slurm("scancel", "--state=PENDING", *ids)
        _slurm("scancel", "--batch", "--signal=USR2", *ids)

        def over() -> bool:
            self._look()
            return not self.alive

        if not wait(over, STOP_S, 0.5):
            _slurm("scancel", *ids)
            wait(over, STOP_S, 0.5)

    def collect(self) -> dict[str, int | None]:
        """Worker -> exit code; -1: it left the queue without one."""
        return dict(self.codes)


def _slurm(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S)
