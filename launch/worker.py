"""Work on the directory of a sweep, an inference job or a study: take what nobody else works on until nothing is left.

Executors start workers; a person can add one by hand on any machine that sees the directory, at any time:

    python -m launch.worker --workdir runs/quickstart
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib
import logging
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import cli, distributed, environment
from launch.stop import StopRequest

if TYPE_CHECKING:
    from scaling.sweep.directory import RunDirectory
    from scaling.sweep.lease import Presence

FLAGS = cli.new_flags()
cli.DEFINE_string("workdir", None, "directory of the sweep, job or study", flag_values=FLAGS, required=True)
cli.DEFINE_string("name", "0", "name of this worker in logs and progress files", flag_values=FLAGS)
cli.DEFINE_integer("launcher", 0, "process to end with: the one that started this worker", flag_values=FLAGS)
cli.DEFINE_string("profile", "", "directory for a profiler trace of the first stack", flag_values=FLAGS)
distributed.define_flags(FLAGS)

POLL_S = (0.2, 2.0)  # between looks for work while others hold all that is left: the first, and the longest
NOTHING, WAIT = -1, -2  # what `take` found instead of a stack
HELPS = {"job.json": "launch.infer", "study.json": "launch.studying"}  # what tells a directory -> who works on it
DISK_FULL, SAVED = distributed.DISK_FULL, distributed.SAVED


def main(workdir: str, name: str, launcher: int, profile: str, **group: Any) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")  # before imports that set up their own
    logging.getLogger("absl").setLevel(logging.WARNING)  # orbax tells there of every array that it writes
    from scaling.sweep.directory import RunDirectory

    alone = StopRequest(launcher)
    for file, module in HELPS.items():
        if (Path(workdir) / file).exists():
            return importlib.import_module(module).help_with(Path(workdir), name, alone)
    directory = RunDirectory(Path(workdir))
    with distributed.joined(**group) as together:
        config = directory.config()
        if together:
            environment.limit_threads(config.threads)
        return work(directory, name, together or alone, profile)


def work(directory: RunDirectory, name: str, stop: Callable[[], bool], profile: str = "") -> int:
    """Train what is left of `directory` in this process; the exit code.

    name: of this worker in progress files. stop: asked at every boundary.
    """
    import jax

    from scaling.sweep import lease
    from scaling.train.checkpoint import DiskFull
    from scaling.train.loop import Interrupted

    if profile:
        jax.profiler.start_trace(profile)
    try:
        with contextlib.ExitStack() as held:
            alone = jax.process_count() == 1  # else it waits for others, whom a supervisor watches
            mine = directory.presence(name, lease.STALL_S if alone else None)
            presence = held.enter_context(mine) if jax.process_index() == 0 else None
            return train_stacks(directory, name, stop, presence)
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


def train_stacks(directory: RunDirectory, name: str, stop: Callable[[], bool], presence: Presence | None) -> int:
    """Train every stack that nobody else trains, then those whose holders died; 0, or SAVED when stopped in between.

    presence: of this worker in the directory; in process 0 of those that form it.
    """
    import jax

    from launch.measuring import measuring
    from launch.progress import peak_of
    from scaling.sweep.run import run_stack
    from scaling.sweep.stack import Stack
    from scaling.train.loop import Progress

    config = directory.config()
    devices = jax.devices()
    peak = peak_of(devices[0].device_kind, len(devices))

    def report(stack: Stack, progress: Progress) -> None:
        if presence is not None:
            presence.check()
            presence.progressed()
            state = dataclasses.asdict(progress) | {"stack": stack.id, "time": time.time(), "peak_flops": peak}
            state |= {"device": devices[0].device_kind, "devices": len(devices)}
            directory.write_progress(name, state)

    pause = POLL_S[0]
    while not stop():
        index = distributed.on_first(partial(take, directory, presence))
        if index == NOTHING:
            return 0
        if index == WAIT:
            if presence is not None:
                presence.progressed()
            time.sleep(pause)
            pause = min(2 * pause, POLL_S[1])
            continue
        pause, stack = POLL_S[0], directory.stacks()[index]
        run_stack(
            stack,
            directory.path,
            config.name,
            batch_mode=config.batch_mode,
            labels=directory.labels(),
            report=partial(report, stack),
            stop_requested=stop,
            limits=config.limits,
            check_data=directory.check_data,
            measuring=measuring,
        )
        if presence is not None:
            presence.release(stack.id)
    return SAVED


def take(directory: RunDirectory, presence: Presence | None) -> int:
    """The first stack that is neither done nor held by anybody else, now held by us; or WAIT, or NOTHING."""
    assert presence is not None  # asked of process 0 only
    left = [(i, stack) for i, stack in enumerate(directory.stacks()) if not directory.is_done(stack)]
    for i, stack in left:
        if presence.claim(stack.id):
            if not directory.is_done(stack):
                return i
            presence.release(stack.id)
    return WAIT if left else NOTHING


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__)
