"""Snapshot: where the directory of a sweep, a job, a study or post-training stands at this moment, from its files."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models import counts
from models.errors import ConfigError
from models.serialize import to_json
from scaling import kept
from scaling.kept import write_atomically
from scaling.sweep import lease
from scaling.sweep.directory import RunDirectory
from scaling.sweep.results import Results
from scaling.sweep.trial import Trial
from scaling.sweep.varied import values, varied
from scaling.train.evaluations import accuracies
from scaling.train.metrics import read_rows
from search.posttrain.report import is_posttraining

_JOB: kept.Shape = {"config": {"samples": int}, "shards": [[int]]}
_POSTTRAIN: kept.Shape = {"task": str, "train": {"steps": int, "init_from": str}}
_STUDY: kept.Shape = {"name": str, "study": {"strategies": [str]}}
QUIET_S = 2 * lease.BEAT_S  # a counter this old belongs to a process that is silent, or whose clock differs


@dataclass(frozen=True)
class TrialState:
    """One trial. state: waiting, running, done, failed or stopped. loss: nats/token, held-out once done.

    varied: the fields that tell it from the others of its sweep, and their values; accuracies measured on the way.
    """

    trial: str
    state: str
    params: int
    tokens: int
    flops: float
    steps: int
    step: int
    loss: float
    wall_s: float
    reason: str
    varied: dict[str, str]

    @property
    def place(self) -> tuple[int, float]:
        """Where it stands in a list: at work, failed, done (best first), stopped, waiting."""
        loss = self.loss if math.isfinite(self.loss) else math.inf
        return ("running", "failed", "done", "stopped", "waiting").index(self.state), loss


@dataclass(frozen=True)
class WorkerState:
    """One process. state: working, waiting, silent, gone or ended. speed: tokens/s. use: share of the device's peak."""

    worker: str
    host: str
    process: int
    state: str
    holds: tuple[str, ...]
    speed: float
    use: float
    device: str


@dataclass(frozen=True)
class Snapshot:
    """A directory at one moment. work: what is to be done, and done of it, in `unit` (FLOPs, samples, or searches: one
    strategy with one policy; updates). A study's trials and workers are those that train its policies."""

    path: Path
    name: str
    kind: str
    unit: str
    work: float
    done: float
    rate: float  # unit per second, of the processes that work now
    finished: bool
    trials: tuple[TrialState, ...]
    workers: tuple[WorkerState, ...]

    @property
    def left_s(self) -> float:
        """Seconds that what is left takes at this rate; NaN when nothing works."""
        return (self.work - self.done) / self.rate if self.rate > 0 else math.nan

    @property
    def counts(self) -> dict[str, int]:
        """State -> number of trials."""
        states = ("done", "running", "waiting", "stopped", "failed")
        return {state: sum(trial.state == state for trial in self.trials) for state in states}


def snapshot(path: Path) -> Snapshot:
    """Read a directory; ConfigError when it is not that of a sweep, a job, a study or post-training runs."""
    if (path / "job.json").exists():
        return _job(path)
    if (path / "study.json").exists():
        return _study(path)
    if is_posttraining(path):
        return _posttraining(path)
    if not (path / "config.json").exists():
        raise ConfigError(str(path), "holds no sweep, job, study or post-training", "give its --workdir")
    return _sweep(RunDirectory(path))


