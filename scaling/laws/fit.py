"""`fit(law, runs)`: the point fit, its certificate, and everything that is asked of it afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import pandas as pd
from scipy import stats

from models.errors import ConfigError, require
from scaling.laws import calibration
from scaling.laws.bootstrap import Draws, bootstrap, codes, jackknife
from scaling.laws.certificate import Certificate, certify, repeated, robust_scale
from scaling.laws.estimator import Estimator
from scaling.laws.law import Law, Values
from scaling.laws.objectives import Objective
from scaling.laws.profile import profile, sandwich
from scaling.laws.runs import Runs, as_table, check_units, missing, numbers, row_name, row_names
from scaling.laws.start_grid import optimum

PREDICTION_RESAMPLES = 256
DELTAS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


class Interval(NamedTuple):
    """Both ends; NaN when the fit cannot support one."""

    low: float
    high: float


class Prediction(NamedTuple):
    """Predicted output in its own unit and the ends of its prediction interval (for a new run, noise included)."""

    mean: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray
    interval: float = 0.9


@dataclasses.dataclass(frozen=True)
class Table:
    """The numbers a fit was made from: inputs name -> [n], measured [n], weights [n], trials [n] or None, cluster and
    strata codes [n] or None, the name of each row, and how many rows were left out as failed."""

    inputs: dict[str, np.ndarray]
    measured: np.ndarray
    weights: np.ndarray
    trials: np.ndarray | None
    clusters: np.ndarray | None
    strata: np.ndarray | None
    axis_name: str
    axis: np.ndarray
    rows: list[str]


@dataclasses.dataclass(eq=False)
class Fit:
    """One law fitted to one table. `params` and `certificate` are there at once, the rest when asked for."""

    law: Law
    params: Values
    certificate: Certificate
    objective: Objective
    table: Table
    z: np.ndarray  # [K] coordinates of params
    draws: Draws | None = None
    seed: int = 0
    fixed: dict[str, float] = dataclasses.field(default_factory=dict)
    held_out_calibration: calibration.Calibration | None = None

    @cached_property
    def estimator(self) -> Estimator:
        """The estimator that made this fit."""
        t = self.table
        return Estimator(self.law, t.inputs, t.measured, self.objective, t.weights, t.trials, self.fixed)

    @property
    def derived(self) -> Values:
        """The law's derived quantities at the fitted parameters."""
        return Values({name: float(f(self.params)) for name, f in self.law.derived.items()})

    @property
    def residuals(self) -> np.ndarray:
        """Measured minus predicted [n], in the residual space."""
        return self.estimator.residuals(self.z)

    @property
    def samples(self) -> pd.DataFrame:
        """Bootstrap draws, one row per resample: the parameters and the derived quantities."""
        if self.draws is None:
            raise ConfigError("bootstrap", "this fit has no resamples", "fit again with bootstrap=1000")
        return self.frame(self.draws.z)

    def frame(self, z: np.ndarray) -> pd.DataFrame:
        """Parameters and derived quantities at coordinates z [B, K], one row each."""
        params = pd.DataFrame(self.law.coordinates.to_params(z), columns=list(self.law.parameters))
        columns = Values({name: params[name].to_numpy() for name in params})
        with np.errstate(all="ignore"):  # a draw may lie where a derived quantity is 0 / 0
            for name, derive in self.law.derived.items():
                params[name] = derive(columns)
        return params

    def resampled(self, size: int = 1000, seed: int | None = None, kind: str | None = None) -> Fit:
        """The same fit with `size` bootstrap draws; kind is one of bootstrap.KINDS, by run when a cluster is named."""
        kind = kind or ("cluster" if self.table.clusters is not None else "row")
        seed = self.seed if seed is None else seed
        draws = bootstrap(self.estimator, self.z, size, seed, kind, self.table.clusters, self.table.strata)
        return dataclasses.replace(self, draws=draws, seed=seed)

    def interval(self, level: float = 0.95, method: str = "percentile") -> Values:
        """Confidence interval of every parameter and derived quantity: name -> Interval(low, high).

        method: "percentile" or "bca" from the bootstrap; "normal" from the asymptotic covariance (used when there are
        no resamples); "profile" from the rise of the objective (derived quantities: normal). NaN where the certificate
        says that the rows cannot support an interval.
        """
        check_level(level, "level")
        names = [*self.law.parameters, *self.law.derived]
        none = Values({name: Interval(np.nan, np.nan) for name in names})
        if not self.certificate.supports_interval:
            return none
        profiled = {}
        if method == "profile":
            free = [name for name in self.law.parameters if name not in self.fixed]
            profiles = {name: profile(self, name, level) for name in free}
            profiled, method = {name: Interval(p.low, p.high) for name, p in profiles.items()}, "normal"
        if self.draws is None or method == "normal":
            frame = self.frame(self._asymptotic(4000))
            method = "percentile"
        else:
            frame = self.samples
        point = {**self.params, **self.derived}
        tails = dict.fromkeys(names, ((1 - level) / 2, (1 + level) / 2))
        if method == "bca":
            left_out = self.frame(jackknife(self.estimator, self.z, self.table.clusters))
            tails = {name: _bca_tails(frame[name], point[name], left_out[name], level) for name in names}
        elif method != "percentile":
            raise ConfigError("method", f"{method!r} is not known", "use 'percentile', 'bca', 'normal' or 'profile'")
        out = {name: Interval(*(float(q) for q in np.quantile(frame[name], tails[name]))) for name in names}
        bound = [name for name in self.certificate.active_bounds if name in out]
        fixed = {name: Interval(value, value) for name, value in self.fixed.items()}
        return Values({**out, **profiled, **{name: Interval(np.nan, np.nan) for name in bound}, **fixed})

    def _asymptotic(self, size: int) -> np.ndarray:
        """Draws z [size, K] from the sandwich covariance."""
        _, covariance, _ = sandwich(self)
        z = np.repeat(self.z[None], size, 0)
        values, vectors = np.linalg.eigh(covariance)
        normal = np.random.default_rng(self.seed).standard_normal((size, len(covariance)))
        z[:, self.estimator.free] += normal * np.sqrt(np.maximum(values, 0)) @ vectors.T
        return np.clip(z, self.law.coordinates.low, self.law.coordinates.high)

    @property
    def noise(self) -> float:
        """Standard deviation of one run around the law, in the residual space (counts: of Pearson residuals, where the
        binomial alone makes 1)."""
        return calibration.noise_scale(self.residuals, int(self.estimator.free.sum()), self.objective)

    @cached_property
    def calibrated(self) -> calibration.Calibration:
        """Rolling held-out tests inside the fitted table; made on the first prediction interval."""
        if self.held_out_calibration is not None:
            return self.held_out_calibration
        t, predicted = self.table, self.estimator.predict(self.z[None])[0]
        noise = float(np.median(calibration.scatter(self.objective, predicted, self.noise, t.trials)))
        return calibration.calibrate(self.estimator, t.axis_name, t.axis, noise, t.clusters, self.seed)

    def discrepancy(self, **inputs) -> np.ndarray:
        """Standard deviation [m] of the law's own error at the given inputs, in the residual space (counts: logits):
        none well inside the fitted sizes, growing with the reach beyond them."""
        size = calibration.sizes(self.table.axis_name, {k: np.asarray(v, float) for k, v in inputs.items()})
        return self.calibrated.at(calibration.reaches(np.atleast_1d(size), self.table.axis.max()))

    def predict(self, interval: float = 0.9, calibrated: bool = True, **inputs) -> Prediction:
        """Output of a new run at the given inputs (scalars or arrays), and the interval its measurement should fall in.

        Three variances add up: the parameters' (bootstrap), that of one run (residuals; for counts, of a share of the
        table's median number of trials), and the discrepancy of the law that rolling extrapolations inside the table
        showed (`calibrated=False` leaves that out). NaN ends when the rows cannot support an interval.
        """
        check_level(interval, "interval")
        for name in self.law.inputs:
            if name not in inputs:
                missing_input(name, self.law, inputs)
        arrays = {name: np.atleast_1d(np.asarray(inputs[name], float)) for name in self.law.inputs}
        scalar = all(np.ndim(inputs[name]) == 0 for name in self.law.inputs)
        shape = np.broadcast_shapes(*(a.shape for a in arrays.values()))
        mean = np.broadcast_to(self.outputs(self.z[None], arrays)[0], shape)
        low, high = self._band(arrays, mean, interval, calibrated)
        if scalar:
            return Prediction(float(mean[0]), float(low[0]), float(high[0]), interval)
        return Prediction(np.array(mean), low, high, interval)

    def outputs(self, z, arrays) -> np.ndarray:
        """Outputs [S, m] at coordinates z [S, K]."""
        return self.law.evaluate(self.law.coordinates.to_params(z), arrays).value

    def prediction_draws(self) -> np.ndarray:
        """Draws z [B, K] that stand for the uncertainty of the parameters: the bootstrap's, else a small one's."""
        return self._few_draws if self.draws is None else self.draws.z

    @cached_property
    def _few_draws(self) -> np.ndarray:
        few = self.resampled(PREDICTION_RESAMPLES).draws
        return self.z[None] if few is None else few.z

    def _band(self, arrays, mean, level, calibrated):
        """Ends of the prediction interval [m]."""
        if self.certificate.points < len(self.law.parameters) + 2:
            return np.full_like(mean, np.nan), np.full_like(mean, np.nan)
        goal = self.objective
        center = calibration.linked(goal, mean)
        draws = calibration.linked(goal, self.outputs(self.prediction_draws(), arrays))
        deviation = calibration.spread(draws - center)
        if calibrated:
            deviation = np.hypot(deviation, self.discrepancy(**arrays))
        free = int(self.estimator.free.sum())
        degrees = calibration.degrees(self.certificate.points, free, self.table.clusters)
        if goal.counts:
            trials = float(np.median(np.asarray(self.table.trials)))
            return calibration.share_ends(center, deviation, self.noise, trials, level, degrees)
        half = stats.t.ppf(0.5 + level / 2, degrees) * np.hypot(deviation, self.noise)
        return goal.unlink(center - half), goal.unlink(center + half)

    def summary(self, level: float = 0.95) -> str:
        """A short report: parameters with intervals, derived quantities, fit quality, and every flag."""
        intervals, lines = self.interval(level), [f"{self.law.name}: {self.law.formula}"]
        kind = f"{self.draws.kind} bootstrap x {len(self.draws.z)}" if self.draws else "asymptotic"
        lines.append(
            f"{self.certificate.points} rows, {self.objective.kind} objective in {self.objective.space} space "
            f"= {self.certificate.objective:.12g}; intervals {level:.0%}, {kind}"
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
        lines += [f"! {warning}" for warning in self.certificate.warnings]
        return "\n".join(lines)

    __repr__ = summary

    def _note(self, name: str) -> str:
        """What a reader must know about one number."""
        if name in self.fixed:
            return " (fixed)"
        if name in self.certificate.active_bounds:
            return " (on its bound)"
        return " (not identified)" if name in self.certificate.not_identified else ""

    def _repr_html_(self) -> str:
        from scaling.laws.display import fit_html

        return fit_html(self)

    def plot(self, kind: str = "predicted", ax=None, **options):
        """A matplotlib Axes: "predicted" against measured, "residuals", "isoflop", "contour", or "profile" of a
        `parameter` (the law's first exponent unless named)."""
        from scaling.laws.display import plot_fit

        return plot_fit(self, kind, ax, **options)

    def to_json(self, path: str | Path | None = None) -> str:
        """The fit as JSON in full precision (data, parameters, draws, calibration); written to `path` when given."""
        from scaling.laws.serialize import fields_of, write

        return write("fit", fields_of(self), path)

    @staticmethod
    def from_json(source: str | Path, law: Law | None = None) -> Fit:
        """The fit that `to_json` wrote: a path or the JSON text; pass `law` when it is not one of the catalogue.

        Raises ConfigError naming the file when it is no saved fit, or parts of it are missing.
        """
        from scaling.laws.serialize import fit_of, reading

        with reading(source, "fit") as document:
            return fit_of(document, law)


def check_level(level: float, field: str) -> None:
    """Raise the error for a level that is not between 0 and 1, such as 95."""
    require(0 < level < 1, field, f"{level} is not a probability", "use a value such as 0.95")


def missing_input(name: str, law: Law, given: Iterable[str]) -> NoReturn:
    """Raise the error for an input that predict() was not given."""
    raise ConfigError(
        f"predict({', '.join(given)})", f"the law {law.name} needs {name!r}", f"give {', '.join(law.inputs)}"
    )


def _bca_tails(draws, point, left_out, level) -> tuple[float, float]:
    """Bias-corrected and accelerated quantile levels (Efron 1987)."""
    below = np.clip(np.mean(np.asarray(draws) < point), 1e-4, 1 - 1e-4)
    bias = stats.norm.ppf(below)
    deviation = np.mean(left_out) - np.asarray(left_out)
    acceleration = np.sum(deviation**3) / (6 * np.sum(deviation**2) ** 1.5 + 1e-300)
    ends = bias + stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    tails = stats.norm.cdf(bias + ends / (1 - acceleration * ends))
    return float(tails[0]), float(tails[1])


def read_table(
    law: Law,
    runs: Runs,
    columns: Mapping[str, str] | None = None,
    cluster: str | None = None,
    weights: str | Sequence[float] | np.ndarray | None = None,
    trials: str | None = None,
    strata: str | None = None,
    space: str = "log",
    counts: bool = False,
) -> Table:
    """The law's columns of `runs` as checked arrays; see `fit` for the arguments."""
    extra = [c for c in (cluster, weights, trials, strata) if isinstance(c, str)]
    needed = {*law.inputs, law.output, *extra}
    table = as_table(runs, columns, needed, derive="flops" in needed)
    if not len(table):
        raise ConfigError("runs", "the table has no rows", "give at least as many runs as the law has parameters")
    for name in (*law.inputs, law.output, *extra):
        if name not in table.columns:
            missing(name, table.columns)
    sized = {"params", "tokens", "flops", "params_nonembed", "params_active", "unique_tokens"}
    inputs = {name: numbers(table, name, positive=name in sized) for name in law.inputs}
    measured = numbers(table, law.output, positive=space == "log" and not counts)
    given = "flops" in table.columns and "derived" not in table.attrs
    check_units({**inputs, **({"flops": table["flops"].to_numpy(float)} if given else {})})
    if space == "logit" or counts:
        _check_fractions(table, law.output, measured, counts)
    axis_name = calibration.choose_axis(inputs)
    return Table(
        inputs,
        measured,
        _inverse_variances(table, weights),
        numbers(table, trials, positive=True) if trials else None,
        None if cluster is None else codes(table[cluster]),
        None if strata is None else codes(table[strata]),
        axis_name,
        calibration.sizes(axis_name, inputs),
        row_names(table),
    )


def _check_fractions(table: pd.DataFrame, output: str, measured: np.ndarray, counts: bool) -> None:
    """Raise an error naming the first row that is no fraction; counts may be all or nothing."""
    edge = (measured <= 0) | (measured >= 1)
    bad = np.flatnonzero(edge & ~((measured == 0) | (measured == 1)) if counts else edge)
    if len(bad):
        row = int(bad[0])
        raise ConfigError(row_name(table, row), f"{output} is {measured[row]}", "give a fraction between 0 and 1")


def _inverse_variances(table: pd.DataFrame, weights) -> np.ndarray:
    """Weights [n], positive: a column, an array, or ones."""
    if weights is None:
        return np.ones(len(table))
    w = numbers(table, weights, positive=True) if isinstance(weights, str) else np.asarray(weights, float)
    if len(w) != len(table) or not np.all(w > 0):
        problem = f"{len(w)} weights for {len(table)} rows, all must be positive"
        raise ConfigError("weights", problem, "give inverse variances, one per row")
    return w


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
) -> Fit:
    """Fit `law` to `runs`, certified.

    law: a Law or the name of one in the catalogue. runs: DataFrame, mapping of columns, or a path (CSV, parquet,
    directory). columns: renames, {"params": "N"}. cluster: column naming the run of each row. weights: column or array
    of inverse variances. trials: column with the number of trials of a measured fraction. objective: "huber", "lad",
    "gaussian", "student_t", "binomial", "beta_binomial"; delta: Huber width (1e-3), "mad" or "cv"; Student scale or
    beta-binomial concentration otherwise. space: "log", "raw" or "logit" instead of the law's own. fixed: parameter ->
    value held there. bootstrap: number of resamples, of the kind `resample` (row; cluster when one is named). starts:
    how many, or coordinates [S, K] of your own as a table of parameters.

    Raises ConfigError naming the row or column for NaN, non-positive losses, missing columns, unknown laws.
    """
    if isinstance(law, str):
        from scaling.laws.catalogue import by_name

        law = by_name(law)
    kind, space = objective or law.objective, space or law.space
    goal = Objective(kind, space)
    table = read_table(law, runs, columns, cluster, weights, trials, strata, space, goal.counts)
    if goal.counts and table.trials is None:
        raise ConfigError("trials", f"the {kind} objective needs the number of trials", "name the column with trials=")
    fixed = _check_fixed(law, fixed, len(table.measured))
    estimator = Estimator(law, table.inputs, table.measured, goal, table.weights, table.trials, fixed)
    estimator = with_scale(estimator, delta)
    count, own = (starts, None) if isinstance(starts, int) else (16, pd.DataFrame(starts)[list(law.parameters)])
    search, _ = optimum(estimator, count, None if own is None else law.coordinates.to_z(own.to_numpy(float)))
    if not np.isfinite(search.value).any():
        raise ConfigError("runs", f"{law.name} is not finite at any start", "check the units of the columns")
    notes = [f"{name} does not vary" for name, values in table.inputs.items() if np.ptp(values) == 0]
    z = search.z[int(np.argmin(search.value))]
    params = Values({k: float(v) for k, v in zip(law.parameters, law.coordinates.to_params(z), strict=True)})
    certificate = certify(estimator, search, table.rows, notes)
    out = Fit(law, params, certificate, estimator.objective, table, z, seed=seed, fixed=fixed)
    out.__dict__["estimator"] = estimator  # the cached property, already at hand
    if out.certificate.duplicates and table.clusters is None:
        out.table = dataclasses.replace(table, clusters=repeated(table.inputs, table.measured))
    return out.resampled(bootstrap, seed, resample) if bootstrap else out


