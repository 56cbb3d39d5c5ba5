"""Leases: who works on what in a directory that several hosts see, when any of them may die, hang or be cut off.

    .leases/workers/<id>     who it is, and a counter that it raises every few seconds; locked while it lives
    .leases/<name>.<n>       the n-th holder of `name`; appears in one step (a hard link), so one of many gets it

flock alone is right on one machine only: a network file system may not have it, or keep it on each host by itself. So
a holder counts as gone when the counter stands still for SILENCE_S of the observer's own time awake, whatever any clock
says. On the same machine, flock tells at once that it died. The next holder takes the next number. Whoever was silent
and comes back sees that number and ends on the spot (exit code LOST), before it can write over its successor's work.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from scaling import kept

BEAT_S = 5.0
SILENCE_S = float(os.environ.get("ISOFLOP_LEASE_S", "60"))  # network file systems show a change after 30 s at most
STALL_S = float(os.environ.get("ISOFLOP_STALL_S", "1800"))  # a network file system may be away for minutes
STALL_CPU_S = 1.0  # who computes, compiles or tokenises uses more than this in STALL_S
STALLED = 77  # exit code of a process that did nothing for so long
LOST = 76  # exit code of a process that was silent for so long that another took over
_STATE = 12  # bytes of the second line of a file, which is changed in place: that works on a full disk, too
_WORKER: kept.Shape = {"id": str, "name": str, "host": str, "process": int, "kernel": str, "started": float}
_HELD, _RELEASED, _ENDED = "held", "released", "ended"


@dataclass(frozen=True)
class Worker:
    """What a process says about itself: `count` rises while it lives, and is "ended" after an orderly end."""

    id: str
    name: str
    host: str
    process: int
    kernel: str  # of the running kernel: containers of one machine share it, whatever they call themselves
    started: float  # Unix time, for people
    count: str

    @property
    def ended(self) -> bool:
        """Whether it said so itself."""
        return self.count == _ENDED


class Watch:
    """How long a counter has stood still, in seconds during which this process was awake and looking."""

    def __init__(self) -> None:
        self.count: str | None = None
        self.looks = 0
        self.moved = False  # whether the counter was seen to change
        self.silent_s = 0.0
        self.looked = time.monotonic()

    def look(self, count: str | None) -> float:
        """Seconds without a change, with the newest value seen."""
        now = time.monotonic()
        passed = min(now - self.looked, BEAT_S)  # a stopped observer has seen nothing in between
        self.looked = now
        self.moved |= self.looks > 0 and count != self.count
        self.silent_s = self.silent_s + passed if self.looks and count == self.count else 0.0
        self.count, self.looks = count, self.looks + 1
        return self.silent_s


class Presence:
    """This process among those that work on a directory: what it holds is its own while it runs.

    Use as a context manager. `directory` is `.leases` of a run or job directory.
    stall_s: a process that reports no progress (`progressed`) and uses no CPU for so long ends with STALLED, so that
    its beats mean that it works, and not only that it exists; None: it may be idle.
    """

    def __init__(self, directory: Path, name: str, stall_s: float | None = None):
        self.stall_s, self.moved, self.cpu_s = stall_s, _awake(), time.process_time()
        self.directory, self.name = directory, name
        self.id = f"{name}-{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(3)}".replace("/", "_")
        self.held: dict[str, Path] = {}  # name -> lease file
        self.beats, self.beaten = 0, _awake()
        self._numbers: dict[str, int] = {}  # name -> leases of it that are known to exist
        self._watches: dict[str, Watch] = {}
        self._end = threading.Event()

    def __enter__(self) -> Presence:
        path = self.directory / "workers" / self.id
        path.parent.mkdir(parents=True, exist_ok=True)
        who = Worker(self.id, self.name, os.uname().nodename, os.getpid(), _kernel(), round(time.time(), 3), "0")
        facts = {name: value for name, value in vars(who).items() if name != "count"}
        self._file = open(path, "xb+", buffering=0)
        self._file.write(_content(json.dumps(facts), "0"))
        self._offset = self._file.tell() - _STATE - 1
        with contextlib.suppress(OSError):  # no flock here: the counter alone tells
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        threading.Thread(target=self._beat, name="presence", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None):
        self._end.set()
        for name in list(self.held):
            self.release(name)
        with contextlib.suppress(OSError):
            os.pwrite(self._file.fileno(), _state(_ENDED), self._offset)
        self._file.close()

    def _beat(self) -> None:
        while not self._end.wait(min(BEAT_S, SILENCE_S / 6)):
            self.check()
            self._check_stall()
            self.beats += 1
            with contextlib.suppress(OSError, ValueError):  # closed at this moment, or a file system that is away
                os.pwrite(self._file.fileno(), _state(str(self.beats)), self._offset)
                os.fdatasync(self._file.fileno())  # or other hosts see it half a minute later
                self.beaten = _awake()

    def check(self) -> None:
        """End this process if it was silent for so long that another holds what it held."""
        if _awake() - self.beaten > SILENCE_S / 2 and any(_next(path).exists() for path in self.held.values()):
            print(
                "error: this process was silent for too long: another took over its work", file=sys.stderr, flush=True
            )
            os._exit(LOST)

    def progressed(self) -> None:
        """Say that this process does what it is there for."""
        self.moved, self.cpu_s = _awake(), time.process_time()

    def _check_stall(self) -> None:
        if time.process_time() - self.cpu_s >= STALL_CPU_S:
            self.progressed()
        if self.stall_s is not None and _awake() - self.moved > self.stall_s:
            why = "it waits for a file or a device that does not answer"
            print(f"error: {self.name} did nothing for {self.stall_s:.0f} s: {why}", file=sys.stderr, flush=True)
            os._exit(STALLED)

    # -- leases -----------------------------------------------------------------------------------------------

    def claim(self, name: str) -> bool:
        """Whether `name` is now held by this process, which did not hold it before."""
        path = self._last(name)
        if path is not None:
            holder, released = _read_lease(path)
            if not released and not self._gone(holder):
                return False
        target = self.directory / f"{name}.0" if path is None else _next(path)
        if not kept.create(target, _content(self.id, _HELD), durable=False):
            return False
        self.held[name] = target
        return True

    def release(self, name: str) -> None:
        """Let others have `name`; nothing if it is not held."""
        path = self.held.pop(name, None)
        if path is not None:
            with contextlib.suppress(OSError), open(path, "rb+", buffering=0) as file:
                os.pwrite(file.fileno(), _state(_RELEASED), os.fstat(file.fileno()).st_size - _STATE - 1)

    def holder(self, name: str) -> str:
        """Who holds `name`, in words."""
        path = self._last(name)
        found = read_worker(self.directory / "workers" / _read_lease(path)[0]) if path is not None else None
        return f"process {found.process} on {found.host}" if found else "another process"

    def settled(self, name: str, poll_s: float = 0.5) -> bool:
        """`claim`, after watching the present holder long enough to know whether it still lives."""
        while not self.claim(name):
            path = self._last(name)
            worker = _read_lease(path)[0] if path is not None else ""
            watch, file = self._watches.get(worker), self.directory / "workers" / worker
            found = read_worker(file) if worker else None
            if (found is not None and is_dead(file, found) is False) or (watch is not None and watch.moved):
                return False
            time.sleep(poll_s)
        return True

    def _last(self, name: str) -> Path | None:
        """The newest lease of `name`."""
        number = self._numbers.get(name, 0)
        while (self.directory / f"{name}.{number}").exists():
            number += 1
        self._numbers[name] = number
        return self.directory / f"{name}.{number - 1}" if number else None

    def _gone(self, worker: str) -> bool:
        path = self.directory / "workers" / worker
        found = read_worker(path) if worker else None
        if found is not None and (found.ended or is_dead(path, found)):
            return True
        return self._watches.setdefault(worker, Watch()).look(found.count if found else None) >= SILENCE_S


def read_worker(path: Path) -> Worker | None:
    """What the process with this presence file said last; None when the file is not there or not readable."""
    try:
        first, second, *_ = kept.read_bytes(path).decode().split("\n")
        return Worker(**kept.parsed(first, _WORKER, path), count=second.strip())
    except (OSError, ValueError, TypeError):
        return None


def read_workers(directory: Path) -> list[Worker]:
    """Every process that ever worked on a directory (`.leases` of it), oldest first, by name within a clock tick."""
    found = [read_worker(path) for path in (directory / "workers").glob("*")]
    return sorted((worker for worker in found if worker is not None), key=lambda worker: (worker.started, worker.name))


def is_dead(path: Path, worker: Worker) -> bool | None:
    """Whether a process of this machine is gone, which its lock tells; None for one that ran elsewhere.

    Also None where the file system has no flock: then the counter alone tells.
    """
    if worker.kernel != _kernel():
        return None
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that observers do not see each other
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None


def holders(directory: Path) -> dict[str, str]:
    """Name -> id of the process that holds it, or did when it was last heard of."""
    newest: dict[str, tuple[int, Path]] = {}
    for path in directory.glob("[!.]*.*"):
        name, _, number = path.name.rpartition(".")
        if number.isdigit() and int(number) >= newest.get(name, (-1, path))[0]:
            newest[name] = (int(number), path)
    leases = {name: _read_lease(path) for name, (_, path) in newest.items()}
    return {name: worker for name, (worker, released) in leases.items() if worker and not released}


def _read_lease(path: Path) -> tuple[str, bool]:
    """(worker, whether it was released); ("", False) while it is being written."""
    try:
        first, second, *_ = kept.read_bytes(path).decode().split("\n")
        return first, second.strip() == _RELEASED
    except (OSError, ValueError):
        return "", False


def _next(path: Path) -> Path:
    name, _, number = path.name.rpartition(".")
    return path.with_name(f"{name}.{int(number) + 1}")


def _content(first: str, state: str) -> bytes:
    return f"{first}\n".encode() + _state(state) + b"\n"


def _state(state: str) -> bytes:
    return state.ljust(_STATE).encode()


def _kernel() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return os.uname().nodename


def _awake() -> float:
    """Seconds that go on while the machine sleeps, where the system counts them; no change of the clock moves them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
