"""Run an untrusted Python program with nothing but its input, and take what it prints. Without a sandbox, refuse."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import math
import os
import selectors
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, get_args

from models.errors import ConfigError, require

Level = Literal["bubblewrap+landlock+seccomp", "landlock+seccomp"]
Reason = Literal["exit", "time", "output"]
_PREFIX = "sandbox-"
_CONFINE = Path(__file__).with_name("confine.py")
_START = 60.0  # seconds in which a busy machine must have set a sandbox up
_FIX = "use Linux 5.13 or newer on x86_64 or aarch64, with Landlock and seccomp"


@dataclass(frozen=True)
class Allowance:
    """What a program may use."""

    seconds: float = 5.0  # of wall clock; processor time is bounded by it, too
    memory: int = 512 * 2**20  # bytes of address space
    output: int = 64 * 2**10  # bytes on standard output

    def __post_init__(self) -> None:
        for name in ("seconds", "memory", "output"):
            require(getattr(self, name) > 0, f"limits.{name}", f"is {getattr(self, name)}", "give a positive number")


@dataclass(frozen=True)
class Outcome:
    """What a program did: what it printed, why it ended, its exit code (no verdict: a program can choose it)."""

    output: bytes
    reason: Reason
    code: int
    level: Level
    seconds: float


class NotConfined(RuntimeError):
    """The sandbox could not be set up, so the program was not started."""


def run(program: str, given: bytes = b"", limits: Allowance | None = None, level: Level | None = None) -> Outcome:
    """Run a Python program with `given` on its standard input.

    It can read its own text and the interpreter's files, and print; it has no environment, no network, no other file,
    no process but itself. level: None takes the best that this machine has.

    Raises:
      ConfigError: this machine has no sandbox of that level. NotConfined: it failed this time.
    """
    level = best_level() if level is None else level
    require(level in get_args(Level), "sandbox.level", f"is {level!r}", f"use one of {', '.join(get_args(Level))}")
    if level not in levels():
        raise ConfigError("sandbox", f"this machine has no {level}", _FIX)
    return _run(program, given, limits or Allowance(), level)


def best_level() -> Level:
    """The strongest sandbox of this machine.

    Raises:
      ConfigError: it has none; programs are then not run at all.
    """
    if not levels():
        raise ConfigError("sandbox", "this machine cannot confine a program, so none is run", _FIX)
    return levels()[0]


@functools.cache
def levels() -> tuple[Level, ...]:
    """The sandboxes that work here, the strongest first: each has been tried."""
    return tuple(level for level in get_args(Level) if _works(level))


def _works(level: Level) -> bool:
    try:
        outcome = _run("print(6 * 7)", b"", Allowance(seconds=30), level)
    except (NotConfined, OSError):
        return False
    return outcome.output == b"42\n"


def _run(program: str, given: bytes, limits: Allowance, level: Level) -> Outcome:
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_scratch())
        path = os.path.join(folder, "program.py")
        with open(path, "w", encoding="utf-8", errors="replace") as file:
            file.write(program)
        source: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
        source.write(given)
        source.seek(0)
        read, write = os.pipe()
        stack.callback(os.close, read)
        try:
            child = subprocess.Popen(
                _command(path, write, limits, level), stdin=source, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env={}, cwd=folder, pass_fds=(write,), start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(write)
        stack.callback(_end, child)
        output, reason = _collect(child, read, limits, began)
    return Outcome(output, reason, child.returncode, level, time.perf_counter() - began)


def _command(path: str, status: int, limits: Allowance, level: Level) -> list[str]:
    cpu = math.ceil(limits.seconds) + 1  # later than the clock, which says why: a kill by this one reads as an exit
    bounds = {"AS": limits.memory, "CPU": cpu, "FSIZE": 0, "CORE": 0, "NOFILE": 64}
    python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))  # of a virtual environment's base
    alone = level.startswith("bubblewrap")  # where the parent is another, which ends with us
    order = json.dumps({"program": path, "status": status, "limits": bounds, "parent": 0 if alone else os.getpid()})
    command = [python, "-I", "-S", "-B", str(_CONFINE), order]
    return [*_bubblewrap(path), *command] if alone else command


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    """A folder for one program, locked while this process lives, so that one that was killed leaves none for ever."""
    _clear_scratch(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield folder
        finally:
            os.close(handle)


@functools.cache
def _clear_scratch(place: str) -> None:
    """Remove what verifiers of ours that were killed have left behind; once in each process."""
    for path in Path(place).glob(f"{_PREFIX}*"):
        try:
            found = path.lstat()
            if found.st_uid != os.geteuid() or not path.is_dir() or abs(time.time() - found.st_mtime) < _START:
                continue  # somebody else's, or so young that its lock may be on its way
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(handle)
        except OSError:
            continue  # in use, or gone


def _bubblewrap(path: str) -> list[str]:
    """New namespaces, in which only system folders, the interpreter and the program exist, read-only."""
    program = shutil.which("bwrap", path=os.defpath + os.pathsep + os.environ.get("PATH", ""))
    if program is None:
        raise NotConfined("bubblewrap is not installed")
    needed = ["/usr", "/lib", "/lib64", "/etc/ld.so.cache", sys.base_prefix, sysconfig.get_path("stdlib")]
    needed += [str(_CONFINE), os.path.dirname(path)]
    bindings = [
        part for place in dict.fromkeys(needed) if os.path.exists(place) for part in ("--ro-bind", place, place)
    ]
    options = ["--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    return [program, *options, *bindings, "--proc", "/proc", "--chdir", os.path.dirname(path), "--"]


def _collect(child: subprocess.Popen, status: int, limits: Allowance, began: float) -> tuple[bytes, Reason]:
    """What the program printed and why it ended, once it was confined."""
    assert child.stdout is not None
    output, report, deadline = bytearray(), b"", began + _START
    started = False
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        selector.register(status, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.perf_counter()
            if left <= 0:
                _end(child)
                _confined(report, started)
                return bytes(output), "time"
            for key, _ in selector.select(left):
                piece = os.read(key.fd, 2**16)
                if not piece:
                    selector.unregister(key.fileobj)
                if key.fd == status:
                    report += piece
                    if not piece:  # the program has been started, or not
                        started = True
                        _confined(report, started)
                        deadline = time.perf_counter() + limits.seconds
                else:
                    output += piece
            if len(output) > limits.output:
                _end(child)
                _confined(report, started)
                return bytes(output[: limits.output]), "output"
    try:
        child.wait(max(0.0, deadline - time.perf_counter()))
    except subprocess.TimeoutExpired:  # it closed its output and goes on
        _end(child)
        return bytes(output), "time"
    return bytes(output), "exit"


def _confined(report: bytes, started: bool) -> None:
    """Raise NotConfined unless the child said that everything is in place."""
    try:
        said = json.loads(report)
    except ValueError:
        said = {}
    if not started or said.get("seccomp") is not True or not said.get("landlock"):
        raise NotConfined(f"the sandbox could not be set up: {said.get('error', 'it did not answer')}")


def _end(child: subprocess.Popen) -> None:
    """Kill what is left of the child; it has no children that could outlive it."""
    if child.poll() is None:
        child.kill()
        child.wait()
    if child.stdout is not None:
        child.stdout.close()