def _sweep(directory: RunDirectory) -> Snapshot:
    config, stacks, holders = directory.config(), directory.stacks(), lease.holders(directory.path / ".leases")
    reports = directory.read_progress()
    alive = {worker.id: worker for worker in lease.read_workers(directory.path / ".leases")}
    trials: list[TrialState] = []
    done = 0.0
    fields = varied(to_json(config), [trial for stack in stacks for trial in stack.trials])
    for stack in stacks:
        holder = alive.get(holders.get(stack.id, ""))
        held = holder is not None and not _is_over(directory.path, holder)
        report = reports.get(holder.name, {}) if holder is not None and held else {}
        fraction = float(report.get("fraction", 0.0)) if report.get("stack") == stack.id else 0.0
        states = [_trial(directory, trial, held, values(trial, fields)) for trial in stack.trials]
        done += stack.flops if directory.is_done(stack) else stack.flops * fraction
        trials += states
    workers = tuple(_worker(directory.path, worker, holders, reports) for worker in alive.values())
    rates = [_rate(reports.get(w.worker, {}), "flops") for w in workers if w.state == "working"]
    work = sum(stack.flops for stack in stacks)
    finished = bool(stacks) and all(trial.state not in ("running", "waiting") for trial in trials)
    return Snapshot(
        directory.path, config.name, "sweep", "FLOPs", work, done, sum(rates), finished, tuple(trials), workers
    )


def _trial(directory: RunDirectory, trial: Trial, held: bool, varied: dict[str, str]) -> TrialState:
    row = directory.results.get(trial.id)
    rows = read_rows(directory.path / "trials" / trial.id / "metrics.jsonl") if row is None or not row["loss"] else []
    losses = [found for _, found in rows if found.get("loss") is not None]
    step = int(losses[-1]["step"]) if losses else 0
    loss = float(losses[-1]["loss"]) if losses else math.nan
    state, reason, wall_s = "running" if held else "waiting", "", 0.0
    if row is not None:
        state, reason, wall_s = row["status"], row.get("error") or "", row.get("wall_s") or 0.0
        step = trial.train.steps if state == "done" else int(row.get("stopped_step") or step)
        loss = row["loss"] if row["loss"] is not None else loss
    size, train = counts.params(trial.model), trial.train
    work = (size, train.tokens, float(trial.flops), train.steps)
    latest = next((found for _, found in reversed(rows) if accuracies(found)), {}) if row is None else row
    varied = varied | {name: f"{value:.3f}" for name, value in accuracies(latest).items()}
    return TrialState(trial.id, state, *work, step, loss, wall_s, reason, varied)


def _job(path: Path) -> Snapshot:
    record = kept.read(path / "job.json", _JOB)
    samples, finished = record["config"]["samples"], (path / "manifest.json").exists()
    work = done = 0.0
    for index, rows in enumerate(shard[-1] for shard in record["shards"] if shard):
        work += rows * samples
        done += rows * samples if finished or (path / "shards" / f"{index:06d}.jsonl").exists() else 0
    reports = RunDirectory(path).read_progress()
    holders = lease.holders(path / ".leases")
    workers = tuple(_worker(path, worker, holders, reports) for worker in lease.read_workers(path / ".leases"))
    at_work = (worker.worker for worker in workers if worker.state in ("working", "waiting"))
    rates = [_rate(reports.get(name, {}), "samples") for name in at_work]
    return Snapshot(path, path.resolve().name, "job", "samples", work, done, sum(rates), finished, (), workers)


def _study(path: Path) -> Snapshot:
    study = kept.read(path / "study.json", _STUDY)
    trained = path / "policies"
    policies = _sweep(RunDirectory(trained)) if (trained / "config.json").exists() else None
    known = set(kept.read_or_none(path / "policies.json", dict) or {}) - {kept.SEAL}
    names = known | {trial.trial for trial in (policies.trials if policies else ())}
    searches = len(names) * (1 + len(study["study"]["strategies"]))
    done: float = len(list((path / "cells").glob("*.parquet")))
    finished, rate = (path / "findings.json").exists() and done >= searches, 0.0
    file = path / SearchPulse.NAME
    report = kept.read_or_none(file, {"done": float, "rate": float})
    if report is not None and _age(file) < SearchPulse.QUIET_S:
        done, rate = max(done, report["done"]), report["rate"]
    found = (policies.trials, policies.workers) if policies else ((), ())
    return Snapshot(path, study["name"], "study", "searches", searches, done, rate, finished, *found)


