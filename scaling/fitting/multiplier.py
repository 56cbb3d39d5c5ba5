"""Compute multipliers: how much compute a baseline needs for the loss that another architecture reaches.

Each architecture's isoFLOP minima (budgets x sizes; Hoffmann et al. 2022, approach 2) lie near L(C) = E + A C^-gamma,
with an A and a gamma of its own. The floor E is that of the text, which all share, unless a floor for each foretells
the largest budget better from the smaller ones. The multiplier at compute C is C' / C with L_baseline(C') = L(C): above
1 the architecture saves compute.

A budget has a handful of sizes, too few to say how well its own minimum is known. So the scatter of losses around their
parabolas is pooled over all budgets of all architectures, and what the minima scatter around the laws beyond that is
added (Paule and Mandel 1982), with the degrees of freedom of both in the intervals.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from models.errors import ConfigError, require
from scaling.fitting.frontier import budget_groups
from scaling.fitting.runs import Runs, as_table, missing, numbers

Floor = Literal["shared", "own"]
GAPS = np.geomspace(1e-3, 1.0, 400)  # (lowest minimum - E) / lowest minimum: the floors that are tried
SIZES = 4  # of a budget, at least: a parabola has three parameters


class Minima(NamedTuple):
    """The minima of all architectures' budgets: ln C, loss and variance of the loss from the scatter within budgets,
    `[m]` each, group `[m]` codes; freedom: degrees of freedom behind the pooled scatter."""

    log_flops: np.ndarray
    loss: np.ndarray
    variance: np.ndarray
    group: np.ndarray
    freedom: int


@dataclasses.dataclass(frozen=True, eq=False)
class Multipliers:
    """table: one row per architecture with multiplier, low, high, loss (at `flops`), floor, A, gamma, budgets (used of
    all); floor: how E was chosen, with the error of either choice on the largest budget in `errors`; level: of the
    intervals; minima: one row per budget; between: scatter of the minima around the laws beyond that within budgets,
    nats/token; draws: E, ln A and gamma `[1 + resamples, architectures, 3]`, those of the fit first."""

    baseline: str
    flops: float
    floor: Floor
    errors: dict[str, float]
    level: float
    table: pd.DataFrame
    minima: pd.DataFrame
    between: float
    draws: np.ndarray

    def summary(self) -> str:
        """One line per architecture."""
        said = ", ".join(f"{name} {100 * error:.2g} %" for name, error in self.errors.items())
        lines = [f"compute that {self.baseline} needs for the same loss, at {self.flops:.3g} FLOP ({self.level:.0%})"]
        lines.append(f"  floor {self.floor}" + (f" (largest budget foretold to: {said})" if said else ""))
        lines += [
            f"  {name:16} {row.multiplier:.3g} [{row.low:.3g}, {row.high:.3g}]  L = {row.loss:.4g}"
            for name, row in self.table.iterrows()
        ]
        rejected = self.minima[~self.minima["used"]]
        lines += [f"! {row.group} at {row.flops:.3g} FLOP: {row.reason}" for row in rejected.itertuples()]
        return "\n".join(lines)

    __repr__ = summary


def compute_multipliers(
    runs: Runs,
    *,
    group: str = "architecture",
    baseline: str,
    flops: float | None = None,
    floor: Floor | None = None,
    columns: Mapping[str, str] | None = None,
    level: float = 0.9,
    resamples: int = 1000,
    seed: int = 0,
) -> Multipliers:
    """The multiplier of every value of the column `group` against `baseline`.

    runs: params, tokens, flops and loss of isoFLOP runs, or a column `budget` that names their groups. flops: where,
    the largest budget unless given. floor: None chooses by the error at the largest budget where every architecture has
    four. Raises ConfigError where an architecture has fewer than three budgets with a minimum.
    """
    table = as_table(runs, columns, ("params", "tokens", "flops", "loss", group))
    if group not in table.columns:
        missing(group, table.columns)
    names = [baseline, *(n for n in dict.fromkeys(table[group].astype(str)) if n != baseline)]
    require(baseline in set(table[group].astype(str)), "baseline", f"is {baseline!r}", f"use one of {names[1:]}")
    rows, minima = find_minima(table, group, names)
    at = float(flops or np.exp(minima.log_flops.max()))
    errors: dict[str, float] = {}
    if floor is None:
        errors = {kind: _largest(minima, len(names), kind) for kind in ("shared", "own")}
        known = all(np.isfinite(error) for error in errors.values())
        floor = "own" if known and errors["own"] < errors["shared"] else "shared"
        errors = errors if known else {}
    between = _between(minima, len(names), floor)
    spread = np.sqrt(minima.variance + between**2)
    fitted = laws(minima.log_flops, minima.loss[None], spread, minima.group, len(names), floor)
    rng = np.random.default_rng(seed)
    wide = np.sqrt(minima.freedom / rng.chisquare(minima.freedom, (resamples, 1)))
    drawn = minima.loss + spread * wide * rng.standard_normal((resamples, len(minima.loss)))
    draws = laws(minima.log_flops, drawn, spread, minima.group, len(names), floor)
    point, many = (ratios(parameters, at) for parameters in (fitted, draws))
    low, high = np.nanquantile(many, [(1 - level) / 2, (1 + level) / 2], axis=0)
    used = rows[rows["used"]].groupby("group").size()
    e, log_a, gamma = fitted[0].T
    found = pd.DataFrame({
        "multiplier": point[0], "low": low, "high": high, "loss": heights(fitted, np.log(at))[0],
        "floor": e, "A": np.exp(log_a), "gamma": gamma,
        "budgets": [f"{used.get(n, 0)} of {(rows['group'] == n).sum()}" for n in names],
    }, index=pd.Index(names, name=group))  # fmt: skip
    return Multipliers(baseline, at, floor, errors, level, found, rows, between, np.concatenate([fitted, draws]))


def find_minima(table: pd.DataFrame, group: str, names: list[str]) -> tuple[pd.DataFrame, Minima]:
    """Every budget's minimum as a table with `used` and `reason`, and the used ones with their variances."""
    of, budget = table[group].astype(str).to_numpy(), _budgets(table, group)
    size, loss = np.log(numbers(table, "params", positive=True)), numbers(table, "loss", positive=True)
    cost = np.log(numbers(table, "flops", positive=True))
    rows, leverages, left, freedom = [], [], 0.0, 0
    for code, name in enumerate(names):
        for one in np.unique(budget[of == name]):
            inside = (of == name) & (budget == one)
            at, height, leverage, squares, spare, reason = _parabola(size[inside], loss[inside])
            rows.append({"group": name, "code": code, "flops": np.exp(cost[inside].mean()), "params": np.exp(at),
                         "loss": height, "sizes": int(inside.sum()), "used": not reason, "reason": reason})  # fmt: skip
            leverages.append(leverage)
            left, freedom = left + squares, freedom + spare
    found = pd.DataFrame(rows)
    used = found["used"].to_numpy(bool)
    for name in names:
        count = int((used & (found["group"] == name)).sum())
        if count < 3:
            why = "; ".join(dict.fromkeys(found["reason"][(found["group"] == name) & ~used]))
            raise ConfigError("runs", f"{name} has {count} budgets with a minimum, and 3 are needed ({why})",
                              "train more budgets, or sizes around the minima")  # fmt: skip
    require(
        freedom >= 1, "runs", "every budget has as many sizes as a parabola has parameters", "train 4 sizes or more"
    )
    variance = np.array(leverages)[used] * left / freedom
    flops, losses, codes = (found.loc[used, name].to_numpy() for name in ("flops", "loss", "code"))
    return found, Minima(np.log(flops), losses, variance, codes, freedom)


