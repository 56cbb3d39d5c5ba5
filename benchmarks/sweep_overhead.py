"""What a trial costs besides its training: planning, claiming, data, metrics, checkpoint, row, table; per tiny trial.

    python benchmarks/sweep_overhead.py [--quick] [--keep]

A worker in this process takes 48 trials of ten steps, in stacks of eight and in stacks of one, after a first stack that
compiles. All of it counts, the ten steps and the held-out loss too. The least of three rounds: CPU time changes least
on a busy machine; wall time has its waits in it.
"""

from __future__ import annotations

import argparse
import logging
import platform
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import harness

ROUNDS = 3


def sweep(root: Path, seeds: range, stack: int) -> Any:
    """A sweep of one tiny trial per seed."""
    from models.config import ModelConfig
    from scaling.data import DataConfig
    from scaling.sweep.combinators import grid
    from scaling.sweep.config import SweepConfig
    from scaling.train.config import TrainConfig

    model = ModelConfig(d_model=8, n_layers=1, n_heads=2, d_ff=16)
    data = DataConfig(source="text", path=str(root / "text"), cache_dir=str(root / "cache"), heldout_fraction=0.1)
    train = TrainConfig(steps=10, batch_size=4, seq_len=16, eval_sequences=8, log_every=10)
    points = tuple(grid({"train.seed": list(seeds)}))
    return SweepConfig("overhead", model, data, train, points=points, stack_size=stack, workers=1)


def run(path: Path, config: Any) -> tuple[float, float]:
    """(CPU seconds, wall seconds) of this process from the plan to the table."""
    from launch import worker
    from launch.preflight import check_trials
    from scaling.sweep.directory import RunDirectory

    cpu, wall = time.process_time(), time.perf_counter()
    directory, trials = RunDirectory(path), config.trials()
    directory.claim(config, check_trials(trials))
    directory.plan(trials, config.stack_size, {})
    if worker.work(directory, "0", lambda: False):
        raise RuntimeError("the worker did not end in order")
    directory.results.write()
    return time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    """One line for each size of stacks."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="16 trials")
    made.add_argument("--keep", action="store_true", help="append the lines to benchmarks/results/ too")
    options = made.parse_args()
    import jax

    from launch import environment

    environment.limit_threads(1)
    environment.prepare()
    logging.disable(logging.WARNING)
    trials = 16 if options.quick else 48
    with tempfile.TemporaryDirectory() as folder:
        root, draw = Path(folder), random.Random(0)
        (root / "text").mkdir()
        for n in range(60):
            words = " ".join(draw.choices(("loss", "compute", "tokens", "law", "width", "step"), k=60))
            (root / "text" / f"{n}.txt").write_text(f"{n} {words}")
        for stack in (8, 1):
            run(root / f"first-{stack}", sweep(root, range(stack), stack))
            runs = range(1 if options.quick else ROUNDS)
            found = [run(root / f"{stack}-{i}", sweep(root, range(100, 100 + trials), stack)) for i in runs]
            cpu, wall = (min(values) for values in zip(*found, strict=True))
            harness.emit_alone("sweep_overhead", {
                "case": f"stacks of {stack}", "unit": "least cpu ms per trial", "ours": round(cpu / trials * 1e3, 1),
                "least_wall_ms": round(wall / trials * 1e3, 1), "trials": trials, "rounds": len(found), "bar_ms": 50,
                "versions": {"python": platform.python_version(), "jax": jax.__version__},
            }, options.keep)  # fmt: skip


if __name__ == "__main__":
    main()
