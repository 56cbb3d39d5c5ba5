"""Several processes of one run: where this one stands among them, how they meet, stop together and end.

    srun --ntasks-per-node=1 python -m launch.train ...                       # SLURM says it all
    python -m launch.train ... --coordinator=10.0.0.1:4321 --processes=2 --process_id=0        # and 1 on the other host
    JAX_COORDINATOR_ADDRESS=10.0.0.1:4321 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=0 python -m launch.train ...
    python -m launch.train ... --cluster=tpu                                  # the same command on every host of a pod
    python -m launch.supervisor --processes 2 -- train ...                    # two on this machine, restarted together

Every process runs the same command. With one process nothing here does anything, and jax is not imported.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn, TypeVar

from absl import flags as absl_flags

from launch import cli
from models.errors import ConfigError, printable, require

HEARTBEAT_S = 100  # jax's own: how long a silent process is waited for before the others abort
START_S = 60  # jax's own is 300
END_S = 60  # how long a process that is done waits for the others
DISK_FULL = 74  # exit code of a process that ran out of disk, whose log may be unable to say so (EX_IOERR)
SAVED = 75  # exit code of a process that was asked to stop and saved its state (EX_TEMPFAIL)
CRASHED = 70  # exit code of one of several processes after an unexpected error; 1: a run failed (EX_SOFTWARE)
HEARTBEAT_VARIABLE = "ISOFLOP_HEARTBEAT_S"
LAUNCHER_VARIABLE = "ISOFLOP_LAUNCHER"  # process id of the one that started this one, to end with it
T = TypeVar("T")
_ADDRESS, _COUNT, _INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")


@dataclass(frozen=True)
class Processes:
    """Where this process stands. coordinator "": jax asks the TPU's own metadata for everything.

    local_devices: the devices of this host that this process uses; None: all that it sees.
    """

    count: int
    index: int
    coordinator: str
    local_devices: tuple[int, ...] | None = None


# -- finding out ----------------------------------------------------------------------------------------------------


def define_flags(flag_values: absl_flags.FlagValues) -> None:
    """The flags of a command that may be one process of several; `main` hands them to `joined`."""
    choices = ["auto", "none", "slurm", "tpu"]
    words = "who says where the other processes of this run are; auto: flags, JAX_ variables, SLURM, then a TPU's"
    cli.DEFINE_enum("cluster", "auto", choices, words, flag_values=flag_values)
    cli.DEFINE_string("coordinator", None, "host:port of process 0", flag_values=flag_values)
    cli.DEFINE_integer(
        "processes", None, "processes of this run, each started with this command", flag_values=flag_values
    )
    cli.DEFINE_integer("process_id", None, "number of this process, from 0", flag_values=flag_values)
    words = f"seconds of silence after which a process counts as dead (default: {HEARTBEAT_S})"
    cli.DEFINE_integer("heartbeat_s", None, words, flag_values=flag_values)


def find(
    cluster: str = "auto",
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Processes | None:
    """This process among those of its run, from flags, JAX_ variables, SLURM or a TPU; None when it is the only one.

    Raises:
      ConfigError: something is missing, no number, or out of range; the message names the flag or the variable.
    """
    flags = {_ADDRESS: coordinator, _COUNT: processes, _INDEX: process_id}
    known = _surroundings(cluster, environment) | {name: str(x) for name, x in flags.items() if x not in (None, "")}
    if _COUNT in known:
        require(_whole(known, _COUNT) >= 1, *_named(_COUNT, f"is {known[_COUNT]}"), "give 1 or more")
    if cluster == "none" or known.get(_COUNT) == "1":
        return None
    if not known:
        return Processes(0, 0, "") if cluster == "tpu" or (cluster == "auto" and _is_pod(environment)) else None
    for name in flags:
        problem = f"is not set, but {', '.join(known)} {'is' if len(known) == 1 else 'are'}"
        require(name in known, *_named(name, problem), "set all three, or --cluster=none for one process alone")
    count, index, address = _whole(known, _COUNT), _whole(known, _INDEX), known[_ADDRESS]
    problem = f"is {index}, but there are {count} processes"
    require(0 <= index < count, *_named(_INDEX, problem), f"give 0 to {count - 1}")
    problem = f"{address!r} is no address"
    require(re.fullmatch(r".+:\d{1,5}", address) is not None, *_named(_ADDRESS, problem), "give host:port of process 0")
    return Processes(count, index, address, _slurm_devices(environment))


def _surroundings(cluster: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What the JAX_ variables say, and where they are silent, SLURM."""
    if cluster not in ("auto", "slurm"):
        return {}
    known = {name: environment[name] for name in (_ADDRESS, _COUNT, _INDEX) if environment.get(name)}
    missing = next((name for name in _SLURM if name not in environment), None)
    if missing and cluster == "slurm":
        raise ConfigError("--cluster", f"is slurm, but {missing} is not set", "start it by srun")
    if missing or (cluster == "auto" and environment["SLURM_STEP_NUM_TASKS"] == "1"):
        return known
    slurm = {_COUNT: environment["SLURM_STEP_NUM_TASKS"], _INDEX: environment["SLURM_PROCID"]}
    return {_ADDRESS: _slurm_address(environment)} | slurm | known