def _check_fixed(law: Law, fixed: Mapping[str, float] | None, rows: int) -> dict[str, float]:
    """The held parameters; ConfigError for unknown ones, and when the rows are fewer than what is left to fit."""
    held = dict(fixed or {})
    for name in held:
        if name not in law.bounds:
            raise ConfigError("fixed", f"{law.name} has no parameter {name!r}", f"use one of {', '.join(law.bounds)}")
    free = len(law.parameters) - len(held)
    if rows < free:
        raise ConfigError("runs", f"{rows} rows for {free} parameters", "add runs, or hold parameters with fixed=")
    return held


def with_scale(estimator: Estimator, delta: float | str | None) -> Estimator:
    """The estimator with its objective's scale set: given, or found from the residuals ("mad", "cv")."""
    kind = estimator.objective.kind

    def scaled(value):
        return dataclasses.replace(estimator, objective=dataclasses.replace(estimator.objective, scale=float(value)))

    if isinstance(delta, (int, float)):
        if not delta > 0:
            raise ConfigError("delta", f"{delta} is not positive", "use 1e-3, 'mad' or 'cv'")
        return scaled(delta)
    if delta not in (None, "mad", "cv"):
        raise ConfigError("delta", f"{delta!r} is not known", "use a number, 'mad' or 'cv'")
    if delta == "cv" and kind == "huber":
        return scaled(_cross_validated(estimator, scaled))
    if kind == "student_t" or (delta == "mad" and kind == "huber"):
        rough = dataclasses.replace(estimator, objective=Objective("huber", estimator.objective.space, 1e-3))
        search, _ = optimum(rough, 8)
        return scaled(max(robust_scale(rough.residuals(search.z[int(np.argmin(search.value))])), 1e-9))
    if kind == "beta_binomial":
        return scaled(_concentration(scaled))
    return scaled(1e-3)


def _cross_validated(estimator: Estimator, scaled, folds: int = 5) -> float:
    """The Huber delta with the smallest mean absolute residual on left-out folds."""
    n = len(estimator.measured)
    fold = np.random.default_rng(0).permutation(n) % folds
    errors = []
    for delta in DELTAS:
        candidate = scaled(delta)
        search, _ = optimum(candidate, 8)
        z = search.z[int(np.argmin(search.value))]
        weights = (fold[None] != np.arange(folds)[:, None]) * estimator.weights
        solved = candidate.solve(np.repeat(z[None], folds, 0), weights).z
        left_out = [np.abs(candidate.residuals(solved[f])[fold == f]) for f in range(folds)]
        errors.append(float(np.mean(np.concatenate(left_out))))
    return DELTAS[int(np.argmin(errors))]


def _concentration(scaled) -> float:
    """Maximum-likelihood concentration of a beta-binomial, by golden section on its logarithm."""

    def cost(log_concentration):
        return float(np.min(optimum(scaled(np.exp(log_concentration)), 8)[0].value))

    from scipy.optimize import minimize_scalar

    return float(np.exp(minimize_scalar(cost, bounds=(-2.0, 14.0), method="bounded", options={"xatol": 1e-4}).x))
