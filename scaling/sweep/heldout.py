"""The held-out run of a sweep: which shape, and what the fitted law predicts of it, before it is trained."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from typing import Any

from models import counts
from models.errors import ConfigError
from scaling import laws
from scaling.kept import write_atomically
from scaling.sweep.config import SweepConfig
from scaling.sweep.directory import RunDirectory
from scaling.sweep.isoflop import Isoflop, at_budget
from scaling.sweep.trial import Trial, override


def heldout_trial(config: SweepConfig, directory: RunDirectory) -> tuple[laws.Fit, Trial]:
    """Fit the law on the finished trials and choose the held-out shape that it likes best; writes fit.json."""
    assert config.prediction is not None and config.isoflop is not None
    plan = config.prediction
    frame = directory.results.frame()
    runs = frame[(frame["status"] == "done") & (frame["split"] == "fit")]
    fit = laws.fit(plan.law, runs, objective=plan.objective, bootstrap=plan.bootstrap, seed=config.train.seed)
    write_atomically(directory.path / "fit.json", fit.to_json())
    budget = plan.factor * max(config.isoflop.budgets)
    candidates = [
        override(config.base, point).resolved()
        for width in plan.widths or config.isoflop.widths
        if (point := at_budget(_unbounded(config.isoflop), config.base, budget, width)) is not None
    ]
    if not candidates:
        raise ConfigError("prediction.widths", f"no width reaches {budget:.3g} FLOPs", "add widths")
    return fit, min(candidates, key=lambda trial: loss_prediction(fit, trial, plan.interval).mean)


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


def predict(config: SweepConfig, fit: laws.Fit, trial: Trial) -> dict[str, Any]:
    """The line of predictions.jsonl for `trial`."""
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
    }


def git_commit() -> str | None:
    """The commit of the working directory, None outside a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
