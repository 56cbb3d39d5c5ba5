"""Run a sweep: train every trial, fit a law, write the prediction, train the run that tests it, report.

    python -m launch.sweep --config configs/quickstart.py --workdir runs/quickstart

Running it again continues where it stopped; a finished directory is left as it is.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import cli, distributed, environment, worker

if TYPE_CHECKING:
    from scaling.sweep.config import SweepConfig
    from scaling.sweep.directory import RunDirectory
    from scaling.sweep.trial import Trial

POLL_S = 0.5
FLAGS = cli.new_flags(config=True)
cli.DEFINE_string("workdir", None, "run directory: made, or continued", flag_values=FLAGS, required=True)
cli.DEFINE_enum("executor", "local", ["local"], "where the workers run", flag_values=FLAGS)
cli.DEFINE_string("profile", "", "directory for a profiler trace of each worker's first stack", flag_values=FLAGS)
distributed.define_flags(FLAGS)


def kinds() -> tuple[type, ...]:
    from scaling.sweep.config import SweepConfig

    return (SweepConfig,)


def main(config: SweepConfig, workdir: str, executor: str, profile: str, **group: Any) -> int:
    with distributed.joined(**group) as together:
        if together:
            environment.limit_threads(config.threads)
        return run_sweep(config, Path(workdir), profile=profile, together=together)


def run_sweep(config: SweepConfig, path: Path, *, profile: str = "", together: Callable[[], bool] | None = None) -> int:
    """The whole loop on one run directory; 0, 1 when a trial failed, or 75 when stopped as one of several processes.

    together: what the processes of one run ask whether to stop, when this is one of several. Then process 0 plans and
    concludes, and all train, in place of workers.
    """
    from scaling.sweep.directory import RunDirectory

    trials = config.trials()  # validates the plan before anything is written
    directory = RunDirectory(path)
    with contextlib.ExitStack() as held:
        distributed.on_first(lambda: held.enter_context(directory.locked()))
        distributed.on_first(lambda: start(config, directory, trials))
        try:
            train(config, directory, "trials", profile, together)
            if config.prediction is not None:
                predict_and_test(config, directory, profile, together)
        except Saved:
            return worker.SAVED
        return distributed.on_first(lambda: conclude(directory))


class Saved(Exception):
    """The processes of this run were asked to stop, and their state is saved."""


def start(config: SweepConfig, directory: RunDirectory, trials: Sequence[Trial]) -> None:
    """Claim the directory and write down who trains with whom, unless that has been done."""
    directory.check_owner(config)
    if not directory.is_finished(trials, config.prediction is not None):
        directory.claim(config, prepare_data(config, directory, trials))
    labels = {trial.id: label(config, trial) for trial in trials}
    directory.plan(trials, config.stack_size, labels)


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


def train(
    config: SweepConfig,
    directory: RunDirectory,
    title: str,
    profile: str = "",
    together: Callable[[], bool] | None = None,
) -> None:
    """Let workers, or these processes `together`, train every stack that is not done; collect the table."""
    if together is not None:
        if worker.work(directory, "0", together, profile) == worker.SAVED:
            raise Saved
        distributed.on_first(lambda: collect(directory))
    else:
        train_by_workers(config, directory, title, profile)
        collect(directory)


def train_by_workers(config: SweepConfig, directory: RunDirectory, title: str, profile: str = "") -> None:
    """Start workers on this machine and follow them to their end."""
    from launch.environment import accelerators
    from launch.executors.local import LocalExecutor
    from launch.progress import SweepDisplay

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


def collect(directory: RunDirectory) -> None:
    """Check that every stack is done, and write the table."""
    from scaling.sweep.run import clear

    for stack in directory.stacks():
        if not directory.is_done(stack):
            raise RuntimeError(f"the workers left stack {stack.id} unfinished: see {directory.path / 'logs'}")
        clear(directory.path, stack)  # a worker killed between its last row and its tidying up left it
    directory.results.write()


def predict_and_test(
    config: SweepConfig, directory: RunDirectory, profile: str = "", together: Callable[[], bool] | None = None
) -> None:
    """Fit, write the prediction of the held-out run, then train it."""
    distributed.on_first(lambda: foretell(config, directory))
    train(config, directory, "held-out run", profile, together)


def foretell(config: SweepConfig, directory: RunDirectory) -> None:
    """Fit, and write the prediction of the held-out run."""
    from scaling.sweep.heldout import heldout_trial, predict

    if not directory.predictions():
        fit, trial = heldout_trial(config, directory)
        directory.append_prediction(predict(config, fit, trial), trial)
    tests = directory.predicted_trials()
    directory.plan(tests, 1, {trial.id: {"split": "heldout", "budget": None} for trial in tests})


def conclude(directory: RunDirectory) -> int:
    """Write the report, print the table's essence, and say whether trials failed."""
    from launch.summary import print_summary
    from scaling import report

    report.write(directory.path)
    return print_summary(directory)


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__, kinds)
