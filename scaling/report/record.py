"""RunRecord: what a report reads. Whatever is absent or damaged becomes a note, so that a report says so."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from models.errors import ConfigError
from scaling import kept, tables
from scaling.fitting.fit import Fit
from scaling.report.budgets import budgets

NUMERIC = ("params", "params_nonembed", "tokens", "unique_tokens", "flops", "loss", "bpb", "wall_s", "devices")
TEXT = ("trial", "sweep", "status", "error", "device", "config")
PREDICTION_COLUMNS = (
    "trial",
    "law",
    "time",
    "commit",
    "params",
    "tokens",
    "flops",
    "mean",
    "low",
    "high",
    "interval",
    "fitted_on",
    "measured",
    "status",
    "miss",
    "inside",
    "factor",
)


@dataclass(frozen=True)
class RunRecord:
    """One run directory, read once.

    runs: every row of results.parquet, with `role` ("fitted", "held out", "failed"), `budget` (FLOPs), `spent_flops`
    and `spent_tokens` (up to the last logged step of a failed trial) added. predictions: one row per held-out trial,
    the *first* one written, with what was measured.
    """

    path: Path
    config: dict[str, Any]
    runs: pd.DataFrame
    predictions: pd.DataFrame
    fit: Fit | None
    notes: tuple[str, ...] = ()
    metrics: dict[str, pd.DataFrame] = field(default_factory=dict)  # trial -> rows with step, tokens, flops, loss
    data: dict[str, Any] = field(default_factory=dict)  # what it was trained on: Dataset.record by key

    @property
    def name(self) -> str:
        """The sweep's name, from its config or its rows."""
        named = self.config.get("name") or next((s for s in self.runs["sweep"] if isinstance(s, str) and s), None)
        return str(named or self.path.resolve().name)

    @property
    def plans_budgets(self) -> bool:
        """Whether its config has compute budgets or a prediction, or says nothing of either."""
        return any(self.config.get(name, True) is not None for name in ("isoflop", "prediction"))

    def of_role(self, role: str) -> pd.DataFrame:
        """The rows of one role: "fitted", "held out" or "failed"."""
        return self.runs[self.runs["role"] == role]

    @property
    def tested(self) -> pd.DataFrame:
        """Predictions whose run has been measured."""
        return self.predictions[np.isfinite(self.predictions["measured"].astype(float))]

    def command(self, trial: str) -> str:
        """The shell command that trains one row again, into a directory of its own."""
        config = self.path / "trials" / trial / "config.json"
        again = self.path / "again" / trial
        return f"python -m launch.train --config {shlex.quote(str(config))} --workdir {shlex.quote(str(again))}"


def read(workdir: str | Path) -> RunRecord:
    """Read a run directory; ConfigError when there is none. Nothing in it is required."""
    path = Path(workdir)
    if not path.is_dir():
        raise ConfigError(str(path), "is not a directory", "give the --workdir of a sweep")
    notes: list[str] = []
    config = _read_config(path / "config.json", notes)
    runs = _read_results(path / "results.parquet", notes)
    predictions = _read_predictions(path / "predictions.jsonl", notes)
    held_out = set(predictions["trial"])
    done = (runs["status"] == "done") & np.isfinite(runs["loss"])
    unusable = int(((runs["status"] == "done") & ~done).sum())
    if unusable:
        notes.append(f"{unusable} trial(s) are marked done but have no finite loss; they are listed as failed.")
    runs["role"] = np.where(done, np.where(runs["trial"].isin(held_out), "held out", "fitted"), "failed")
    runs["budget"] = budgets(runs)
    sized = runs.loc[(runs[["params", "tokens", "flops"]] > 0).all(axis=1), "trial"]
    metrics = {trial: m for trial in sized if (m := _read_metrics(path, trial, notes)) is not None}
    for name in ("flops", "tokens"):
        last = {trial: m[name].max() for trial, m in metrics.items()}
        at_last_log = runs["trial"].map(last).astype(float).fillna(runs[name])
        runs[f"spent_{name}"] = runs[name].where(runs["role"] != "failed", at_last_log)
    fit, compared, data = _read_fit(path / "fit.json", notes), _compare(predictions, runs), _read_data(path, notes)
    return RunRecord(path, config, runs, compared, fit, tuple(notes), metrics, data)


def failure(error: Any) -> tuple[str, str]:
    """(step, reason) of a failed trial from its error text; the step is "–" when the text names none."""
    text = error if isinstance(error, str) and error else "no reason was recorded"
    found = re.search(r"\bstep (\d+)", text)
    return (f"{int(found[1]):,}" if found else "–"), text