def _named(name: str, problem: str) -> tuple[str, str]:
    """The field and the problem of an error about one of the three."""
    flag = {_ADDRESS: "--coordinator", _COUNT: "--processes", _INDEX: "--process_id"}[name]
    return f"{flag} ({name})", problem


def _whole(known: Mapping[str, str], name: str) -> int:
    require(
        re.fullmatch(r"-?\d+", known[name]) is not None, *_named(name, f"is {known[name]!r}"), "give a whole number"
    )
    return int(known[name])


def _slurm_address(environment: Mapping[str, str]) -> str:
    """The first node of the step, and a port that follows from the job (jax's rule)."""
    first = re.match(r"([^,\[]+)(?:\[(\d+))?", environment["SLURM_STEP_NODELIST"])
    host = "".join(filter(None, first.groups())) if first else ""
    return f"{host}:{int(environment['SLURM_JOB_ID']) % 2**12 + 65535 - 2**12 + 1}"


def _slurm_devices(environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """Where several SLURM tasks share a node, each takes the device of its number there."""
    alone = environment.get("SLURM_STEP_TASKS_PER_NODE", "1").split("(")[0] == "1"
    return None if alone or "SLURM_LOCALID" not in environment else (int(environment["SLURM_LOCALID"]),)


def _is_pod(environment: Mapping[str, str]) -> bool:
    """Whether a TPU's own variables name several hosts."""
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return len(hosts) > 1 or environment.get("MEGASCALE_NUM_SLICES", "1") not in ("", "1")


# -- meeting --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def joined(heartbeat_s: int | None = None, **flags: Any) -> Iterator[StopTogether | None]:
    """Run a command's body as one process of its run (flags: see `find`), or as it is when that is the only one.

    Yields what the loop asks whether to stop, or None with one process.

    A process that fails leaves at once, with its line and exit code: an orderly exit would wait for the others, who
    wait for this one. They end when its silence is noticed, or sooner by whoever started them all.
    """
    found = find(**flags)
    if found is None:
        yield None
        return
    text = os.environ.get(HEARTBEAT_VARIABLE, str(HEARTBEAT_S))
    require(text.isdecimal() and int(text) > 0, HEARTBEAT_VARIABLE, f"is {text!r}", "give seconds")
    silence = int(text) if heartbeat_s is None else heartbeat_s
    require(silence > 0, "--heartbeat_s", f"is {silence}", "give 1 second or more")
    stop = StopTogether()
    _keep_stdout()
    try:
        meet(found, heartbeat_s=silence)
        stop.begin()
        yield stop
        from scaling.train.processes import barrier

        barrier("end")  # process 0 serves the others, so it may not leave before them
    except BaseException as error:
        _leave(error, found)


def is_joined() -> bool:
    """Whether this process is one of several that have met."""
    if "jax" not in sys.modules:
        return False
    import jax

    return jax.distributed.is_initialized()


def on_first(compute: Callable[[], T]) -> T:
    """What `compute` returns in process 0 (JSON), or its error, in every process; a plain call with one process.

    Unlike scaling.train.processes.from_first it does not start a device where there is one process.
    """
    if not is_joined():
        return compute()
    from scaling.train.processes import from_first

    return from_first(compute)


def meet(found: Processes, heartbeat_s: int = HEARTBEAT_S, start_s: int = START_S) -> None:
    """Wait for the other processes, at most `start_s`.

    Raises ConfigError when process 0 cannot be reached; when others stay away, the process ends with one line.
    """
    import jax

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("absl").setLevel(logging.WARNING)  # orbax tells some fifty lines for each save
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    limits: dict[str, Any] = {"heartbeat_timeout_seconds": heartbeat_s, "shutdown_timeout_seconds": END_S}
    if not found.coordinator:
        jax.distributed.initialize(initialization_timeout=start_s, **limits)
        return
    if found.index > 0:
        _reach(found.coordinator, start_s)
    # A client that gives up aborts the process, uncatchable and with a stack trace; this is sooner and says why.
    watch = threading.Timer(start_s, _give_up, (found, start_s))
    watch.daemon = True
    watch.start()
    try:
        jax.distributed.initialize(
            found.coordinator,
            found.count,
            found.index,
            local_device_ids=found.local_devices,
            cluster_detection_method="deactivate",
            initialization_timeout=start_s + 60,
            **limits,
        )
    finally:
        watch.cancel()


def _reach(coordinator: str, start_s: float) -> None:
    """Wait until process 0 listens."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + start_s
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
                return
        except (OSError, OverflowError) as error:
            if time.monotonic() >= end or isinstance(error, OverflowError):
                problem = f"{coordinator} does not answer within {start_s:g} s ({error})"
                raise ConfigError("--coordinator", problem, "start process 0 there, or correct the address") from None
        time.sleep(0.2)


def _give_up(found: Processes, start_s: float) -> None:
    problem = f"not all of the {found.count} processes were there within {start_s:g} s"
    _say(f"error: --processes: {problem}: start every one of them, each with its own --process_id")
    os._exit(2)


def _keep_stdout() -> None:
    """Let native code, which reports on stdout in the middle of lines, write to stderr, and Python to stdout."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(kept, "w", buffering=1)


# -- ending ---------------------------------------------------------------------------------------------------------


def _leave(error: BaseException, found: Processes) -> NoReturn:
    """End this process now, with the line and the exit code of `error`."""
    if isinstance(error, Exception):
        code, line = cli.explain(error)
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        code = DISK_FULL if full or type(error).__name__ == "DiskFull" else code
        if code == 1:
            traceback.print_exception(error)
            code = CRASHED
        _say(f"error: {line}")
    else:
        code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 130
    if found.index == 0:
        time.sleep(1)  # an error that all share is told by all: without process 0 the others would abort
    os._exit(code)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # a full disk takes no more lines
        print(printable(" ".join(line.split())), file=sys.stderr, flush=True)
        sys.stdout.flush()


class StopTogether:
    """Asked by every process at every boundary, it is true in all of them at the same one: soon after any got SIGTERM.

    From the moment that the processes meet, jax's runtime catches SIGTERM. What else asks a process to stop is passed
    on to it: a SIGTERM from before, Ctrl-C, and the end of the process that started this one (LAUNCHER_VARIABLE).
    """

    def __init__(self) -> None:
        self.met = self.early = self.passed_on = self.agreed = False
        self.calls = 0
        self.launcher = int(os.environ.get(LAUNCHER_VARIABLE, "0"))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def begin(self) -> None:
        """The processes have met."""
        self.met = True
        if self.early:
            self._pass_on()

    def __call__(self) -> bool:
        from jax.experimental import multihost_utils

        if self.launcher not in (0, os.getppid()):
            self._pass_on()
        if not self.agreed:
            self.calls += 1  # by one each time: the runtime only recognises the exact number that was agreed
            self.agreed = multihost_utils.reached_preemption_sync_point(self.calls)
        return self.agreed

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.early = True
        if self.met:
            self._pass_on()

    def _pass_on(self) -> None:
        if not self.passed_on:
            self.passed_on = True
            os.kill(os.getpid(), signal.SIGTERM)
