"""What a sweep will cost, before it starts: trials, FLOPs, device-hours, when it ends, disk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch import environment
from launch.executors.choice import Options
from launch.preflight import bytes_needed, free_bytes
from models.devices import DEVICES, find_device
from models.errors import ConfigError, nearest
from scaling.report.numbers import duration, plural
from scaling.sweep.config import SweepConfig
from scaling.sweep.directory import RunDirectory
from scaling.sweep.queue import lower_bound, makespan, ordered
from scaling.sweep.stack import STEP_OVERHEAD_FLOPS, Stack, make_stacks, shape_key
from scaling.sweep.trial import Trial

ASSUMED_SHARE = 0.3  # of the peak, where nothing was measured: what small models reach
# Seconds that no FLOPs stand for, as measured on two cores of a server (benchmarks/sweep_overhead.py, train_step.py):
TRIAL_S = 0.06  # data, metrics, held-out loss, checkpoint and row of one trial
COMPILE_S = (1.5, 1.2)  # of one shape, and of each of its layers that is not scanned
START_S = 6.0  # Python, jax and the data of a worker


@dataclass(frozen=True)
class Estimate:
    """The cost of what is left of a sweep.

    flops: training FLOPs, exact. seconds: of every stack, in the order in which they are taken, with what its trials
    take beside their steps and the compilation of a shape that is new by then. speed: FLOP/s of one worker,
    `source`: where that comes from; devices: of one worker. disk: bytes at most; free: bytes.
    """

    trials: int
    finished: int
    flops: float
    heldout_flops: float
    seconds: tuple[float, ...]
    workers: int
    speed: float
    source: str
    devices: int
    disk: float
    free: float
    measured: int = 0  # times that suites of train.evaluations are measured, whose FLOPs are in none of these

    @property
    def worker_s(self) -> float:
        """Seconds of all workers together."""
        return sum(self.seconds) + self.heldout_flops / self.speed

    @property
    def device_hours(self) -> float:
        """Hours of all devices of all workers."""
        return self.worker_s * self.devices / 3600

    @property
    def ends_s(self) -> float:
        """Seconds until the last trial ends, the held-out run after all others."""
        return self._begun + makespan(self.seconds, self.workers) + self.heldout_flops / self.speed

    @property
    def soonest_s(self) -> float:
        """What no order of the stacks could beat."""
        return self._begun + lower_bound(self.seconds, self.workers) + self.heldout_flops / self.speed

    @property
    def _begun(self) -> float:
        return START_S if self.seconds or self.heldout_flops else 0.0


def estimate(config: SweepConfig, path: Path, where: Options, device: str = "") -> Estimate:
    """The cost of what a run directory still lacks; writes nothing. Raises ConfigError for a plan that cannot work.

    device: an accelerator that one worker has as many of as the mesh asks for, instead of what this machine has.
    """
    directory, trials = RunDirectory(path), config.trials()
    if (path / "config.json").exists():
        directory.check_owner(config)
    left = [trial for trial in trials if not directory.results.has(trial.id)]
    stacks = ordered(make_stacks(left, config.stack_size), config.priorities)
    workers = config.workers or (max(1, len(environment.available_cpus()) // config.threads)
                                 if where.executor == "local" and not environment.accelerators() else 1)  # fmt: skip
    devices = max(1, where.devices_per_worker) * where.nodes_per_worker
    if device:
        workers, devices = config.workers or 1, _of_mesh(config, devices)
        speed, source = _speed_of(device, devices)
    else:
        speed, source = _speed(directory, trials, where)
    heldout = 0.0
    if config.prediction is not None and config.isoflop is not None and not directory.predictions():
        heldout = config.prediction.factor * max(config.isoflop.budgets)
    return Estimate(
        len(trials), len(trials) - len(left), sum(stack.flops for stack in stacks), heldout,
        _seconds(stacks, speed), workers, speed, source, devices,
        bytes_needed(left, config.stack_size) if left else 0.0, free_bytes(path), sum(map(_measured, left)),
    )  # fmt: skip


def _measured(trial: Trial) -> int:
    """How often the suites of a trial are measured."""
    wanted, steps = trial.train.evaluations, trial.train.steps
    return (-(-steps // wanted.every) if wanted.every else 1) if wanted.suites else 0


def _seconds(stacks: Sequence[Stack], speed: float) -> tuple[float, ...]:
    """Of every stack: its steps, its trials' own time, and compiling where its shape has not come before."""
    seconds, seen = [], set()
    for stack in stacks:
        model = stack.trials[0].model
        shape = shape_key(stack.trials[0])
        fixed, layer = COMPILE_S
        compiling = 0.0 if shape in seen else fixed + layer * (1 if model.scan_layers else model.n_layers)
        seen.add(shape)
        seconds.append(stack.work / speed + TRIAL_S * len(stack.trials) + compiling)
    return tuple(seconds)


