"""Held-out tests of a law: one cut, rolling cuts with baselines, and laws against each other.

Error is what counts (a law with more parameters always has the smaller residual), and with it coverage, width and
interval score of the prediction intervals: infinitely wide bands cover everything.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from models.errors import ConfigError, require
from scaling.fitting.calibration import FALLING, origins, sizes
from scaling.fitting.fit import Fit, fit
from scaling.fitting.fitted import ExtrapolationWarning, check_level, only_known
from scaling.fitting.law import Law, as_law
from scaling.fitting.objectives import Objective
from scaling.fitting.runs import Runs, as_table, numbers
from scaling.fitting.table import must_be_positive, without_bad
from scaling.fitting.where import select

# what a held-out test hands on to `fit`, and the one word for the level of an interval
FIT_OPTIONS = ("cluster", "weights", "trials", "strata", "objective", "delta", "space", "fixed", "resample", "starts",
               "drop_bad", "interval")  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Holdout:
    """One held-out test: the fit on the rows below the cut, and the table of the rows above it.

    table: inputs, measured, predicted, low, high, inside, error (relative, signed), naive_low, naive_high (parameter
    bootstrap alone), baseline_last, baseline_power.
    """

    fit: Fit
    table: pd.DataFrame
    where: str
    interval: float

    @property
    def error(self) -> float:
        """Mean absolute relative error of the predictions."""
        return float(self.table["error"].abs().mean())

    @property
    def coverage(self) -> float:
        """Share of the held-out measurements inside their prediction interval; NaN when the fit supports none."""
        return _share(self.table["inside"])

    @property
    def naive_coverage(self) -> float:
        """The same for intervals from the parameter bootstrap alone, as they are usually published."""
        t = self.table
        return float(((t["measured"] >= t["naive_low"]) & (t["measured"] <= t["naive_high"])).mean())

    @property
    def width(self) -> float:
        """Mean width of the intervals relative to the prediction."""
        return float(((self.table["high"] - self.table["low"]) / self.table["predicted"].abs()).mean())

    @property
    def score(self) -> float:
        """Mean interval score (Winkler; relative to the prediction, lower is better)."""
        return float(interval_score(self.table, "low", "high", self.interval).mean())

    @property
    def naive_score(self) -> float:
        """Interval score of the naive intervals."""
        return float(interval_score(self.table, "naive_low", "naive_high", self.interval).mean())

    def summary(self) -> str:
        """Error against the baselines, coverage and score against the naive intervals."""
        t = self.table
        return (
            f"{self.fit.law.name} fitted on {self.fit.certificate.points} rows, {len(t)} held out by {self.where}\n"
            f"  error     {self.error:.3%} (last value {_relative(t, 'baseline_last'):.3%}, "
            f"power law without E {_relative(t, 'baseline_power'):.3%})\n"
            + self._intervals()
            + "".join(f"\n! {note}" for note in self.doubts)
        )

    def _intervals(self) -> str:
        """Coverage, width and score, or why there are none."""
        if np.isnan(self.coverage):
            return f"  no intervals: {self.fit.certificate.no_interval or 'fewer rows than parameters and two'}"
        naive = f"parameters alone {self.naive_coverage:.1%}"
        return (
            f"  coverage  {self.coverage:.1%} of {self.interval:.0%} intervals ({naive})\n"
            f"  width     {self.width:.3%}\n  score     {self.score:.4g} (parameters alone {self.naive_score:.4g})"
        )

    @property
    def doubts(self) -> tuple[str, ...]:
        """What a reader must know about these intervals: reaches that no cut inside the fitted rows has tested."""
        return self.fit.doubts(**{name: self.table[name].to_numpy(float) for name in self.fit.law.inputs})

    __repr__ = summary


def _share(inside: pd.Series) -> float:
    """Share of true among what is defined; NaN when nothing is."""
    known = inside.dropna()
    return float(known.astype(bool).mean()) if len(known) else float("nan")


def _relative(table: pd.DataFrame, column: str) -> float:
    return float((table[column] / table["measured"] - 1).abs().mean())


def interval_score(table: pd.DataFrame, low: str, high: str, interval: float) -> pd.Series:
    """Width plus 2/(1 - interval) x the distance of each miss, by the prediction (Gneiting and Raftery 2007)."""
    y, miss = table["measured"], 2 / (1 - interval)
    under, over = (table[low] - y).clip(lower=0), (y - table[high]).clip(lower=0)
    return (table[high] - table[low] + miss * (under + over)) / table["predicted"].abs()


def holdout(
    law: Law | str,
    runs: Runs,
    where: str,
    *,
    interval: float = 0.9,
    bootstrap: int = 256,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
    **options,
) -> Holdout:
    """Fit on the rows that do not satisfy `where`, score on those that do.

    where: "flops > 1e20"; parsed, never evaluated. Other arguments as in `fit`. Raises ConfigError when the expression
    matches no row or leaves none to fit on.
    """
    law = as_law(law)
    only_known("holdout", options, FIT_OPTIONS)
    check_level(interval, "interval")
    table = _good(law, as_table(runs, columns, (*law.inputs, law.output)), options)
    mask = select(table, where)
    if mask.all():
        raise ConfigError("where", f"{where!r} holds out every row", "leave rows to fit on")
    fitted = fit(law, table[~mask], bootstrap=bootstrap, seed=seed, **options)
    return Holdout(fitted, score(fitted, table[mask], interval), where, interval)


def score(fitted: Fit, held_out: pd.DataFrame, interval: float = 0.9) -> pd.DataFrame:
    """Predictions, intervals and baselines of `fitted` for the rows of `held_out`, one row each."""
    law = fitted.law
    inputs = {name: numbers(held_out, name) for name in law.inputs}
    measured = numbers(held_out, law.output)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)  # the summary says it
        prediction = fitted.predict(interval, True, **inputs)
    naive_low, naive_high = naive_band(fitted, inputs, interval)
    axis = sizes(fitted.table.axis_name, inputs)
    columns = {
        **inputs,
        "measured": measured,
        "predicted": prediction.mean,
        "low": prediction.low,
        "high": prediction.high,
        "naive_low": naive_low,
        "naive_high": naive_high,
    }
    table = pd.DataFrame(columns, index=held_out.index)
    inside = (table["measured"] >= table["low"]) & (table["measured"] <= table["high"])
    undefined = table["low"].isna() | table["high"].isna()
    # a missing interval is neither hit nor miss
    table["inside"] = inside.astype("boolean").mask(undefined) if undefined.any() else inside
    table["error"] = table["predicted"] / table["measured"] - 1
    table["baseline_last"], table["baseline_power"] = baselines(fitted, axis)
    return table


def naive_band(fitted: Fit, inputs: Mapping[str, np.ndarray], interval: float) -> tuple[np.ndarray, np.ndarray]:
    """The band usually published: quantiles of the refitted curves, neither noise nor calibration."""
    curves = fitted.outputs(fitted.prediction_draws(), inputs)
    low, high = np.quantile(
        np.broadcast_to(curves, (len(curves), len(next(iter(inputs.values()))))),
        [(1 - interval) / 2, (1 + interval) / 2],
        axis=0,
    )
    return low, high


def baselines(fitted: Fit, axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a law must beat: the output of the largest fitted run, and a straight line in logs of the same axis."""
    t = fitted.table
    last = np.full(len(axis), t.measured[int(np.argmax(t.axis))])
    if np.any(t.measured <= 0) or np.any(t.axis <= 0) or np.ptp(t.axis) == 0:
        return last, last
    slope, intercept = np.polyfit(np.log(t.axis), np.log(t.measured), 1, w=np.sqrt(t.weights))
    return last, np.exp(intercept + slope * np.log(axis))


