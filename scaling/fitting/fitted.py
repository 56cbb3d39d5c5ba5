"""A law at its optimum on a table, and what it predicts: the parameters, their draws, and the interval of a new run.

Intervals of parameters, pictures and files are made from it in `profile`, `display` and `serialize`; `Fit` adds them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple, NoReturn, Self

import numpy as np
import pandas as pd
from scipy import stats

from models.errors import ConfigError, require
from scaling.fitting import calibration
from scaling.fitting.bootstrap import Draws, bootstrap
from scaling.fitting.certificate import Certificate
from scaling.fitting.estimator import Estimator
from scaling.fitting.law import Law, Values
from scaling.fitting.objectives import Objective
from scaling.fitting.table import Table

PREDICTION_RESAMPLES = 256


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

    def resampled(self, size: int = 1000, seed: int | None = None, kind: str | None = None) -> Self:
        """The same fit with `size` bootstrap draws; kind is one of bootstrap.KINDS, by run when a cluster is named."""
        kind = kind or ("cluster" if self.table.clusters is not None else "row")
        seed = self.seed if seed is None else seed
        draws = bootstrap(self.estimator, self.z, size, seed, kind, self.table.clusters, self.table.strata)
        return dataclasses.replace(self, draws=draws, seed=seed)

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


def check_level(level: float, field: str) -> None:
    """Raise the error for a level that is not between 0 and 1, such as 95."""
    require(0 < level < 1, field, f"{level} is not a probability", "use a value such as 0.95")


def missing_input(name: str, law: Law, given: Iterable[str]) -> NoReturn:
    """Raise the error for an input that predict() was not given."""
    raise ConfigError(
        f"predict({', '.join(given)})", f"the law {law.name} needs {name!r}", f"give {', '.join(law.inputs)}"
    )
