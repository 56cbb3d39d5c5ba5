"""The held-out run of a sweep: which shape, and what the fitted law predicts of it, before it is trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from models import counts
from models.errors import ConfigError, require
from models.serialize import to_json
from scaling.kept import write_atomically
from scaling.registered import Registered, of_run
from scaling.sweep.card import git_commit
from scaling.sweep.config import SweepConfig
from scaling.sweep.directory import RunDirectory
from scaling.sweep.isoflop import Isoflop, at_budget
from scaling.sweep.trial import Trial, override

if TYPE_CHECKING:
    import pandas as pd

    from scaling import laws


def check_prediction(config: SweepConfig, trials: Sequence[Trial]) -> None:
    """ConfigError when the sweep's law could not be fitted to its trials, or foretell a run: known before any training.

    The law must want only what trials have, have no more parameters than there are distinct runs, and see every one of
    its inputs vary; and a candidate must reach the compute of the held-out run.
    """
    from scaling import laws

    assert config.prediction is not None
    law = laws.by_name(config.prediction.law)
    have = [law_inputs(trial) for trial in trials]
    missing = [name for name in law.inputs if name not in have[0]]
    fix = f"use a law of the loss in {', '.join(have[0])}"
    problem = f"{law.name} is a law of {', '.join(missing) or law.output}, which a sweep does not measure"
    require(not missing and law.output == "loss", "prediction.law", problem, fix)
    problem = f"{law.name} has {len(law.parameters)} parameters, but the sweep has {len(trials)} runs to fit it to"
    fix = "add budgets, widths or seeds, or choose another law"
    require(len(trials) >= len(law.parameters), "prediction.law", problem, fix)
    for name in law.inputs:
        varies = len({inputs[name] for inputs in have}) > 1
        problem = f"{law.name} needs runs that differ in {name}, and these do not"
        require(varies, "prediction.law", problem, "add budgets or widths")
    candidates(config)


def candidates(config: SweepConfig) -> list[Trial]:
    """The shapes that the held-out run may have; ConfigError when none reaches its compute."""
    assert config.prediction is not None and config.isoflop is not None
    plan = config.prediction
    budget, widths = plan.factor * max(config.isoflop.budgets), plan.widths or config.isoflop.widths
    found = [
        override(config.base, point).resolved()
        for width in widths
        if (point := at_budget(_unbounded(config.isoflop), config.base, budget, width)) is not None
    ]
    if not found:
        raise ConfigError("prediction.widths", f"none of {list(widths)} reaches {budget:.3g} FLOPs", "add widths")
    return found


def heldout_trial(config: SweepConfig, directory: RunDirectory) -> tuple[laws.Fit, Trial]:
    """Fit the law on the finished trials and choose the held-out shape that it likes best; writes fit.json."""
    from scaling import laws  # a second of import, which a sweep that predicts nothing need not spend

    assert config.prediction is not None
    plan = config.prediction
    runs = fitted_runs(directory)
    fit = laws.fit(plan.law, runs, objective=plan.objective, bootstrap=plan.bootstrap, seed=config.train.seed)
    write_atomically(directory.path / "fit.json", fit.to_json())
    return fit, min(candidates(config), key=lambda trial: loss_prediction(fit, trial, plan.interval).mean)


def fitted_runs(directory: RunDirectory) -> pd.DataFrame:
    """The rows that laws are fitted to: finished trials, held-out runs aside."""
    frame = directory.results.frame()
    return frame[(frame["status"] == "done") & (frame["split"] == "fit")]


def is_foretold(config: SweepConfig, directory: RunDirectory) -> bool:
    """Whether the sweep predicts nothing, or has predicted from the runs that it now has."""
    lines = directory.predictions()
    if config.prediction is None:
        return True
    if not lines:
        return False
    runs = fitted_runs(directory)
    key = _key(config, runs)
    return any(line.get("key", key if line["fitted_on"] == len(runs) else "") == key for line in lines)


def registered(directory: RunDirectory) -> list[Registered]:
    """What the sweep foretold of runs that it had not trained, with what they measured; failed runs are left out."""
    found = []
    for line in directory.predictions():
        row = directory.results.get(line["trial"])
        if row and row["status"] == "done" and not line.get("late"):
            name = f"{directory.path.name}, {line['inputs']['flops']:.2g} FLOPs"
            said = (line["mean"], line["low"], line["high"])
            found.append(of_run(name, said, row["loss"], float(line["interval"])))
    return found


def _key(config: SweepConfig, runs: pd.DataFrame) -> str:
    """What a prediction depends on: its own settings, the plan it extrapolates, and the runs."""
    asked = to_json(config)
    parts = [asked["prediction"], asked["isoflop"], sorted(runs["trial"])]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _unbounded(plan: Isoflop) -> Isoflop:
    """The plan's shapes and budgets without its limits on tokens per parameter: the law chooses."""
    return Isoflop(plan.budgets, plan.widths, 1e-9, 1e9, plan.learning_rate_exponent, plan.tolerance, plan.min_steps)


def loss_prediction(fit: laws.Fit, trial: Trial, interval: float) -> laws.Prediction:
    """The law's prediction of a trial's loss."""
    inputs = law_inputs(trial)
    return fit.predict(interval, **{name: inputs[name] for name in fit.law.inputs})  # type: ignore[arg-type]


def law_inputs(trial: Trial) -> dict[str, float]:
    """What laws may ask of a trial, by the names of the results columns."""
    return {
        "params": float(counts.params(trial.model)),
        "params_nonembed": float(counts.params_nonembed(trial.model)),
        "tokens": float(trial.train.tokens),
        "flops": float(trial.flops),
    }


def predict(config: SweepConfig, fit: laws.Fit, trial: Trial, directory: RunDirectory) -> dict[str, Any]:
    """The line of predictions.jsonl for `trial`; `late` when that run has been trained already, so it tests nothing."""
    assert config.prediction is not None
    prediction = loss_prediction(fit, trial, config.prediction.interval)
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "trial": trial.id,
        "law": fit.law.name,
        "inputs": law_inputs(trial),
        "mean": float(prediction.mean),
        "low": float(prediction.low),
        "high": float(prediction.high),
        "interval": config.prediction.interval,
        "fitted_on": len(fit.table.measured),
        "key": _key(config, fitted_runs(directory)),
    } | ({"late": True} if directory.results.has(trial.id) else {})