def rolling(
    law: Law | str,
    runs: Runs,
    *,
    by: str = "flops",
    cuts: int | Sequence[float] = 6,
    interval: float = 0.9,
    bootstrap: int = 128,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
    **options,
) -> pd.DataFrame:
    """Held-out tests at several cuts of the column `by` (flops, params, tokens): one row per held-out measurement.

    cuts: how many, which then lie between budgets (sizes within 10 % are one), or the values themselves. Rows above a
    cut are held out; by a loss, those below it. Columns: cut, reach (size / cut), fitted_on and those of
    `Holdout.table`. Averages: `rolling(...).groupby("cut")[["error", "inside"]].mean()`.
    """
    law = as_law(law)
    only_known("rolling", options, FIT_OPTIONS)
    check_level(interval, "interval")
    table = _good(law, as_table(runs, columns, (*law.inputs, law.output, by)), options)
    axis = _axis(table, by, by in law.zeros)
    values = origins(axis, len(law.parameters), cuts) if isinstance(cuts, int) else _on_axis(cuts, by)
    if not values:
        raise ConfigError(
            "runs",
            f"{len(table)} rows leave no cut of {by} with 2 rows per parameter below it",
            "add runs, or give cuts=",
        )
    parts = []
    for cut in values:
        inside = axis <= cut * (1 + 1e-12)  # the inverse of an inverse may round
        if not inside.any() or inside.all():
            side = "below" if inside.any() else "above"
            raise ConfigError("cuts", f"{cut:.4g} has no row of {by} {side} it to test on or to fit", "move the cut")
        fitted = fit(law, table[inside], bootstrap=bootstrap, seed=seed, **options)
        part = score(fitted, table[~inside], interval)
        part.insert(0, "cut", 1 / cut if by in FALLING else cut)
        part.insert(1, "reach", axis[~inside] / cut)
        part.insert(2, "fitted_on", int(inside.sum()))
        parts.append(part)
    return pd.concat(parts)


