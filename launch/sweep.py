"""Run a sweep: train every trial, fit a law, write the prediction, train the run that tests it, report.

    python -m launch.sweep --config configs/quickstart.py --workdir runs/quickstart

Running it again continues where it stopped; a finished directory is left as it is. --dry_run says what it would cost.
The workers are processes on this machine, jobs of a SLURM array, or tasks of a Ray cluster (--executor).
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import cli, distributed, environment, worker
from launch.executors import choice
from launch.executors.executor import Order
from models.errors import ConfigError, require

if TYPE_CHECKING:
    from launch.executors.choice import Options
    from launch.executors.executor import Executor
    from launch.trackers import Trackers
    from scaling.sweep.config import SweepConfig
    from scaling.sweep.directory import RunDirectory
    from scaling.sweep.trial import Trial

POLL_S = 0.5
DEVICE = "with --dry_run: price this accelerator, such as v5e or h100, as many of it as the mesh asks for"
FLAGS = cli.new_flags(config=True)
cli.DEFINE_string("workdir", None, "run directory: made, or continued", flag_values=FLAGS, required=True)
cli.DEFINE_bool("dry_run", False, "Say what the sweep would cost, and end.", flag_values=FLAGS)
cli.DEFINE_string("device", "", DEVICE, flag_values=FLAGS)
cli.DEFINE_multi_string("track", [], "mirror metrics to wandb or mlflow; may be repeated", flag_values=FLAGS)
choice.define_flags(FLAGS)
cli.DEFINE_string("profile", "", "directory for a profiler trace of each worker's first stack", flag_values=FLAGS)
distributed.define_flags(FLAGS)


def kinds() -> tuple[type, ...]:
    from scaling.sweep.config import SweepConfig

    return (SweepConfig,)


def main(config: SweepConfig, workdir: str, profile: str, dry_run: bool, device: str, track: list[str],
         **group: Any) -> int:  # fmt: skip
    where = choice.options(group)
    require(dry_run or not device, "--device", "is for --dry_run, which prices it", "leave it out")
    if dry_run:
        environment.limit_threads(config.threads)  # a worker's speed is measured here
        return rehearse(config, Path(workdir), where, device)
    with distributed.joined(**group) as together:
        if together:
            environment.limit_threads(config.threads)
        return run_sweep(config, Path(workdir), profile=profile, together=together, where=where, track=track)


def rehearse(config: SweepConfig, path: Path, where: Options, device: str = "") -> int:
    """Check all that a run would check, then print the data and the cost; writes nothing but the cache of tokens."""
    from launch.estimate import print_estimate
    from launch.preflight import about
    from launch.trackers import Trackers
    from scaling.sweep.directory import RunDirectory

    config, directory = config.anchored(Path.cwd()), RunDirectory(path)
    directory.check_owner(config)
    executor = choice.make(where)
    crew = Crew(config, directory, executor, where, Trackers((), directory, config.name))
    with contextlib.closing(executor):
        executor.check(crew.order())
        records = check(crew, config.trials(), by_workers=True)
    directory.check_data({key: record["digest"] for key, record in records.items()}, known=False)
    print(cli.printable("\n".join(about(records))))
    return print_estimate(config, path, where, device)


def run_sweep(
    config: SweepConfig,
    path: Path,
    *,
    profile: str = "",
    together: Callable[[], bool] | None = None,
    where: Options | None = None,
    track: Sequence[str] = (),
) -> int:
    """The whole loop on one run directory; 0, 1 when a trial failed, or 75 when stopped as one of several processes.

    together: what the processes of one run ask whether to stop, when this is one of several. Then process 0 plans and
    concludes, and all train, in place of workers. where: who the workers are; by default processes of this machine.
    track: "wandb", "mlflow", or both.
    """
    from launch.trackers import Trackers
    from scaling.sweep.directory import RunDirectory

    config = config.anchored(Path.cwd())
    trials = config.trials()  # validates the plan before anything is written
    directory = RunDirectory(path)
    trackers = Trackers(track, directory, config.name)
    crew = Crew(config, directory, choice.make(where or choice.Options()), where, trackers, profile)
    with contextlib.ExitStack() as held:
        distributed.on_first(lambda: enter(held, crew, trials, together is None))
        try:
            train(crew, "trials", together)
            if config.prediction is not None:
                predict_and_test(crew, together)
        except Saved:
            return worker.SAVED
        return distributed.on_first(lambda: conclude(directory))


@dataclass(frozen=True)
class Crew:
    """Who works on what in one run of the command."""

    config: SweepConfig
    directory: RunDirectory
    executor: Executor
    where: Options | None
    trackers: Trackers
    profile: str = ""

    def order(self) -> Order:
        """What the executor is asked for."""
        where = self.where or choice.Options()
        more = ("--profile", self.profile) if self.profile else ()
        workers, threads = self.config.workers, self.config.threads
        path = self.directory.path
        return Order(path, workers, threads, where.devices_per_worker, where.nodes_per_worker, more)


def enter(held: contextlib.ExitStack, crew: Crew, trials: Sequence[Trial], by_workers: bool) -> None:
    """Hold the directory, unless all is done and nothing will be written, and write down what is to be done."""
    from launch.preflight import about
    from scaling.sweep.heldout import is_foretold

    config, directory = crew.config, crew.directory
    directory.check_owner(config)
    held.callback(crew.executor.close)
    if not (directory.is_finished(trials, config.prediction is not None) and is_foretold(config, directory)):
        if by_workers:
            crew.executor.check(crew.order())
        records = check(crew, trials, by_workers)
        held.enter_context(directory.locked())
        directory.claim(config, records)
        print(cli.printable("\n".join(about(records))), file=sys.stderr, flush=True)
    labels = {trial.id: label(config, trial) for trial in trials}
    directory.plan(trials, config.stack_size, labels, config.priorities)
    held.enter_context(crew.trackers)


class Saved(Exception):
    """The processes of this run were asked to stop, and their state is saved."""


def check_fields(config: SweepConfig, trials: Sequence[Trial]) -> None:
    """ConfigError for a priority that names no field of a trial."""
    from scaling.sweep.queue import level

    for trial in trials[:1]:
        level(trial, config.priorities)


def label(config: SweepConfig, trial: Trial) -> dict[str, Any]:
    """Free columns of a trial: its isoFLOP budget, and that laws are fitted on it."""
    plan = config.isoflop
    near = [b for b in plan.budgets if abs(trial.flops / b - 1) <= plan.tolerance] if plan else []
    return {"split": "fit", "budget": near[0] if near else None}


def check(crew: Crew, trials: Sequence[Trial], by_workers: bool) -> dict[str, dict[str, Any]]:
    """Tokenise once, and refuse what would fail later: fields, data, batch size, devices, disk; the data's records.

    Writes nothing but the cache of tokens.
    """
    from launch.preflight import check_devices, check_disk, check_trials
    from scaling.sweep.heldout import check_prediction

    check_fields(crew.config, trials)
    if crew.config.prediction is not None:
        check_prediction(crew.config, trials)
    records = check_trials(trials)
    if by_workers:
        check_devices((trial.mesh for trial in trials), crew.executor.devices(crew.order()))
    check_disk(crew.directory.path, trials, crew.config.stack_size)
    return records


def train(crew: Crew, title: str, together: Callable[[], bool] | None = None) -> None:
    """Let workers, or these processes `together`, train every stack that is not done; collect the table."""
    if together is not None:
        if worker.work(crew.directory, "0", together, crew.profile) == worker.SAVED:
            raise Saved
        distributed.on_first(lambda: collect(crew))
    else:
        train_by_workers(crew, title)
        collect(crew)


def train_by_workers(crew: Crew, title: str) -> None:
    """Let the executor start workers, and follow them to their end."""
    from launch.progress import SweepDisplay

    directory, executor = crew.directory, crew.executor
    stacks = directory.stacks()
    jobs = sum(not directory.is_done(stack) for stack in stacks)
    if jobs:
        executor.submit(crew.order(), jobs)
        try:
            with SweepDisplay(directory, stacks, title) as display:
                while executor.running():
                    display.update()
                    crew.trackers.update()
                    time.sleep(POLL_S)
        except BaseException:
            executor.cancel()  # workers save, so that the same command goes on from here
            raise


def collect(crew: Crew) -> None:
    """Check that every stack is done, and write the table."""
    from scaling.sweep.run import clear

    directory = crew.directory
    for stack in directory.stacks():
        if not directory.is_done(stack):
            raise RuntimeError(f"the workers left stack {stack.id} unfinished: see {directory.path / 'logs'}")
        clear(directory.path, stack)  # a worker killed between its last row and its tidying up left it
    directory.results.write()
    crew.trackers.update(all_of_it=True)


def predict_and_test(crew: Crew, together: Callable[[], bool] | None = None) -> None:
    """Fit, write the prediction of the held-out run, then train it."""
    distributed.on_first(lambda: predict_held_out(crew.config, crew.directory))
    train(crew, "held-out run", together)


def predict_held_out(config: SweepConfig, directory: RunDirectory) -> None:
    """Fit, and write the prediction of the held-out run; the report is written even when the fit fails."""
    from scaling.sweep.heldout import heldout_trial, is_foretold, predict

    if not is_foretold(config, directory):
        try:
            fit, trial = heldout_trial(config, directory)
        except (ValueError, ArithmeticError) as error:  # a ConfigError of the fit, or of what it computes with
            conclude(directory)
            problem = f"the trials are done, but the law could not be fitted to them ({error})"
            fix = "the table and the report are written; give another prediction.law, or --config.prediction=none"
            raise ConfigError("prediction", problem, fix) from error
        directory.append_prediction(predict(config, fit, trial, directory), trial)
    tests = directory.predicted_trials()
    directory.plan(tests, 1, {trial.id: {"split": "heldout", "budget": None} for trial in tests})


def conclude(directory: RunDirectory) -> int:
    """Write the report, print the table's essence, and say whether trials failed."""
    from launch.report import write_report
    from launch.summary import print_summary

    write_report(directory.path)
    return print_summary(directory)


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__, kinds)
