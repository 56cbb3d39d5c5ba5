"""Run one command as several processes on this machine; when one dies, start all of them again.

    python -m launch.supervisor --processes 2 --devices_per_process 4 -- train --config configs/tiny.py --workdir runs/x

What stands after `--` is a command of this package (train, sweep or worker; train when left out) and its flags. The
processes go on from the newest checkpoint, so a death costs at most the steps since then. Bad input, a full disk and a
request to stop (SIGTERM or Ctrl-C, passed on so that all save at one step) are final.

Exit codes: those of the command; 75 when it was stopped and saved; 74 when the disk is full; 1 when it kept dying.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

from launch import cli, distributed, environment
from models.errors import ConfigError, nearest, printable, require

COMMANDS = ("train", "sweep", "worker")
FINAL = (0, 1, 2, distributed.DISK_FULL, distributed.SAVED)  # endings that another start would only repeat
POLL_S = 0.05
SETTLE_S = 2.0  # after the first failure: what all processes have to say is said by then, and the rest only hang
LINGER_S = 120.0  # how long processes may outlive one that ended in order
BACK_OFF_S = (1.0, 60.0)  # before the first restart, doubled for each one after it, up to the second
CPU_FLAGS = (
    "--xla_cpu_collective_timeout_seconds=600"  # 30 by default; process 0 may find in the cache what others compile
)
HEALTHY_S = 600.0  # a start that lasted this long makes the earlier deaths forgotten

FLAGS = cli.new_flags()
cli.DEFINE_integer("processes", None, "processes to start", flag_values=FLAGS, required=True)
words = "devices of each: virtual ones on a CPU, else so many of this machine's GPUs; 0: what jax finds"
cli.DEFINE_integer("devices_per_process", 0, words, flag_values=FLAGS)
cli.DEFINE_integer("restarts", 3, "how often all are started again", flag_values=FLAGS)
words = "seconds of silence after which a process that hangs counts as dead"
cli.DEFINE_integer("heartbeat_s", distributed.HEARTBEAT_S, words, flag_values=FLAGS)


@dataclass
class Rank:
    """One process, and where in its log this start begins (bytes)."""

    index: int
    process: subprocess.Popen[bytes]
    log: Path
    offset: int

    def error_line(self) -> str | None:
        """The last line of an error that it has written since it was started."""
        try:
            text = self.log.read_bytes()[self.offset :].decode(errors="replace")
        except OSError:
            return None
        lines = (line.removeprefix("error: ") for line in text.splitlines() if line.startswith("error: "))
        return next(reversed(list(lines)), None)


@dataclass(frozen=True)
class Ending:
    """How one start ended: the exit code that stands for all, and the process it comes from."""

    code: int
    rank: Rank


@dataclass
class Supervisor:
    """Starts `command` as `processes` processes and keeps them together until they are done.

    logs: directory of rank-<i>.log, appended to; process 0 keeps our stdout.
    base: their environment, to which what makes them one run is added.
    saved: what a restart goes on from, in words.
    say: takes a line for whoever watches.
    ranks: the processes of the present start.
    """

    command: Sequence[str]
    processes: int
    logs: Path
    devices_per_process: int = 0
    restarts: int = 3
    heartbeat_s: int = distributed.HEARTBEAT_S
    base: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    saved: Callable[[], str] = lambda: "the last checkpoint"
    say: Callable[[str], None] = lambda line: print(printable(line), file=sys.stderr, flush=True)
    stop_signal: int = 0
    ranks: list[Rank] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, least in (("processes", 1), ("devices_per_process", 0), ("restarts", 0), ("heartbeat_s", 1)):
            value = getattr(self, name)
            require(value >= least, f"--{name}", f"is {value}", f"give {least} or more")

    def run(self) -> int:
        """Until the command has ended for good; its exit code.

        Raises ConfigError for the command's bad input, in its words, and RuntimeError when it kept dying.
        """
        deaths = 0
        while True:
            began = time.monotonic()
            ending = self._once()
            if ending.code == 2:
                raise _bad_input(ending.rank)
            if ending.code in FINAL or self.stop_signal:
                asked = ending.code in FINAL or ending.code != -signal.SIGTERM  # which may come before it can be caught
                return (ending.code if ending.code in FINAL else 1) if asked else distributed.SAVED
            deaths = 1 if time.monotonic() - began > HEALTHY_S else deaths + 1
            what = f"process {ending.rank.index} of {self.processes} {_death(ending.code)}"
            if deaths > self.restarts:
                raise RuntimeError(f"{what} after {self.restarts} restarts: see {ending.rank.log}")
            self.say(f"{what}: restart {deaths} of {self.restarts} of all processes, from {self.saved()}")
            self._pause(min(BACK_OFF_S[0] * 2 ** (deaths - 1), BACK_OFF_S[1]))
            if self.stop_signal:
                return distributed.SAVED

    def stop(self, number: int, frame: FrameType | None = None) -> None:
        """Ask all to save and stop, as a signal handler; the second time they are killed."""
        if self.stop_signal:
            raise KeyboardInterrupt
        self.stop_signal = number

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.stop_signal:
            time.sleep(POLL_S)

    def _once(self) -> Ending:
        """Start all, wait until all have ended or one has failed, and leave none behind."""
        self.logs.mkdir(parents=True, exist_ok=True)
        address = f"127.0.0.1:{_free_port()}"
        ranks: list[Rank] = []
        try:
            for index in range(self.processes):
                ranks.append(self._start(index, address))
            self.ranks = ranks  # all or none, for whoever looks on from another thread
            return self._watch(ranks)
        finally:
            for rank in ranks:
                if rank.process.poll() is None:
                    rank.process.kill()
            for rank in ranks:
                rank.process.wait()

    def _start(self, index: int, address: str) -> Rank:
        log = self.logs / f"rank-{index}.log"
        with open(log, "ab") as out:  # in a session of its own, so that Ctrl-C reaches it only through `stop`
            return Rank(
                index,
                subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=None if index == 0 else out,
                    stderr=out,
                    env=self.rank_environment(index, address),
                    start_new_session=True,
                ),
                log,
                out.tell(),
            )

    def rank_environment(self, index: int, address: str) -> dict[str, str]:
        """The environment of process `index`: which of how many it is, where they meet, and its devices."""
        made = dict(self.base) | {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(self.processes),
            "JAX_PROCESS_ID": str(index),
            distributed.HEARTBEAT_VARIABLE: str(self.heartbeat_s),
            distributed.LAUNCHER_VARIABLE: str(os.getpid()),
        }
        root = str(Path(__file__).resolve().parents[1])
        made["PYTHONPATH"] = os.pathsep.join(filter(None, [root, made.get("PYTHONPATH", "")]))
        devices = range(index * self.devices_per_process, (index + 1) * self.devices_per_process)
        if devices and environment.accelerators(made):
            visible = made.get("CUDA_VISIBLE_DEVICES", "").split(",")
            names = [visible[i] if i < len(visible) and visible[0] else str(i) for i in devices]
            made["CUDA_VISIBLE_DEVICES"] = ",".join(names)
        elif devices:
            made |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(len(devices))}
            made["XLA_FLAGS"] = f"{CPU_FLAGS} {made.get('XLA_FLAGS', '')}".strip()  # of two equal flags the last wins
        return made

    def _watch(self, ranks: list[Rank]) -> Ending:
        passed_on = False
        first_end = first_failure = float("inf")
        failed: Rank | None = None
        while True:
            now, codes = time.monotonic(), [rank.process.poll() for rank in ranks]
            if self.stop_signal and not passed_on:
                passed_on = True
                for rank in ranks:
                    if rank.process.poll() is None:
                        rank.process.send_signal(signal.SIGTERM)
            if any(code is not None for code in codes):
                first_end = min(first_end, now)
            if failed is None:
                failed = next((r for r, code in zip(ranks, codes) if code not in (None, 0, 1, distributed.SAVED)), None)
                first_failure = now if failed else first_failure
            if None not in codes or now > min(first_failure + SETTLE_S, first_end + LINGER_S):
                return _judge(ranks, codes, failed)
            time.sleep(POLL_S)


def _judge(ranks: Sequence[Rank], codes: Sequence[int | None], failed: Rank | None) -> Ending:
    """The ending that says most: bad input, a full disk, the first death; else stopped, failed or done."""
    by_code = {code: rank for rank, code in zip(reversed(ranks), reversed(codes))}
    for code in (2, distributed.DISK_FULL):
        if code in by_code:
            return Ending(code, by_code[code])
    if failed is not None:
        return Ending(failed.process.returncode, failed)
    if None in by_code:
        return Ending(-signal.SIGKILL, by_code[None])  # it outlived the others, and is killed
    code = next(code for code in (distributed.SAVED, 1, 0) if code in by_code)
    return Ending(code, by_code[code])


def _death(code: int) -> str:
    if code >= 0:
        return f"ended with {code}"
    return f"died by {signal.Signals(-code).name}" if -code in list(signal.Signals) else f"died by signal {-code}"


def _bad_input(rank: Rank) -> ConfigError:
    parts = (rank.error_line() or f"process {rank.index}: refused its input: see {rank.log}").split(": ", 2)
    field_, problem, fix = [*parts, "failed", f"see {rank.log}"][:3]
    return ConfigError(field_, problem, fix)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def newest_steps(workdir: Path) -> str:
    """The newest complete step of every stack that a run directory holds the state of, in words."""
    steps: dict[str, int] = {}
    for path in workdir.glob("stacks/*/*"):
        if re.fullmatch(r"\d+", path.name):
            steps[path.parent.name] = max(int(path.name), steps.get(path.parent.name, 0))
    if len(steps) == 1:
        return f"step {next(iter(steps.values()))}"
    return ", ".join(f"step {step} of stack {stack}" for stack, step in sorted(steps.items())) or "the start"


def resolve(arguments: Sequence[str]) -> tuple[list[str], Path]:
    """(the command to start, its --workdir) from what stands after `--`. Raises ConfigError."""
    require(len(arguments) > 0, "--", "nothing stands after it", "write -- train --config FILE --workdir DIR")
    name, *rest = arguments if not arguments[0].startswith("-") else ["train", *arguments]
    guess = nearest(name, COMMANDS)
    fix = f"did you mean {guess}?" if guess else f"choose from {', '.join(COMMANDS)}"
    require(name in COMMANDS, "--", f"{name!r} is no command that several processes run", fix)
    values = [b if a == "--workdir" else a.removeprefix("--workdir=") for a, b in itertools.pairwise([*rest, ""])
              if a == "--workdir" or a.startswith("--workdir=")]  # fmt: skip
    require(any(values), "--workdir", f"is required by launch.{name}", "give --workdir=DIR after --")
    return [sys.executable, "-m", f"launch.{name}", *rest], Path(values[-1])


def main(processes: int, devices_per_process: int, restarts: int, heartbeat_s: int, command: Sequence[str]) -> int:
    argv, workdir = resolve(command)
    supervisor = Supervisor(
        argv, processes, workdir / "logs", devices_per_process, restarts, heartbeat_s,
        saved=lambda: newest_steps(workdir),
    )  # fmt: skip
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.stop)
    code = supervisor.run()
    if supervisor.stop_signal == signal.SIGINT:
        supervisor.say(f"interrupted: finished work is kept: go on with: {shlex.join(sys.orig_argv)}")
        return 130
    if code == distributed.DISK_FULL:
        supervisor.say(f"error: {workdir}: the disk is full; the run is safe at {newest_steps(workdir)}: make room")
    return code


if __name__ == "__main__":
    mark = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    behind, sys.argv = sys.argv[mark + 1 :], sys.argv[:mark]
    cli.run(partial(main, command=behind), FLAGS, __doc__)