def _posttraining(path: Path) -> Snapshot:
    """Runs that have begun; one that has not is known to its command alone. They have rewards and no loss."""
    results, trials = Results(path), []
    alive = lease.read_workers(path / ".leases")
    holders = lease.holders(path / ".leases")
    workers = tuple(_worker(path, worker, holders, {}) for worker in alive)
    held = any(worker.state == "working" for worker in workers)
    for file in sorted(path.glob("trials/*/posttrain.json")):
        trial, config = file.parent.name, kept.read(file, _POSTTRAIN)
        row, lines = results.get(trial), [line for _, line in read_rows(file.parent / "metrics.jsonl")]
        step, steps = int(lines[-1]["step"]) if lines else 0, config["train"]["steps"]
        reward = lines[-1].get("reward") if lines else None
        state = row["status"] if row is not None else "running" if held else "waiting"
        size, flops = (int(row["params"]), float(row["flops"])) if row else (0, lines[-1]["flops"] if lines else 0.0)
        about = {"reward": f"{reward:.3f}"} if reward is not None else {}
        about |= {"task": config["task"], "policy": str(config["train"]["init_from"])}
        wall_s = float(row["wall_s"]) if row else 0.0
        trials.append(TrialState(trial, state, size, 0, flops, steps, step, math.nan, wall_s, "", about))
    work, done = float(sum(t.steps for t in trials)), float(sum(t.step for t in trials))
    finished = all(trial.state == "done" for trial in trials)
    name = path.resolve().name
    return Snapshot(path, name, "post-training", "updates", work, done, 0.0, finished, tuple(trials), workers)


class SearchPulse:
    """Tells how far the searches of a study are, every few seconds; what it wrote is gone when nobody searches.

    done: searches that have ended.
    """

    NAME, EVERY_S, QUIET_S = "searching.json", 2.0, 180.0

    def __init__(self, path: Path, done: int):
        self.file, self.first, self.done = path / self.NAME, done, done
        self.began = self.told = time.monotonic()

    def tell(self, fraction: float) -> None:
        """How much of the present search is done."""
        now, done = time.monotonic(), self.done + fraction
        if now - self.told >= self.EVERY_S:
            self.told, rate = now, (done - self.first) / (now - self.began)
            write_atomically(self.file, json.dumps({"done": done, "rate": rate}))

    def __enter__(self) -> SearchPulse:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.unlink(missing_ok=True)


def _rate(report: dict[str, Any], of: str) -> float:
    """So many per second, by a worker's last report; 0 where it does not say."""
    seconds = report.get("seconds", 0)
    return report.get(of, 0) / seconds if seconds > 0 else 0.0


def _age(path: Path) -> float:
    """Seconds since a file was written, or ahead of our clock; infinite when there is none."""
    try:
        return abs(time.time() - path.stat().st_mtime)
    except OSError:
        return math.inf


def _is_over(path: Path, worker: lease.Worker) -> bool:
    return worker.ended or bool(lease.is_dead(path / ".leases" / "workers" / worker.id, worker))


def _worker(
    path: Path, worker: lease.Worker, holders: dict[str, str], reports: dict[str, dict[str, Any]]
) -> WorkerState:
    file = path / ".leases" / "workers" / worker.id
    holds = tuple(sorted(name for name, holder in holders.items() if holder == worker.id))
    report = reports.get(worker.name, {})
    if worker.ended:
        state = "ended"
    elif lease.is_dead(file, worker):
        state = "gone"
    else:
        state = "silent" if _age(file) > QUIET_S else "working" if holds else "waiting"
    busy = state == "working"
    speed, peak = _rate(report, "tokens") if busy else 0.0, report.get("peak_flops", 0)
    use = _rate(report, "flops") / peak if busy and peak > 0 else math.nan
    device = str(report.get("device", ""))
    return WorkerState(worker.name, worker.host, worker.process, state, holds, speed, use, device)
