"""Work on a run directory: train the stacks that nobody else is training until none is left.

Executors start workers; a person can add one by hand on any machine that sees the directory:

    python -m launch.worker --workdir runs/quickstart
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from launch import cli, distributed, environment

if TYPE_CHECKING:
    from scaling.sweep.directory import RunDirectory

FLAGS = cli.new_flags()
cli.DEFINE_string("workdir", None, "run directory of the sweep", flag_values=FLAGS, required=True)
cli.DEFINE_string("name", "0", "name of this worker in logs and progress files", flag_values=FLAGS)
cli.DEFINE_integer("launcher", 0, "process to end with: the one that started this worker", flag_values=FLAGS)
cli.DEFINE_string("profile", "", "directory for a profiler trace of the first stack", flag_values=FLAGS)
distributed.define_flags(FLAGS)

POLL_S = 0.2
DISK_FULL, SAVED = distributed.DISK_FULL, distributed.SAVED


class StopRequest:
    """True once SIGTERM or SIGINT arrived, or the launcher (a process id; 0: there is none) is gone."""

    def __init__(self, launcher: int = 0) -> None:
        self.signalled = False
        self.launcher = launcher
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signalled = True

    def __call__(self) -> bool:
        return self.signalled or self.launcher not in (0, os.getppid())


@contextmanager
def claim(path: Path, give_up: Callable[[], bool]) -> Iterator[bool]:
    """Hold the lock file `path`; yields whether it is held. The kernel releases it when the holder dies.

    Of several processes of one run the first holds it for all.

    give_up: asked while another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as f:
        while not distributed.on_first(partial(_lock, f)):
            if give_up():
                yield False
                return
            time.sleep(POLL_S)
        yield True


def _lock(f: TextIO) -> bool:
    try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def main(workdir: str, name: str, launcher: int, profile: str, **group: Any) -> int:
    from scaling.sweep.directory import RunDirectory

    directory = RunDirectory(Path(workdir))
    alone = StopRequest(launcher)
    with distributed.joined(**group) as together:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        config = directory.config()
        if together:
            environment.limit_threads(config.threads)
        return work(directory, name, together or alone, profile)


def work(directory: RunDirectory, name: str, stop: Callable[[], bool], profile: str = "") -> int:
    """Train what is left of `directory` in this process; the exit code.

    name: of this worker in progress files. stop: asked at every boundary.
    """
    import jax

    from scaling.train.checkpoint import DiskFull
    from scaling.train.loop import Interrupted

    if profile:
        jax.profiler.start_trace(profile)
    try:
        return train_stacks(directory, name, stop)
    except Interrupted:
        return SAVED
    except (DiskFull, OSError) as error:
        full = isinstance(error, DiskFull) or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if not full or distributed.is_joined():
            raise
        logging.error("%s", error)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # the log is on that disk, too
        return DISK_FULL
    finally:
        if profile:
            jax.profiler.stop_trace()


def train_stacks(directory: RunDirectory, name: str, stop: Callable[[], bool]) -> int:
    """Train every stack that nobody else trains, then those whose holders died; 0, or SAVED when stopped in between."""
    import jax

    from launch.progress import peak_of
    from scaling.sweep.run import run_stack
    from scaling.sweep.stack import Stack
    from scaling.train.loop import Progress

    config = directory.config()
    devices = jax.devices()
    peak = peak_of(devices[0].device_kind, len(devices))

    def report(stack: Stack, progress: Progress) -> None:
        if jax.process_index() == 0:
            state = dataclasses.asdict(progress) | {"stack": stack.id, "time": time.time(), "peak_flops": peak}
            directory.write_progress(name, state)

    for wait in (False, True):  # first what is free, then wait for what others hold in case they die
        for stack in directory.stacks()[: distributed.on_first(lambda: len(directory.stacks()))]:
            if stop():
                return SAVED
            if distributed.on_first(partial(directory.is_done, stack)):
                continue
            give_up = stop if wait else lambda: True
            with claim(directory.path / "locks" / stack.id, give_up) as mine:
                if mine and not distributed.on_first(partial(directory.is_done, stack)):
                    run_stack(
                        stack,
                        directory.path,
                        config.name,
                        batch_mode=config.batch_mode,
                        labels=directory.labels(),
                        report=partial(report, stack),
                        stop_requested=stop,
                    )
    return 0


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__)
