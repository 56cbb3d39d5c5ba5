"""`fit(law, runs)`: the point fit, its certificate, and everything that is asked of it afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from models.errors import ConfigError
from scaling.fitting.bootstrap import jackknife
from scaling.fitting.certificate import certify, narrow_inputs, repeated, robust_scale
from scaling.fitting.covariance import sandwich
from scaling.fitting.estimator import Estimator
from scaling.fitting.fitted import Fitted, Interval, check_level, known_arguments
from scaling.fitting.law import Law, Values, as_law
from scaling.fitting.objectives import Objective
from scaling.fitting.profile import profile
from scaling.fitting.runs import Runs
from scaling.fitting.scale import with_scale
from scaling.fitting.serialize import fields_of, parts_of, reading, write
from scaling.fitting.start_grid import optimum
from scaling.fitting.table import read_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclasses.dataclass(eq=False, repr=False)
class Fit(Fitted):
    """A law fitted to a table: what `Fitted` predicts, with intervals of the parameters, pictures and files."""

    @known_arguments
    def interval(self, interval: float = 0.95, method: str = "percentile") -> Values:
        """Confidence interval of every parameter and derived quantity: name -> Interval(low, high).

        method: "percentile" or "bca" from the bootstrap; "normal" from the asymptotic covariance (used when there are
        no resamples); "profile" from the rise of the objective (derived quantities: normal). NaN where the certificate
        says that the rows cannot support an interval.
        """
        check_level(interval, "interval")
        names = [*self.law.parameters, *self.law.derived]
        none = Values({name: Interval(np.nan, np.nan) for name in names})
        if not self.certificate.supports_interval:
            return none
        profiled = {}
        if method == "profile":
            free = [name for name in self.law.parameters if name not in self.fixed]
            profiles = {name: profile(self, name, interval) for name in free}
            profiled, method = {name: Interval(p.low, p.high) for name, p in profiles.items()}, "normal"
        if self.draws is None or method == "normal":
            frame = self.frame(self._asymptotic(4000))
            method = "percentile"
        else:
            frame = self.samples
        point = {**self.params, **self.derived}
        tails = dict.fromkeys(names, ((1 - interval) / 2, (1 + interval) / 2))
        if method == "bca":
            left_out = self.frame(jackknife(self.estimator, self.z, self.table.clusters))
            tails = {name: _bca_tails(frame[name], point[name], left_out[name], interval) for name in names}
        elif method != "percentile":
            raise ConfigError("method", f"{method!r} is not known", "use 'percentile', 'bca', 'normal' or 'profile'")
        out = {name: Interval(*(float(q) for q in np.quantile(frame[name], tails[name]))) for name in names}
        bound = [name for name in self.certificate.active_bounds if name in out]
        bound += self.derived_from(bound)
        fixed = {name: Interval(value, value) for name, value in self.fixed.items()}
        return Values({**out, **profiled, **{name: Interval(np.nan, np.nan) for name in bound}, **fixed})

    def _asymptotic(self, size: int) -> np.ndarray:
        """Draws z [size, K] from the sandwich covariance."""
        _, covariance, _ = sandwich(self.estimator, self.z, self.table.clusters)
        z = np.repeat(self.z[None], size, 0)
        values, vectors = np.linalg.eigh(covariance)
        normal = np.random.default_rng(self.seed).standard_normal((size, len(covariance)))
        z[:, self.estimator.free] += normal * np.sqrt(np.maximum(values, 0)) @ vectors.T
        return np.clip(z, self.law.coordinates.low, self.law.coordinates.high)

    @known_arguments
    def summary(self, interval: float = 0.95) -> str:
        """A short report: parameters with intervals, derived quantities, fit quality, and every flag."""
        intervals, lines = self.interval(interval), [f"{self.law.name}: {self.law.formula}"]
        kind = f"{self.draws.kind} bootstrap x {len(self.draws.z)}" if self.draws else "asymptotic"
        lines.append(
            f"{self.certificate.points} rows, {self.objective.kind} objective in {self.objective.space} space "
            f"= {self.certificate.objective:.12g}; intervals {interval:.0%}, {kind}"
        )
        for name, value in {**self.params, **self.derived}.items():
            low, high = intervals[name]
            band = f"[{low:.6g}, {high:.6g}]" if np.isfinite(low) else "no interval"
            lines.append(f"  {name:<10} {value:<14.8g} {band}{self._note(name)}")
        lines.append(
            f"residual scale {robust_scale(self.residuals):.3g}; {self.certificate.agreed:.0%} of "
            f"{self.certificate.starts} starts agreed; gradient {self.certificate.gradient_norm:.1e}; "
            f"condition {self.certificate.condition:.2g}"
        )
        lines += [f"{note}" for note in self.table.notes]
        lines += [f"! {warning}" for warning in self.certificate.warnings]
        return "\n".join(lines)

    __repr__ = summary

    def _note(self, name: str) -> str:
        """What a reader must know about one number."""
        if name in self.fixed:
            return " (fixed)"
        if name in self.certificate.active_bounds:
            return " (on its bound)"
        if name in self.derived_from(self.certificate.active_bounds):
            return " (from a parameter on its bound)"
        return " (not identified)" if name in self.certificate.not_identified else ""

    def _repr_html_(self) -> str:
        from scaling.fitting.display import fit_html

        return fit_html(self, self.interval(0.95))

    def plot(self, kind: str = "predicted", ax: Axes | None = None, **options: Any) -> Axes:
        """A matplotlib Axes: "predicted" against measured, "residuals", "isoflop", "contour", or "profile" of a
        `parameter` (the law's first exponent unless named)."""
        from scaling.fitting.display import plot_fit

        return plot_fit(self, kind, ax, **options)

    def to_json(self, path: str | Path | None = None) -> str:
        """The fit as JSON in full precision (data, parameters, draws, calibration); written to `path` when given."""
        return write("fit", fields_of(self), path)

    @staticmethod
    def from_json(source: str | Path, law: Law | None = None) -> Fit:
        """The fit that `to_json` wrote: a path or the JSON text; pass `law` when it is not one of the catalogue.

        Raises ConfigError naming the file when it is no saved fit, or parts of it are missing.
        """
        with reading(source, "fit") as document:
            return Fit.of(document, law)

    @staticmethod
    def of(document: Mapping[str, Any], law: Law | None = None) -> Fit:
        """The fit of `fields_of`; `law` when it is not one of the catalogue. ValueError when parts are missing or do
        not belong together."""
        return Fit(**parts_of(document, law))


def _bca_tails(draws, point, left_out, level) -> tuple[float, float]:
    """Bias-corrected and accelerated quantile levels (Efron 1987)."""
    below = np.clip(np.mean(np.asarray(draws) < point), 1e-4, 1 - 1e-4)
    bias = stats.norm.ppf(below)
    deviation = np.mean(left_out) - np.asarray(left_out)
    acceleration = np.sum(deviation**3) / (6 * np.sum(deviation**2) ** 1.5 + 1e-300)
    ends = bias + stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    tails = stats.norm.cdf(bias + ends / (1 - acceleration * ends))
    return float(tails[0]), float(tails[1])


@known_arguments
def fit(
    law: Law | str,
    runs: Runs,
    *,
    columns: Mapping[str, str] | None = None,
    cluster: str | None = None,
    weights: str | Sequence[float] | np.ndarray | None = None,
    trials: str | None = None,
    strata: str | None = None,
    objective: str | None = None,
    delta: float | str | None = None,
    space: str | None = None,
    fixed: Mapping[str, float] | None = None,
    bootstrap: int = 0,
    resample: str | None = None,
    seed: int = 0,
    starts: int | Mapping | pd.DataFrame = 16,
    where: str | None = None,
    drop_bad: bool = False,
) -> Fit:
    """Fit `law` to `runs`, certified.

    law: a Law or the name of one in the catalogue. runs: DataFrame, mapping of columns, or a path (CSV, parquet,
    directory). columns: renames, {"params": "N"}. cluster: column naming the run of each row. weights: column or array
    of inverse variances. trials: column with the number of trials of a measured fraction. objective: "huber", "lad",
    "gaussian", "student_t", "binomial", "beta_binomial"; delta: Huber width (1e-3), "mad" or "cv"; Student scale or
    beta-binomial concentration otherwise. space: "log", "raw" or "logit" instead of the law's own. fixed: parameter ->
    value held there. bootstrap: number of resamples, of the kind `resample` (row; cluster when one is named). starts:
    how many, or coordinates [S, K] of your own as a table of parameters. where: the rows to fit, as "tokens > 1e9".
    drop_bad: leave rows out that are not finite or not positive where they must be, and say how many, instead of
    refusing them.

    Raises ConfigError naming the row or column for NaN, non-positive losses, missing columns, unknown laws.
    """
    law = as_law(law)
    kind, space = objective or law.objective, space or law.space
    goal = Objective(kind, space)
    table = read_table(law, runs, columns, cluster, weights, trials, strata, space, goal.counts, where, drop_bad)
    if goal.counts and table.trials is None:
        raise ConfigError("trials", f"the {kind} objective needs the number of trials", "name the column with trials=")
    fixed = _check_fixed(law, fixed, len(table.measured))
    estimator = Estimator(law, table.inputs, table.measured, goal, table.weights, table.trials, fixed)
    estimator = with_scale(estimator, delta)
    count, own = (starts, None) if isinstance(starts, int) else (16, pd.DataFrame(starts)[list(law.parameters)])
    search, grid = optimum(estimator, count, None if own is None else law.coordinates.to_z(own.to_numpy(float)))
    if not np.isfinite(search.value).any():
        raise ConfigError("runs", f"{law.name} is not finite at any start", "check the units of the columns")
    notes = [*narrow_inputs(table.inputs), *table.doubts]
    z = search.z[int(np.argmin(search.value))]
    params = Values({k: float(v) for k, v in zip(law.parameters, law.coordinates.to_params(z), strict=True)})
    certificate = certify(estimator, search, table.rows, notes, table.clusters)
    out = Fit(law, params, certificate, estimator.objective, table, z, seed=seed, fixed=fixed)
    out.__dict__["estimator"] = estimator  # the cached property, already at hand
    if out.certificate.duplicates and table.clusters is None:
        out.table = dataclasses.replace(table, clusters=repeated(table.inputs, table.measured))
    return out.resampled(bootstrap, seed, resample, grid) if bootstrap else out


def _check_fixed(law: Law, fixed: Mapping[str, float] | None, rows: int) -> dict[str, float]:
    """The held parameters; ConfigError for unknown ones, and when the rows are fewer than what is left to fit."""
    held = dict(fixed or {})
    for name in held:
        if name not in law.bounds:
            raise ConfigError("fixed", f"{law.name} has no parameter {name!r}", f"use one of {', '.join(law.bounds)}")
        low, high = law.bounds[name]
        inside = np.isfinite(held[name]) and (low is None or held[name] >= low) and (high is None or held[name] <= high)
        if not inside:
            ends = f"{'-inf' if low is None else low} and {'inf' if high is None else high}"
            raise ConfigError("fixed", f"{name} is {held[name]}", f"give a number between {ends}")
    free = len(law.parameters) - len(held)
    if rows < free:
        raise ConfigError("runs", f"{rows} rows for {free} parameters", "add runs, or hold parameters with fixed=")
    return held
