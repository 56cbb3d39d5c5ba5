"""What figures need of the compute-optimal frontier: isoFLOP curves with their minima, the optimum of a fitted law."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from models.errors import ConfigError
from scaling.fitting.fitted import Fitted
from scaling.fitting.frontier import Frontier, isoflop_minima, parabola
from scaling.report.budgets import budgets

MIN_SIZES = 4  # as isoflop_minima asks for: three points determine a parabola, and leave nothing to doubt it by
RESAMPLES = 200  # per budget: enough for a 90 % interval of an exponent


@dataclass(frozen=True)
class IsoflopCurve:
    """The runs of one budget, and the parabola in ln N through their losses (Hoffmann et al. 2022, approach 2).

    params, loss: [n], by size. coefficients: of (ln N - centre)^2, ^1, ^0, or None with under three sizes.
    best, best_tokens: N* and D*, NaN unless `used`. reason: why the minimum is not used; empty when it is.
    """

    budget: float
    params: np.ndarray
    loss: np.ndarray
    coefficients: np.ndarray | None
    centre: float
    best: float
    best_tokens: float
    reason: str

    @property
    def used(self) -> bool:
        """Whether the minimum counts."""
        return not self.reason

    def at(self, params: np.ndarray | float) -> np.ndarray:
        """The parabola's loss at sizes N."""
        assert self.coefficients is not None
        return np.polyval(self.coefficients, np.log(params) - self.centre)


def isoflop_frontier(runs: pd.DataFrame) -> Frontier | None:
    """Approach 2 over all budgets, or None when fewer than two have a minimum inside their sizes."""
    if not len(runs):
        return None
    try:
        return isoflop_minima(runs.assign(_budget=budgets(runs)), budget="_budget", bootstrap=RESAMPLES)
    except ConfigError:
        return None


def isoflop_curves(runs: pd.DataFrame) -> list[IsoflopCurve]:
    """One curve per budget that has at least two sizes, by budget; the minima are isoflop_frontier's."""
    frontier = isoflop_frontier(runs)
    curves = []
    for budget, group in runs.groupby(budgets(runs)):
        group = group.sort_values("params", kind="stable")
        n, loss = group["params"].to_numpy(float), group["loss"].to_numpy(float)
        sizes = len(np.unique(n))
        if sizes < 2:
            continue
        centre = float(np.log(n).mean())
        coefficients = np.polyfit(np.log(n) - centre, loss, 2) if sizes > 2 else None
        if frontier is not None:
            row = frontier.table.iloc[np.argmin(np.abs(np.log(frontier.table["flops"] / budget)))]
            best, tokens, reason = row["params"], row["tokens"], str(row["reason"])
        else:
            best, tokens, reason = _alone(group)
        if reason:
            best, tokens = np.nan, np.nan
        curves.append(IsoflopCurve(float(budget), n, loss, coefficients, centre, float(best), float(tokens), reason))
    return curves


def _alone(group: pd.DataFrame) -> tuple[float, float, str]:
    """(N*, D*, why not) of one budget when there is no second one to make a frontier with."""
    x, y = np.log(group["params"].to_numpy(float)), group["loss"].to_numpy(float)
    at, _, _ = parabola(x, y)
    if len(np.unique(x)) < MIN_SIZES:
        return np.nan, np.nan, f"{len(np.unique(x))} sizes, at least {MIN_SIZES} are needed"
    if not np.isfinite(at):
        return np.nan, np.nan, "no curvature in the loss"
    if not x.min() < at < x.max():
        return np.nan, np.nan, "the minimum is on the edge of the sizes"
    return float(np.exp(at)), float(np.exp(np.interp(at, x, np.log(group["tokens"].to_numpy(float))))), ""


def flops_per_token(runs: pd.DataFrame, params: np.ndarray) -> np.ndarray:
    """Training FLOPs per token of models of N parameters, as the runs' own exact counts have it.

    a N + b sqrt(N) + c with non-negative terms, fitted to relative error: in a family of fixed depth the matrices cost
    ~N, attention and the head ~width ~ sqrt(N). Far above the runs it tends to a N, where a is near 6.
    """
    table = runs.drop_duplicates("params")
    known = table["params"].to_numpy(float)
    cost = (table["flops"] / table["tokens"]).to_numpy(float)
    powers = np.array([1.0, 0.5, 0.0])[: len(known)]
    weights, _ = nnls(known[:, None] ** powers / cost[:, None], np.ones(len(known)))
    return (np.asarray(params, float)[..., None] ** powers) @ weights


def optimal_path(fit: Fitted, runs: pd.DataFrame, flops: np.ndarray) -> pd.DataFrame:
    """The fitted law's optimum at each compute [c]: columns flops, params, tokens, loss.

    Minimises L(N, C / flops_per_token(N)) on a grid in ln N refined by a parabola, so it needs no 6ND rule.
    """
    budget = np.asarray(flops, float)
    sizes = np.geomspace(runs["params"].min() / 1e3, runs["params"].max() * 1e3, 600)
    cost = flops_per_token(runs, sizes)
    loss = fit.law(fit.params, params=sizes, tokens=budget[:, None] / cost)  # [c, sizes]
    lowest = np.clip(np.argmin(loss, axis=1), 1, len(sizes) - 2)
    left, middle, right = (loss[np.arange(len(budget)), lowest + step] for step in (-1, 0, 1))
    curvature = left - 2 * middle + right
    shift = 0.5 * (left - right) / np.where(curvature > 0, curvature, np.inf)
    params = sizes[lowest] * (sizes[1] / sizes[0]) ** np.clip(shift, -1, 1)
    tokens = budget / flops_per_token(runs, params)
    loss = fit.law(fit.params, params=params, tokens=tokens)
    return pd.DataFrame({"flops": budget, "params": params, "tokens": tokens, "loss": loss})
