"""A law at its optimum on a table, and what it predicts: the parameters, their draws, and the interval of a new run.

Intervals of parameters, pictures and files are made from it in `profile`, `display` and `serialize`; `Fit` adds them.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, NoReturn, ParamSpec, Self, TypeVar

import numpy as np
import pandas as pd
from scipy import stats

from models.errors import ConfigError, nearest, require
from scaling.fitting import calibration
from scaling.fitting.bootstrap import Draws, bootstrap
from scaling.fitting.certificate import Certificate
from scaling.fitting.estimator import Estimator
from scaling.fitting.law import Law, Values
from scaling.fitting.objectives import Objective
from scaling.fitting.start_grid import StartGrid
from scaling.fitting.table import Table

PREDICTION_RESAMPLES = 256
LEVELS = ("level", "levels", "confidence", "confidence_level", "conf", "ci", "coverage")  # other words for `interval`
ALIKE = 0.5  # correlation of residuals from which rows are points of a curve; those of runs reach 0.4


class ExtrapolationWarning(UserWarning):
    """An interval reaches farther than anything that was tested."""


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


@dataclasses.dataclass(eq=False)
class Fitted:
    """One law at its optimum on one table. `params` and `certificate` are there at once, the rest when asked for."""

    law: Law
    params: Values
    certificate: Certificate
    objective: Objective
    table: Table
    z: np.ndarray  # [K] coordinates of params
    draws: Draws | None = None
    seed: int = 0
    fixed: dict[str, float] = dataclasses.field(default_factory=dict)
    calibrations: dict[str, calibration.Calibration] = dataclasses.field(default_factory=dict)  # by axis

    @cached_property
    def estimator(self) -> Estimator:
        """The estimator that made this fit."""
        t = self.table
        return Estimator(self.law, t.inputs, t.measured, self.objective, t.weights, t.trials, self.fixed)

    @property
    def derived(self) -> Values:
        """The law's derived quantities at the fitted parameters; NaN where they have no value, as 0 / 0."""
        return self._derived(self.params)

    def _derived(self, params: Mapping[str, float]) -> Values:
        values = Values({name: np.float64(value) for name, value in params.items()})
        with np.errstate(all="ignore"):
            return Values({name: float(f(values)) for name, f in self.law.derived.items()})

    def derived_from(self, names: Iterable[str]) -> list[str]:
        """The derived quantities that move with one of these parameters."""
        moved = set()
        for name in names:
            other = self._derived({**self.params, name: self.params[name] * 1.01 + 1e-3})
            moved |= {k for k, value in self.derived.items() if not np.isclose(other[k], value, 1e-9, 0, True)}
        return [name for name in self.law.derived if name in moved]

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

    def resampled(
        self, size: int = 1000, seed: int | None = None, kind: str | None = None, grid: StartGrid | None = None
    ) -> Self:
        """The same fit with `size` bootstrap draws; kind is one of bootstrap.KINDS, by run when a cluster is named;
        grid: that of the fit, where it is still at hand."""
        kind = kind or ("cluster" if self.table.clusters is not None else "row")
        seed = self.seed if seed is None else seed
        draws = bootstrap(self.estimator, self.z, size, seed, kind, self.table.clusters, self.table.strata, grid)
        known = self.calibrations if seed == self.seed else {}
        return dataclasses.replace(self, draws=draws, seed=seed, calibrations=known)

    @property
    def noise(self) -> float:
        """Standard deviation of one run around the law, in the residual space (counts: of Pearson residuals, where the
        binomial alone makes 1)."""
        return calibration.noise_scale(self.residuals, int(self.estimator.free.sum()), self.objective)

    def calibration_along(self, axis_name: str | None = None) -> calibration.Calibration:
        """Rolling held-out tests inside the fitted table along one axis (the main one), made when first asked for."""
        name = str(axis_name or self.table.axis_name)
        self.calibrate([name])
        return self.calibrations[name]

    def calibrate(self, axis_names: Iterable[str]) -> None:
        """Make the held-out tests along these axes that are not made yet, all of them together."""
        missing = [str(name) for name in axis_names if name not in self.calibrations]
        if missing:
            predicted = self.estimator.predict(self.z[None])[0]
            noise = float(np.median(calibration.scatter(self.objective, predicted, self.noise, self.table.trials)))
            clusters = self.table.clusters
            self.calibrations |= calibration.calibrate(self.estimator, missing, noise, self.z, clusters)

    def reach(self, **inputs) -> pd.DataFrame:
        """How far new runs lie beyond the fitted ones along every axis, one column each: log(size / largest fitted
        size), or log(smallest / size) below all of them; negative inside."""
        arrays = self._columns(inputs)
        names = calibration.axes(self.table.inputs)
        fitted = {name: calibration.sizes(name, self.table.inputs) for name in names}
        return pd.DataFrame({n: calibration.reaches(calibration.sizes(n, arrays), fitted[n]) for n in names})

    def discrepancy(self, **inputs) -> np.ndarray:
        """Standard deviation [m] of the law's own error at the given inputs, in the residual space (counts: logits):
        none well inside the fitted sizes, growing with the reach beyond them along the axis of the farthest reach."""
        arrays = self._columns(inputs)
        reach, axis = self._farthest(arrays)
        out = np.empty(len(reach))
        self.calibrate(np.unique(axis))
        for name in np.unique(axis):
            rows = axis == name
            some = {key: values[rows] for key, values in arrays.items()}
            fitted = calibration.sizes(name, self.table.inputs)
            gain = calibration.promised(self.estimator, self.z, name, fitted, some)
            out[rows] = self.calibration_along(name).at(reach[rows], gain)
        return out

    def _columns(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The law's inputs, scalars or arrays, as arrays of one length; ConfigError for others, and for absent ones."""
        only_known("inputs", inputs, self.law.inputs)
        for name in self.law.inputs:
            if name not in inputs:
                missing_input(name, self.law, inputs)
        arrays = [np.atleast_1d(np.asarray(inputs[name], float)) for name in self.law.inputs]
        try:
            return dict(zip(self.law.inputs, np.broadcast_arrays(*arrays), strict=True))
        except ValueError:
            lengths = ", ".join(f"{len(a)} of {name}" for name, a in zip(self.law.inputs, arrays, strict=True))
            raise ConfigError("inputs", f"differ in length: {lengths}", "give one value, or as many") from None

    def _farthest(self, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The farthest reach [m] of runs and the axis [m] of it; inside on all axes there is no extrapolation to tell
        apart, and the main axis has the noise."""
        table = self.reach(**arrays)
        reach, names = table.to_numpy(), table.columns.to_numpy(str)
        return reach.max(1), np.where(reach.max(1) > 0, names[reach.argmax(1)], names[0])

    def doubts(self, **inputs) -> tuple[str, ...]:
        """What a reader must know about the intervals of new runs: the reaches that no cut has tested."""
        arrays = self._columns(inputs)
        reach, axis = self._farthest(arrays)
        farthest = {name: float(reach[axis == name].max()) for name in np.unique(axis)}
        self.calibrate(farthest)
        notes = [self.calibration_along(name).doubt(most) for name, most in farthest.items()]
        runs = self.certificate.runs
        if runs is not None and runs < 0.5 * len(self.table.measured) and max(farthest.values()) > 0:
            notes.append(f"fitted on points of {runs} runs: beyond them, intervals from training curves are too narrow")
        (first, *others) = self.table.inputs
        if not others and max(farthest.values()) > 0:
            same = calibration.alike(self.table.inputs[first], self.residuals)
            if same > ALIKE:
                rows = f"rows of equal or neighbouring {first} err alike ({same:.2f}), as points of one run do"
                notes.append(f"{rows}: intervals are those of other runs, and too wide for its own next points")
        return tuple(note for note in notes if note)

    def predict(self, interval: float = 0.9, calibrated: bool = True, **inputs) -> Prediction:
        """Output of a new run at the given inputs (scalars or arrays), and the interval its measurement should fall in.

        Three variances add up: the parameters' (bootstrap), that of one run (residuals; for counts, of a share of the
        table's median number of trials), and the discrepancy of the law that rolling extrapolations inside the table
        showed (`calibrated=False` leaves that out). NaN ends when the rows cannot support an interval.
        """
        check_level(interval, "interval")
        only_known("predict", inputs, (*self.law.inputs, "interval", "calibrated"))
        arrays = self._columns(inputs)
        for name, values in arrays.items():
            sized = name in calibration.SIZES and name not in self.law.zeros
            good = np.isfinite(values) & ((values > 0) | (not sized))
            require(bool(good.all()), name, f"{values[~good][:1].sum()} is no input of {self.law.name}",
                    f"give a {'positive' if sized else 'finite'} number")  # fmt: skip
        scalar = all(np.ndim(inputs[name]) == 0 for name in self.law.inputs)
        shape = next(iter(arrays.values())).shape
        mean = np.broadcast_to(self.outputs(self.z[None], arrays)[0], shape)
        low, high = self._band(arrays, mean, interval, calibrated)
        if calibrated and np.isfinite(low).any():
            for note in self.doubts(**arrays):
                warnings.warn(note, ExtrapolationWarning, stacklevel=2)
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
        discrepancy = self.discrepancy(**arrays) if calibrated else np.zeros(np.shape(mean))
        free = int(self.estimator.free.sum())
        degrees = calibration.degrees(self.certificate.points, free, self.table.clusters)
        if goal.counts:
            trials = float(np.median(np.asarray(self.table.trials)))
            half = calibration.half_width(deviation, discrepancy, level, degrees)
            deviation = half / stats.t.ppf(0.5 + level / 2, degrees)
            return calibration.share_ends(center, deviation, self.noise, trials, level, degrees)
        half = calibration.half_width(np.hypot(deviation, self.noise), discrepancy, level, degrees)
        return goal.unlink(center - half), goal.unlink(center + half)


def check_level(level: float, field: str) -> None:
    """Raise the error for a level that is not between 0 and 1, such as 95."""
    good = isinstance(level, int | float | np.number) and 0 < level < 1
    require(bool(good), field, f"{level!r} is not a probability", "use a value such as 0.95")


def only_known(function: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Raise the error for an argument that `function` does not have, with the nearest that it has."""
    for name in given:
        if name not in known:
            near = "interval" if name in LEVELS and "interval" in known else nearest(name, known)
            fix = f"did you mean {near!r}?" if near else f"use {', '.join(known)}"
            raise ConfigError(f"{function}({name}=)", "is no argument of it", fix)


P = ParamSpec("P")
R = TypeVar("R")


def known_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, which raises ConfigError with the nearest name for an argument that it does not have."""
    known = [name for name in inspect.signature(function).parameters if name != "self"]

    @functools.wraps(function)
    def checked(*args: P.args, **options: P.kwargs) -> R:
        only_known(function.__name__, options, known)
        return function(*args, **options)

    return checked


def missing_input(name: str, law: Law, given: Iterable[str]) -> NoReturn:
    """Raise the error for an input that predict() was not given."""
    raise ConfigError(
        f"predict({', '.join(given)})", f"the law {law.name} needs {name!r}", f"give {', '.join(law.inputs)}"
    )
