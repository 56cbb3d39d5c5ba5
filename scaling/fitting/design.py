"""Which run to make next: the one that narrows what you want to know the most per FLOP, and how many runs it takes.

A fit's information matrix is the inverse of its covariance. A new run adds the outer product of its gradient over the
variance of one row, so the narrowing of a target is closed form (Sherman-Morrison) and runs are chosen one after the
other; nothing depends on what the new run will measure. The law is taken as true: a design narrows its parameters, not
its discrepancy.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from models.errors import ConfigError, nearest
from scaling.fitting.calibration import choose_axis, sizes
from scaling.fitting.covariance import sandwich
from scaling.fitting.fit import Fit
from scaling.fitting.fitted import known_arguments
from scaling.fitting.runs import numbers

BUDGETS, SHAPES = 6, 7


@known_arguments
def design(
    fit: Fit,
    target: str | Mapping[str, float],
    candidates: pd.DataFrame | Mapping | None = None,
    *,
    count: int = 1,
    budget: float = np.inf,
) -> pd.DataFrame:
    """The next `count` runs in the order to make them, chosen greedily by narrowing per FLOP.

    target: a parameter or derived quantity ("a"), the inputs of a prediction (dict(params=7e10, tokens=1.4e12)), or
    "all" for the volume of the confidence region of all parameters (D-optimal). candidates: table of the law's inputs,
    with `flops` where the cost is not 6 params tokens; without it a grid over the fitted sizes. budget: FLOP of all
    runs together. Columns: the inputs, flops, deviation (of the target after this run; relative to now for "all"),
    narrowing (the factor from the run before), per_flop (log narrowing per FLOP). Fewer rows when the budget is spent.
    """
    table = _candidates(fit) if candidates is None else pd.DataFrame(candidates)
    inputs = {name: numbers(table, name, positive=name in ("params", "tokens")) for name in fit.law.inputs}
    cost = numbers(table, "flops", positive=True) if "flops" in table.columns else _cost(inputs)
    rows, row_variance = _gradients(fit, inputs), sandwich(fit.estimator, fit.z, fit.table.clusters)[2]
    covariance = _covariance(fit)
    goal = None if target == "all" else _target(fit, target)
    chosen, left, scale = [], float(budget), 1.0
    for _ in range(count):
        leverage = np.einsum("mi,ij,mj->m", rows, covariance, rows) / row_variance
        if goal is None:
            gain = np.log1p(leverage) / (2 * rows.shape[1])  # a deviation per parameter, not a volume
        else:
            removed = (rows @ covariance @ goal) ** 2 / row_variance / (1 + leverage)
            now = goal @ covariance @ goal
            gain = -0.5 * np.log1p(-np.minimum(removed / max(now, 1e-300), 1 - 1e-12))
        rate = np.where(cost <= left, gain / cost, -np.inf)
        best = int(np.argmax(rate))
        if not np.isfinite(rate[best]):
            break
        step = covariance @ rows[best]
        covariance = covariance - np.outer(step, step) / (row_variance * (1 + leverage[best]))
        left -= cost[best]
        scale *= float(np.exp(-gain[best]))
        deviation = scale if goal is None else float(np.sqrt(max(goal @ covariance @ goal, 0.0)))
        chosen.append(
            {name: inputs[name][best] for name in inputs}
            | {"flops": cost[best], "deviation": deviation, "narrowing": float(np.exp(-gain[best]))}
            | {"per_flop": rate[best]}
        )
    if not chosen:
        raise ConfigError("budget", f"{budget:.4g} FLOP pays for none of {len(table)} runs", "give a larger budget")
    return pd.DataFrame(chosen)


@known_arguments
def runs_needed(fit: Fit, target: str, width: float, interval: float = 0.95) -> int:
    """How many runs like the fitted ones give an interval of `target` (parameter or derived) no wider than `width`.

    The width of an interval falls with the root of the number of runs; NaN intervals raise ConfigError.
    """
    intervals = fit.interval(interval)
    if target not in intervals:
        near = nearest(target, intervals)
        raise ConfigError("target", f"{target!r} is not in the fit", f"use {near!r}" if near else str(list(intervals)))
    if not width > 0:
        raise ConfigError("width", f"{width} is not positive", "give the width of the interval that you want")
    low, high = intervals[target]
    if not np.isfinite(high - low):
        why = fit.certificate.no_interval or "it is on a bound"
        raise ConfigError("target", f"{target!r} has no interval ({why})", "fit a table that determines it")
    return int(np.ceil(fit.certificate.distinct_points * ((high - low) / width) ** 2))


def deviation(fit: Fit, target: str | Mapping[str, float]) -> float:
    """Standard deviation of a target as the design sees it now: in its own unit, predictions in the residual space."""
    goal = _target(fit, target)
    return float(np.sqrt(goal @ _covariance(fit) @ goal))


def _covariance(fit: Fit) -> np.ndarray:
    if not fit.certificate.supports_interval:
        raise ConfigError("fit", f"no interval: {fit.certificate.no_interval}", "add runs before designing the next")
    return sandwich(fit.estimator, fit.z, fit.table.clusters)[1]


def _gradients(fit: Fit, inputs) -> np.ndarray:
    """Gradients [m, F] of linked predictions with respect to the free coordinates."""
    law, free = fit.law, fit.estimator.free
    f = law.evaluate(fit.law.coordinates.to_params(fit.z), inputs, order=1)
    slope, _ = law.coordinates.slopes(law.coordinates.to_params(fit.z))
    value = np.broadcast_to(f.value, np.shape(next(iter(inputs.values()))))
    rows = np.array([np.broadcast_to(f.gradient.get(k, 0.0), value.shape) * slope[k] for k in range(len(slope))])
    link = np.ones_like(value) if fit.objective.counts else fit.objective.link_slope(value)
    return (rows * link)[free].T


def _target(fit: Fit, target) -> np.ndarray:
    """Gradient [F] of the target with respect to the free coordinates."""
    if isinstance(target, str):
        values = {**fit.params, **fit.derived}
        if target not in values or target in fit.fixed:
            near = nearest(target, values)
            raise ConfigError(
                "target",
                f"{target!r} is not a free quantity of {fit.law.name}",
                f"use {near!r}" if near and near != target else f"use one of {', '.join(values)} or 'all'",
            )
        steps = 1e-5 * np.eye(len(fit.z))[fit.estimator.free]
        up, down = (fit.frame(fit.z + sign * steps)[target].to_numpy() for sign in (1, -1))
        return (up - down) / 2e-5
    for name in fit.law.inputs:
        if name not in target:
            raise ConfigError("target", f"the law {fit.law.name} needs {name!r}", f"give {', '.join(fit.law.inputs)}")
    return _gradients(fit, {name: np.atleast_1d(np.asarray(target[name], float)) for name in fit.law.inputs})[0]


def _cost(inputs) -> np.ndarray:
    if choose_axis(inputs) != "flops":
        raise ConfigError("candidates", "no column 'flops' and no params and tokens to compute it from", "add flops")
    return sizes("flops", inputs)


def _candidates(fit: Fit) -> pd.DataFrame:
    """Budgets across the fitted compute, with sizes a factor 4 to either side of the runs' middle shape."""
    inputs = fit.table.inputs
    if set(inputs) != {"params", "tokens"}:
        raise ConfigError("candidates", f"{fit.law.name} has the inputs {', '.join(inputs)}", "give a table of runs")
    compute = 6 * inputs["params"] * inputs["tokens"]
    slope, middle = np.polyfit(np.log(compute), np.log(inputs["params"]), 1) if np.ptp(compute) else (0.5, 0.0)
    budgets = np.repeat(np.geomspace(compute.min(), compute.max(), BUDGETS), SHAPES)
    params = np.exp(middle + slope * np.log(budgets)) * np.tile(np.geomspace(0.25, 4, SHAPES), BUDGETS)
    return pd.DataFrame({"params": params, "tokens": budgets / (6 * params)})