def _read_config(path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        return kept.read(path, dict)
    except FileNotFoundError:
        notes.append("config.json is missing: the sweep's own settings are not shown.")
    except (ValueError, OSError) as e:
        notes.append(f"config.json cannot be read ({e}).")
    return {}


def _read_data(path: Path, notes: list[str]) -> dict[str, Any]:
    """Dataset.record by key from manifest.json; empty where there is none."""
    file = path / "manifest.json"
    try:
        data = kept.read(file, {"data": {str: dict}})["data"] if file.exists() else {}
        return {key: record for key, record in data.items() if "sources" in record}
    except (ValueError, OSError) as e:
        notes.append(f"manifest.json cannot be read ({e}).")
        return {}


def _read_results(path: Path, notes: list[str]) -> pd.DataFrame:
    try:
        runs = tables.read(path).to_pandas() if path.exists() else None
    except (ValueError, OSError) as e:
        notes.append(f"results.parquet cannot be read ({e}).")
        runs = pd.DataFrame()
    if runs is None:
        notes.append("results.parquet is missing: no trial has finished yet.")
        runs = pd.DataFrame()
    for name in NUMERIC:
        column = runs[name] if name in runs else pd.Series(np.nan, index=runs.index)
        runs[name] = pd.to_numeric(column.where(column.map(np.isscalar)), errors="coerce").astype(float)
    for name in TEXT:
        column = runs[name] if name in runs else pd.Series("", index=runs.index)
        runs[name] = column.astype(object).where(column.notna(), "").astype(str)
    if "seed" not in runs:
        runs["seed"] = 0
    return runs.sort_values(["flops", "params", "seed", "trial"], kind="stable", ignore_index=True)


def _read_predictions(path: Path, notes: list[str]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    damaged = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            row = kept.parsed(line, {"inputs": dict}, path)
            if row.get("late"):
                continue  # its run had been trained before
            words = {name: str(row.get(name, "")) for name in ("trial", "law", "time", "commit")}
            inputs = {name: float(row["inputs"].get(name, math.nan)) for name in ("params", "tokens", "flops")}
            predicted = {name: float(row[name]) for name in ("mean", "interval")}
            predicted |= {name: math.nan if row[name] is None else float(row[name]) for name in ("low", "high")}
            rows.append({**words, **inputs, **predicted, "fitted_on": row.get("fitted_on")})
        except (ValueError, KeyError, TypeError, OverflowError):
            damaged += 1
    if damaged:
        notes.append(f"predictions.jsonl has {damaged} unreadable line(s); they were left out.")
    table = pd.DataFrame(rows).reindex(columns=list(PREDICTION_COLUMNS))
    first = table.drop_duplicates("trial", ignore_index=True)
    if len(first) < len(table):
        notes.append(f"{len(table) - len(first)} later prediction(s) of the same trials are ignored: the first counts.")
    return first


def _compare(predictions: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Fill in what became of each prediction: measured loss, relative miss, whether the interval held."""
    table = predictions.copy()
    by_trial = runs.drop_duplicates("trial").set_index("trial")
    measured = by_trial["loss"].where(by_trial["role"] == "held out").reindex(table["trial"])
    table["measured"] = measured.to_numpy(float)
    roles = by_trial["role"].reindex(table["trial"])
    table["status"] = roles.map({"held out": "measured", "failed": "failed"}).fillna("not run yet").to_numpy()
    table["miss"] = table["mean"] / table["measured"] - 1
    inside = (table["low"] <= table["measured"]) & (table["measured"] <= table["high"])
    # an interval without ends neither holds nor misses
    table["inside"] = inside.astype(object).where(table[["low", "measured", "high"]].notna().all(axis=1), None)
    table["factor"] = table["flops"] / runs.loc[runs["role"] == "fitted", "flops"].max()
    return table.sort_values(["flops", "trial"], kind="stable", ignore_index=True)


def _read_metrics(path: Path, trial: str, notes: list[str]) -> pd.DataFrame | None:
    """Training rows of one trial, or None; rows of held-out scores along the way carry no training loss."""
    if not trial or Path(trial).name != trial:
        notes.append(f"trial {trial!r} is not a directory name; its training curve is not shown.")
        return None
    rows: list[dict[str, Any]] = []
    file = path / "trials" / trial / "metrics.jsonl"
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []:
        try:
            row = kept.parsed(line, dict, file)
        except ConfigError:
            continue  # cut short by a crash, or damaged since
        if "loss" in row:
            rows.append({name: _number(row.get(name)) for name in ("step", "tokens", "flops", "loss")})
    return pd.DataFrame(rows) if rows else None


def _number(value: Any) -> float:
    """A JSON value as a number; NaN for null and anything else that is none."""
    return float(value) if isinstance(value, (int, float)) and abs(value) < 2**63 else math.nan


def _read_fit(path: Path, notes: list[str]) -> Fit | None:
    if not path.exists():
        return None
    try:
        return Fit.from_json(path)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, OSError) as e:
        notes.append(f"fit.json cannot be used ({e}).")
        return None


def is_surface(fit: Fit | None) -> bool:
    """Whether the fit is a law L(N, D), which the surface, frontier and residual figures need."""
    return fit is not None and set(fit.law.inputs) == {"params", "tokens"} and fit.law.output == "loss"