def _budgets(table: pd.DataFrame, group: str) -> np.ndarray:
    """Codes of budgets, within each architecture."""
    if "budget" in table.columns and table["budget"].notna().all():
        return np.unique(table["budget"].astype(str), return_inverse=True)[1]
    of, codes = table[group].astype(str).to_numpy(), np.empty(len(table), int)
    flops, params, tokens = (numbers(table, name, positive=True) for name in ("flops", "params", "tokens"))
    for name in np.unique(of):
        inside = of == name
        codes[inside] = budget_groups(flops[inside], params[inside], tokens[inside])
    return codes


def _parabola(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float, float, int, str]:
    """The minimum of the loss over ln N: its place and height, the height's variance in units of one loss's, the
    squared residuals and their degrees of freedom, and why the budget is not used (empty: it is)."""
    nothing = (np.nan, np.nan, np.nan, 0.0, 0)
    if len(np.unique(x)) < SIZES:
        return *nothing, f"{len(np.unique(x))} sizes, {SIZES} are needed"
    center, width = x.mean(), np.ptp(x)
    design = ((x - center) / width)[:, None] ** np.arange(3)
    inverse = np.linalg.inv(design.T @ design)
    level, slope, curvature = inverse @ design.T @ y
    squares, spare = float(np.sum((y - design @ [level, slope, curvature]) ** 2)), len(x) - 3
    if not curvature > 0:
        return np.nan, np.nan, np.nan, squares, spare, "no curvature in the loss"
    at = -slope / (2 * curvature)
    if not x.min() < at * width + center < x.max():
        return np.nan, np.nan, np.nan, squares, spare, "the minimum is on the edge of the sizes"
    powers = at ** np.arange(3)  # the height moves with the parabola; with its own place only in second order
    return at * width + center, float(powers @ [level, slope, curvature]), powers @ inverse @ powers, squares, spare, ""


