"""Run a sweep: train every trial, fit a law, write the prediction, train the run that tests it, report.

    python -m launch.sweep --config configs/quickstart.py --workdir runs/quickstart

Running it again continues where it stopped; a finished directory is left as it is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import cli

if TYPE_CHECKING:
    from scaling.sweep.config import SweepConfig
    from scaling.sweep.directory import RunDirectory
    from scaling.sweep.trial import Trial

POLL_S = 0.5
FLAGS = cli.new_flags(config=True)
cli.DEFINE_string("workdir", None, "run directory: made, or continued", flag_values=FLAGS, required=True)
cli.DEFINE_enum("executor", "local", ["local"], "where the workers run", flag_values=FLAGS)
cli.DEFINE_string("profile", "", "directory for a profiler trace of each worker's first stack", flag_values=FLAGS)


def kinds() -> tuple[type, ...]:
    from scaling.sweep.config import SweepConfig

    return (SweepConfig,)


def main(config: SweepConfig, workdir: str, executor: str, profile: str) -> int:
    return run_sweep(config, Path(workdir), profile=profile)


def run_sweep(config: SweepConfig, path: Path, *, profile: str = "") -> int:
    """The whole loop on one run directory; 0, or 1 when a trial failed."""
    from scaling.sweep.directory import RunDirectory

    trials = config.trials()  # validates the plan before anything is written
    directory = RunDirectory(path)
    with directory.locked():
        directory.check_owner(config)
        if not directory.is_finished(trials, config.prediction is not None):
            directory.claim(config, prepare_data(config, directory, trials))
        labels = {trial.id: label(config, trial) for trial in trials}
        directory.plan(trials, config.stack_size, labels)
        train(config, directory, "trials", profile)
        if config.prediction is not None:
            predict_and_test(config, directory, profile)
        return conclude(directory)


def label(config: SweepConfig, trial: Trial) -> dict[str, Any]:
    """Free columns of a trial: its isoFLOP budget, and that laws are fitted on it."""
    plan = config.isoflop
    near = [b for b in plan.budgets if abs(trial.flops / b - 1) <= plan.tolerance] if plan else []
    return {"split": "fit", "budget": near[0] if near else None}


def prepare_data(config: SweepConfig, directory: RunDirectory, trials: Sequence[Trial]) -> str:
    """Tokenise once, and refuse what would fail later: data, vocabulary, batch size, disk space; the data's digest."""
    from launch.environment import accelerators
    from launch.executors.local import LocalExecutor
    from launch.preflight import check_disk, check_trials

    LocalExecutor(config.workers, config.threads, accelerators())  # refuses more threads than there are
    digest = check_trials(trials)
    directory.check_data(digest)
    check_disk(directory.path, trials, config.stack_size)
    return digest


def train(config: SweepConfig, directory: RunDirectory, title: str, profile: str = "") -> None:
    """Let workers train every stack that is not done, and collect the table."""
    from launch.environment import accelerators
    from launch.executors.local import LocalExecutor
    from launch.progress import SweepDisplay
    from scaling.sweep.run import clear

    stacks = directory.stacks()
    open_stacks = [stack for stack in stacks if not directory.is_done(stack)]
    if open_stacks:
        executor = LocalExecutor(config.workers, config.threads, accelerators())
        executor.submit(directory.path, len(open_stacks), ["--profile", profile] if profile else [])
        try:
            with SweepDisplay(directory, stacks, title) as display:
                while executor.running():
                    display.update()
                    time.sleep(POLL_S)
        except BaseException:
            executor.cancel()  # workers save, so that the same command goes on from here
            raise
    for stack in stacks:
        if not directory.is_done(stack):
            raise RuntimeError(f"the workers left stack {stack.id} unfinished: see {directory.path / 'logs'}")
        clear(directory.path, stack)  # a worker killed between its last row and its tidying up left it
    directory.results.write()


def predict_and_test(config: SweepConfig, directory: RunDirectory, profile: str = "") -> None:
    """Fit, write the prediction of the held-out run, then train it."""
    from scaling.sweep.heldout import heldout_trial, predict

    if not directory.predictions():
        fit, trial = heldout_trial(config, directory)
        directory.append_prediction(predict(config, fit, trial), trial)
    tests = directory.predicted_trials()
    directory.plan(tests, 1, {trial.id: {"split": "heldout", "budget": None} for trial in tests})
    train(config, directory, "held-out run", profile)


def conclude(directory: RunDirectory) -> int:
    """Write the report, print the table's essence, and say whether trials failed."""
    from launch.summary import print_summary
    from scaling import report

    report.write(directory.path)
    return print_summary(directory)


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__, kinds)
