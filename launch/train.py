"""Train one model: a sweep of one trial, with the same run directory, resume and table.

    python -m launch.train --config configs/tiny.py --config.train.steps=200 --workdir runs/tiny

--config also takes the config.json that every trial of a sweep leaves behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import cli, distributed, environment

if TYPE_CHECKING:
    from scaling.sweep.trial import Trial

FLAGS = cli.new_flags(config=True)
cli.DEFINE_string("workdir", None, "run directory: made, or continued", flag_values=FLAGS, required=True)
cli.DEFINE_string("profile", "", "directory for a profiler trace", flag_values=FLAGS)
distributed.define_flags(FLAGS)


def kinds() -> tuple[type, ...]:
    from scaling.sweep.trial import Trial

    return (Trial,)


def main(config: Trial, workdir: str, profile: str, **group: Any) -> int:
    from launch.sweep import run_sweep
    from scaling.sweep.config import SweepConfig

    model, data, train, mesh = config.model, config.data, config.train, config.mesh
    sweep = SweepConfig("train", model, data, train, mesh, threads=config.threads, workers=1)
    with distributed.joined(**group) as together:
        if together:
            environment.limit_threads(config.threads)
        return run_sweep(sweep, Path(workdir), profile=profile, together=together)


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__, kinds)
