"""Trackers: mirror the metrics of a sweep's trials to Weights & Biases (offline, too) or MLflow, each step once.

The launcher alone writes, reading what workers append to metrics.jsonl. A trial that resumes writes the same rows
again, so a step that was sent is never sent twice: DIR/trackers/<name>.json keeps the last one of every trial.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from models.errors import ConfigError, nearest, require
from scaling import kept
from scaling.kept import write_atomically
from scaling.sweep.directory import RunDirectory
from scaling.train.metrics import read_rows

EVERY_S = 10.0


class Tracker(Protocol):
    """What a tracking service is asked to do."""

    def write(self, trial: str, config: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
        """Append rows of metrics to a trial's run, which is made when it is new."""

    def close(self) -> None:
        """Flush."""


class Wandb:
    """Weights & Biases: one run for each trial in the project of the sweep's name; WANDB_MODE=offline keeps it here."""

    def __init__(self, directory: Path, sweep: str):
        import wandb

        self.wandb, self.directory, self.sweep = wandb, directory, sweep

    def write(self, trial: str, config: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
        """Open the trial's run, log the rows at their steps, and close it."""
        settings = self.wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True)
        run = self.wandb.init(
            project=self.sweep, id=trial, name=trial, group=self.sweep, config=config, resume="allow",
            dir=str(self.directory), settings=settings,
        )  # fmt: skip
        for row in rows:
            run.log({name: value for name, value in row.items() if name != "step"}, step=row["step"])
        run.finish()  # silent by its settings; wandb 0.31 takes no `quiet`

    def close(self) -> None:
        """Every run was closed after its rows."""


class Mlflow:
    """MLflow: one run for each trial in the experiment of the sweep's name; kept in DIR/trackers without a server."""

    def __init__(self, directory: Path, sweep: str):
        from mlflow.tracking import MlflowClient, is_tracking_uri_set

        uri = None if is_tracking_uri_set() else f"sqlite:///{(directory / 'mlflow.db').resolve()}"
        self.client = MlflowClient(uri)
        found = self.client.get_experiment_by_name(sweep)
        self.experiment = found.experiment_id if found else self.client.create_experiment(sweep)

    def write(self, trial: str, config: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
        """Log the rows at their steps to the run with this trial's name."""
        from mlflow.entities import Metric, Param

        runs = self.client.search_runs([self.experiment], f"tags.trial = '{trial}'", max_results=1)
        if runs:
            run = runs[0].info.run_id
        else:
            run = self.client.create_run(self.experiment, tags={"trial": trial}, run_name=trial).info.run_id
            params = [Param(name, str(value)[:500]) for name, value in _flat(config).items()]
            for i in range(0, len(params), 100):
                self.client.log_batch(run, params=params[i : i + 100])
        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, row["step"]) for row in rows for name, value in row.items()
                   if name != "step" and value is not None]  # fmt: skip
        for i in range(0, len(metrics), 1000):
            self.client.log_batch(run, metrics=metrics[i : i + 1000])

    def close(self) -> None:
        """Every batch was sent when it was written."""


TRACKERS: dict[str, type[Wandb] | type[Mlflow]] = {"wandb": Wandb, "mlflow": Mlflow}


class Trackers:
    """Follows the trials of a run directory for the trackers that were asked for; a context manager."""

    def __init__(self, names: Sequence[str], directory: RunDirectory, sweep: str):
        for name in names:
            guess = nearest(name, TRACKERS)
            fix = f"did you mean {guess}?" if guess else f"choose from {', '.join(TRACKERS)}"
            require(name in TRACKERS, "--track", f"{name!r} is no tracker", fix)
            _check_installed(name)
        self.names, self.directory, self.sweep = sorted(set(names)), directory, sweep
        self.open: dict[str, Tracker] = {}
        self.sent: dict[str, dict[str, int]] = {}  # tracker -> trial -> last step sent
        self.sizes: dict[Path, int] = {}  # bytes of metrics.jsonl when it was last read
        self.next = 0.0

    def __enter__(self) -> Trackers:
        for name in self.names:
            folder = self.directory.path / "trackers"
            folder.mkdir(parents=True, exist_ok=True)
            self.open[name] = TRACKERS[name](folder, self.sweep)
            state = folder / f"{name}.json"
            self.sent[name] = kept.read_or_none(state, {str: int}) or {}
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None):
        for tracker in self.open.values():
            tracker.close()

    def update(self, all_of_it: bool = False) -> None:
        """Send what is new, every EVERY_S seconds or `all_of_it` now."""
        if not self.open or (time.monotonic() < self.next and not all_of_it):
            return
        self.next = time.monotonic() + EVERY_S
        for path in sorted(self.directory.path.glob("trials/*/metrics.jsonl")):
            with contextlib.suppress(FileNotFoundError):  # it is being replaced by a worker that resumes
                size = path.stat().st_size
                if size != self.sizes.get(path) or all_of_it:
                    self._send(path, all_of_it)
                    self.sizes[path] = size

    def _send(self, path: Path, all_of_it: bool) -> None:
        trial = path.parent.name
        config = path.parent / "config.json"
        if not config.exists():
            return
        rows = [row for _, row in read_rows(path)]
        if not all_of_it:  # a second row of the newest step may be on its way
            rows = [row for row in rows if row["step"] < rows[-1]["step"]]
        for name, tracker in self.open.items():
            last = self.sent[name].get(trial, 0)
            new = [row for row in rows if row["step"] > last]
            if new:
                tracker.write(trial, kept.read_or_none(config, dict) or {}, _merged(new))
                self.sent[name][trial] = new[-1]["step"]
                state = self.directory.path / "trackers" / f"{name}.json"
                write_atomically(state, json.dumps(self.sent[name]))


def _merged(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each step: a held-out score is written after the step's training row."""
    steps: dict[int, dict[str, Any]] = {}
    for row in rows:
        steps.setdefault(row["step"], {}).update(row)
    return list(steps.values())


def _check_installed(name: str) -> None:
    import importlib.util

    fix = f"pip install 'isoflop[{name}]'"
    if importlib.util.find_spec(name) is None:
        raise ConfigError("--track", f"{name} is not installed", fix)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for name, inner in value.items() for k, v in _flat(inner, f"{path}.{name}".lstrip(".")).items()}