def laws(
    log_flops: np.ndarray, loss: np.ndarray, spread: np.ndarray, group: np.ndarray, groups: int, floor: Floor
) -> np.ndarray:
    """E, ln A and gamma `[B, groups, 3]` for minima `loss` [B, m] with deviations `spread` [m]: for every floor of a
    grid ln(L - E) is a weighted line in ln C; the floor with the least squares is taken."""
    squares, lines, floors = [], [], []
    for code in range(groups):
        mine = group == code
        y, c = loss[:, mine], log_flops[mine]
        base = (loss if floor == "shared" else y).min(1, keepdims=True) * (1 - GAPS)  # [B, floors]
        above = np.maximum(y[:, None] - base[..., None], 1e-12)
        weight = (above / spread[mine]) ** 2
        total = weight.sum(-1, keepdims=True)
        middle = (weight * c).sum(-1, keepdims=True) / total
        height = (weight * np.log(above)).sum(-1, keepdims=True) / total
        lean = weight * (c - middle)
        slope = (lean * np.log(above)).sum(-1, keepdims=True) / (lean * (c - middle)).sum(-1, keepdims=True)
        line = height + slope * (c - middle)
        squares.append((((y[:, None] - base[..., None] - np.exp(line)) / spread[mine]) ** 2).sum(-1))
        lines.append(np.stack([(height - slope * middle)[..., 0], -slope[..., 0]], -1))
        floors.append(base)
    costs = np.sum(squares, 0, keepdims=True) if floor == "shared" else np.array(squares)
    best = costs.argmin(-1)  # [1 or groups, B]
    rows = np.arange(len(loss))
    found = [
        np.concatenate([floors[g][rows, at][:, None], lines[g][rows, at]], -1)
        for g, at in ((g, best[0 if floor == "shared" else g]) for g in range(groups))
    ]
    return np.stack(found, 1)


def heights(parameters: np.ndarray, log_flops: Any) -> np.ndarray:
    """L(C) `[B, groups]`."""
    floor, log_a, gamma = np.moveaxis(parameters, -1, 0)
    return floor + np.exp(log_a - gamma * log_flops)


def ratios(parameters: np.ndarray, flops: float) -> np.ndarray:
    """C' / C `[B, groups]` with L of the first group at C' equal to each group's at C; infinite below its floor."""
    floor, log_a, gamma = (part[:, :1] for part in np.moveaxis(parameters, -1, 0))
    above = heights(parameters, np.log(flops)) - floor
    with np.errstate(all="ignore"):
        needed = (log_a - np.log(above)) / gamma
        return np.where(above > 0, np.exp(np.minimum(needed - np.log(flops), 700)), np.inf)


def _between(minima: Minima, groups: int, floor: Floor) -> float:
    """Standard deviation of minima around their laws beyond that within budgets: with it the weighted, squared
    residuals sum to their degrees of freedom."""
    freedom = len(minima.loss) - 2 * groups - (1 if floor == "shared" else groups)
    if freedom < 1:
        return 0.0

    def surplus(variance: float) -> float:
        spread = np.sqrt(minima.variance + variance)
        fitted = laws(minima.log_flops, minima.loss[None], spread, minima.group, groups, floor)[0]
        e, log_a, gamma = fitted[minima.group].T
        left = (minima.loss - e - np.exp(log_a - gamma * minima.log_flops)) / spread
        return float(left @ left) - freedom

    if surplus(0.0) <= 0:
        return 0.0
    largest = float(np.var(minima.loss)) + 1e-12
    found = brentq(surplus, 0.0, largest, xtol=1e-12) if surplus(largest) < 0 else largest
    return float(np.sqrt(found))


def _largest(minima: Minima, groups: int, floor: Floor) -> float:
    """Mean relative error of the law at every architecture's largest budget, fitted to the others; NaN where one has
    fewer than four."""
    last = np.zeros(len(minima.loss), bool)
    for code in range(groups):
        mine = np.flatnonzero(minima.group == code)
        if len(mine) < 4:
            return np.nan
        last[mine[minima.log_flops[mine].argmax()]] = True
    spread = np.sqrt(minima.variance + minima.variance.mean())
    rest = ~last
    fitted = laws(minima.log_flops[rest], minima.loss[None, rest], spread[rest], minima.group[rest], groups, floor)[0]
    e, log_a, gamma = fitted[minima.group[last]].T
    foretold = e + np.exp(log_a - gamma * minima.log_flops[last])
    return float(np.mean(np.abs(foretold / minima.loss[last] - 1)))