def _of_mesh(config: SweepConfig, devices: int) -> int:
    """How many devices the mesh asks for; an axis that fills takes what `devices` leave."""
    sizes = config.mesh.sizes.values()
    return math.prod((config.mesh.resolve(devices) if -1 in sizes else config.mesh).sizes.values())


def _speed_of(device: str, count: int) -> tuple[float, str]:
    """FLOP/s of so many devices of a kind; ConfigError for one that the table does not know."""
    found = find_device(device)
    if found is None:
        guess = nearest(device, DEVICES)
        known = f"did you mean {guess}?" if guess else f"use one of {', '.join(DEVICES)}"
        raise ConfigError("--device", f"is {device!r}, whose speed is not known", known)
    return found.flops * count * ASSUMED_SHARE, f"assumed: {ASSUMED_SHARE:.0%} of the peak of {count} x {device}"


def _speed(directory: RunDirectory, trials: Sequence[Trial], where: Options) -> tuple[float, str]:
    """FLOP/s of one worker, the cost of a step included, and where the number comes from."""
    rows = [(trial, row) for trial in trials if (row := directory.results.get(trial.id)) and row["status"] == "done"]
    seconds = sum(row["wall_s"] for _, row in rows)
    if seconds > 0:
        work = sum(trial.flops + STEP_OVERHEAD_FLOPS * trial.train.steps for trial, _ in rows)
        return work / seconds, f"measured on {plural(len(rows), 'finished trial')}"
    if environment.accelerators():
        import jax

        device = jax.devices()[0].device_kind
        found = find_device(device)
        if found:
            count = where.devices_per_worker or jax.local_device_count()
            return (
                found.flops * count * ASSUMED_SHARE,
                f"assumed: {ASSUMED_SHARE:.0%} of the peak of {count} x {device}",
            )
    from launch.progress import measured_cpu_peak

    return measured_cpu_peak() * ASSUMED_SHARE, f"assumed: {ASSUMED_SHARE:.0%} of a matrix product on this machine"


def print_estimate(config: SweepConfig, path: Path, where: Options, device: str = "") -> int:
    """Print the estimate; always 0."""
    show(estimate(config, path, where, device), path)
    return 0


def show(e: Estimate, path: Path) -> None:
    """Print an estimate of what will lie at `path`."""
    done = f", {e.finished} of them finished" if e.finished else ""
    print(f"trials        {e.trials}{done}, in {plural(len(e.seconds), 'stack')}")
    more = f", and {e.heldout_flops:.3g} of the held-out run" if e.heldout_flops else ""
    print(f"FLOPs         {e.flops:.4g} exact{more}")
    if e.measured:
        print(f"evaluations   {e.measured} times, beside these FLOPs")
    print(f"speed         {e.speed:.3g} FLOP/s per worker ({e.source})")
    print(f"device-hours  {e.device_hours:.3g}")
    soonest = f"not before {duration(e.soonest_s)} in any order"
    print(
        f"ends after    {duration(e.ends_s)} on {plural(e.workers, 'worker')} ({soonest}), start and compiling included"
    )
    print(f"disk          {e.disk / 1e6:,.0f} MB at most; {e.free / 1e6:,.0f} MB are free at {path}")
