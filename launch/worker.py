"""Work on a run directory: train the stacks that nobody else is training until none is left.

Executors start workers; a person can add one by hand on any machine that sees the directory:

    python -m launch.worker --workdir runs/quickstart
"""

from __future__ import annotations

import dataclasses
import fcntl
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from launch import cli

FLAGS = cli.new_flags()
cli.DEFINE_string("workdir", None, "run directory of the sweep", flag_values=FLAGS, required=True)
cli.DEFINE_string("name", "0", "name of this worker in logs and progress files", flag_values=FLAGS)
cli.DEFINE_string("profile", "", "directory for a profiler trace of the first stack", flag_values=FLAGS)

SAVED = 75  # exit code of a worker that was asked to stop and saved its state (EX_TEMPFAIL)


class StopRequest:
    """True once SIGTERM or SIGINT arrived, or the process that started this one is gone."""

    def __init__(self) -> None:
        self.signalled = False
        self.parent = os.getppid()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signalled = True

    def __call__(self) -> bool:
        return self.signalled or os.getppid() != self.parent


@contextmanager
def claim(path: Path, wait: bool) -> Iterator[bool]:
    """Hold the lock file `path`; yields whether it is held. The kernel releases it when the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def main(workdir: str, name: str, profile: str) -> int:
    import jax

    from launch.progress import peak_of
    from scaling.sweep.directory import RunDirectory
    from scaling.sweep.run import run_stack
    from scaling.train.loop import Interrupted, Progress

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    directory = RunDirectory(Path(workdir))
    stop = StopRequest()
    devices = jax.devices()
    peak = peak_of(devices[0].device_kind, len(devices))

    def report(stack: str, progress: Progress) -> None:
        state = dataclasses.asdict(progress) | {"stack": stack, "time": time.time(), "peak_flops": peak}
        directory.write_progress(name, state)

    if profile:
        jax.profiler.start_trace(profile)
    try:
        for wait in (False, True):  # first what is free, then wait for what others hold in case they die
            for stack in directory.stacks():
                if stop():
                    return SAVED
                if directory.is_done(stack):
                    continue
                with claim(directory.path / "locks" / stack.id, wait) as mine:
                    if mine and not directory.is_done(stack):
                        run_stack(
                            stack,
                            directory.path,
                            directory.config().name,
                            batch_mode=directory.config().batch_mode,
                            labels=directory.labels(),
                            report=lambda progress, stack=stack: report(stack.id, progress),
                            stop_requested=stop,
                        )
    except Interrupted:
        return SAVED
    finally:
        if profile:
            jax.profiler.stop_trace()
    return 0


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__)