def _on_axis(cuts: Sequence[float], by: str) -> list[float]:
    """Cuts of the column `by` on its axis of sizes, or back."""
    return [1 / cut if by in FALLING else float(cut) for cut in cuts]


def _axis(table: pd.DataFrame, by: str, zeros: bool = False) -> np.ndarray:
    """Sizes [n] that grow with the run: a column, of which `zeros` may be some, or the inverse of a loss."""
    values = numbers(table, by, positive=not zeros)
    return 1 / values if by in FALLING else values


def _good(law: Law, table: pd.DataFrame, options: Mapping[str, Any]) -> pd.DataFrame:
    """The table without its bad rows where `drop_bad` asks for that: those held out are dropped like those fitted."""
    if not options.get("drop_bad"):
        return table
    notes = list(table.attrs.get("notes", ()))
    goal = Objective(options.get("objective") or law.objective, options.get("space") or law.space)
    table = without_bad(table, must_be_positive(law, goal.space, goal.counts), notes)
    table.attrs["notes"] = tuple(notes)
    return table


def compare(
    laws: Sequence[Law | str],
    runs: Runs,
    *,
    by: str = "flops",
    cuts: int | Sequence[float] = 6,
    interval: float = 0.9,
    **options,
) -> pd.DataFrame:
    """Laws ranked by held-out error at the same rolling cuts, baselines included: one row per law.

    Columns: error (mean absolute relative), coverage, width, score, parameters.
    """
    only_known("compare", options, ("bootstrap", "seed", "columns", *FIT_OPTIONS))
    resolved = [as_law(law) for law in laws]
    require(bool(resolved), "laws", "there are none to compare", "name at least one")
    if isinstance(cuts, int):
        table = as_table(runs, options.get("columns"), {n for law in resolved for n in (*law.inputs, law.output, by)})
        zeros = any(by in law.zeros for law in resolved)
        found = origins(_axis(table, by, zeros), max(len(law.parameters) for law in resolved), cuts)
        cuts = _on_axis(found, by)  # a loss goes there and back
        if not cuts:
            problem = f"{len(table)} rows leave no cut of {by} with 2 rows per parameter of the largest law below it"
            raise ConfigError("runs", problem, "add runs, or give cuts=")
    rows = []
    for law in resolved:
        table = rolling(law, runs, by=by, cuts=cuts, interval=interval, **options)
        rows.append(
            {
                "law": law.name,
                "error": table["error"].abs().mean(),
                "coverage": _share(table["inside"]),
                "width": ((table["high"] - table["low"]) / table["predicted"].abs()).mean(),
                "score": interval_score(table, "low", "high", interval).mean(),
                "held_out": len(table),
            }
        )
    for name in ("last", "power"):
        rows.append(
            {
                "law": {"last": "last value", "power": "power law without E"}[name],
                "error": _relative(table, f"baseline_{name}"),
                "held_out": len(table),
            }
        )
    return pd.DataFrame(rows).set_index("law").sort_values("error")
