"""How far to trust an extrapolation: rolling held-out errors inside the table say how far the law itself is off.

The table is cut at several sizes; at each cut the law is fitted to the rows below and scored on the rows above. What
the parameters' uncertainty and the noise of a run do not explain there is the law's own discrepancy. It is added to
their variance, not multiplied with it: a fit's uncertainty shrinks with its rows, a law that is not quite true stays
as wrong as it was. On the Chinchilla runs the errors beyond a cut keep their size (1.1 %) from the cut at 40 runs to
the one at 200, while their ratio to the fit's own deviation doubles, so that no factor learnt early could hold later.

Every held-out row has the discrepancy with which its interval would just have held it; the calibration is a quantile
of those, as in conformal prediction with nested sets (Gupta et al. 2022), every cut counting the same. Rows beyond one
cut share its fit, so each cut counts as three rows in the quantile's finite-sample correction: on eight families of
published runs the plain quantile covers 82-90 % at nominal 90 %, this one 89-93 %. The discrepancy grows like a random
walk in the logarithm of size. Only rows of the fit are used, so a later held-out test is fair.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from scipy import stats

from scaling.laws.bootstrap import bootstrap
from scaling.laws.certificate import robust_scale
from scaling.laws.estimator import Estimator
from scaling.laws.objectives import Objective
from scaling.laws.start_grid import optimum

ORIGINS = 8
RESAMPLES = 48
QUICK = 40  # iterations of a resample here: only the spread of the draws is used
REFERENCE = 0.9  # the level that is calibrated; a t distribution carries it to others
ROWS_PER_CUT = 3.0  # independent rows that a cut is worth
COMPUTE = ("params", "params_active", "params_nonembed")


@dataclasses.dataclass(frozen=True)
class Calibration:
    """axis: what the cuts were made on; needed [m]: per held-out row of every cut the discrepancy that would have put
    it on the edge of its interval; weights [m]: 1 per cut, shared by its rows; origins: how many cuts; noise: standard
    deviation of one row. All in the residual space (log loss: relative)."""

    axis: str
    needed: np.ndarray
    weights: np.ndarray
    origins: int
    noise: float

    @property
    def discrepancy(self) -> float:
        """Standard deviation of the law's own error at the edge of the fitted sizes; without a cut, that of a run."""
        if not self.origins:
            return self.noise
        order = np.argsort(self.needed)
        level = min(REFERENCE * (1 + 1 / (ROWS_PER_CUT * self.origins)), 1.0)
        rank = np.searchsorted(np.cumsum(self.weights[order]), level * self.weights.sum() * (1 - 1e-12))
        return float(self.needed[order][rank])

    def at(self, reach: np.ndarray) -> np.ndarray:
        """The discrepancy [m] at log(size / largest fitted size) [m]."""
        return self.discrepancy * growth(reach)


def growth(reach: np.ndarray) -> np.ndarray:
    """The discrepancy at log(size / largest fitted size) [m], in units of that at the edge: its variance rises by one
    unit per factor e, and is gone a factor e inside, where the residuals already have it."""
    return np.sqrt(np.maximum(1.0 + reach, 0.0))


def noise_scale(residual: np.ndarray, parameters: int) -> float:
    """Standard deviation of one row [n] -> scalar: the root mean square for the degrees of freedom, residuals beyond
    five robust deviations counted as five, so that one outlier does not widen every interval."""
    n = len(residual)
    limit = 5 * robust_scale(residual)
    clipped = np.clip(residual, -limit, limit) if limit > 0 else residual
    return float(np.sqrt(np.sum(clipped**2) / max(n - parameters, 1)))


def spread(draws: np.ndarray) -> np.ndarray:
    """Robust standard deviation over resamples [B, m] -> [m]."""
    low, high = np.quantile(draws, [0.16, 0.84], axis=0)
    return np.maximum(0.5 * (high - low), 1e-12)


def center_and_deviation(
    objective: Objective, mean: np.ndarray, draws: np.ndarray, noise: float, trials: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Centre [m] of a new measurement in the space of its interval, and its standard deviation [m] under a true law.

    mean [m], draws [B, m]: predictions. noise: `noise_scale`, for counts of Pearson residuals; a measured fraction then
    varies as the binomial with the table's median number of trials does.
    """
    with np.errstate(all="ignore"):
        if objective.counts:
            row = noise * np.sqrt(np.clip(mean * (1 - mean), 0.0, 0.25) / np.median(np.asarray(trials)))
            return mean, np.hypot(spread(draws - mean), row)
        center = objective.link(mean)
        return center, np.hypot(spread(objective.link(draws) - center), noise)


def choose_axis(inputs: Mapping[str, np.ndarray]) -> str:
    """What "larger run" means for a law: compute when it follows from the inputs, else the widest-ranging of them."""
    if "flops" in inputs or ("tokens" in inputs and any(name in inputs for name in COMPUTE)):
        return "flops"
    positive = {name: values for name, values in inputs.items() if np.all(values > 0)}
    return max(positive, key=lambda name: np.ptp(np.log(positive[name])), default=next(iter(inputs)))


def sizes(axis_name: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The size [n] of every row on the axis of `choose_axis`; compute is 6 params tokens."""
    if axis_name in inputs:
        return inputs[axis_name]
    return 6 * next(inputs[name] for name in COMPUTE if name in inputs) * inputs["tokens"]


def reaches(axis: np.ndarray, cut: float) -> np.ndarray:
    """log(size / cut) [m]; 0, the edge, where sizes have no logarithm."""
    return np.log(axis / cut) if cut > 0 and np.all(axis > 0) else np.zeros(len(axis))


def degrees(points: int, parameters: int, clusters: np.ndarray | None) -> int:
    """Degrees of freedom behind a deviation; rows of one run are one observation."""
    groups = points if clusters is None else len(np.unique(clusters))
    return max(min(points - parameters, groups - 1), 1)


def origins(axis: np.ndarray, parameters: int, count: int = ORIGINS, distinct: np.ndarray | None = None) -> list[float]:
    """Cuts [<= count] on `axis`, spread over its range, with at least two distinct rows per parameter below and one
    above; distinct [n]: codes of rows that are equal in all inputs."""
    values = np.unique(axis)
    codes = np.arange(len(axis)) if distinct is None else distinct
    least = max(2 * parameters, 6)
    possible = []
    for value in values[:-1]:
        inside = axis <= value
        if len(np.unique(codes[inside])) >= least and len(np.unique(axis[inside])) >= 3:
            possible.append(float(value))
    if not possible:
        return []
    wanted = np.linspace(0, len(possible) - 1, min(count, len(possible))).round().astype(int)
    return [possible[i] for i in np.unique(wanted)]


def calibrate(
    estimator: Estimator,
    axis_name: str,
    axis: np.ndarray,
    noise: float,
    clusters: np.ndarray | None = None,
    seed: int = 0,
    count: int = ORIGINS,
    resamples: int = RESAMPLES,
) -> Calibration:
    """The discrepancies that the law's own extrapolations inside the table needed; noise is that of the whole fit."""
    parameters = int(estimator.free.sum())
    distinct = np.unique(np.column_stack(list(estimator.inputs.values())), axis=0, return_inverse=True)[1].ravel()
    needed, weights = [], []
    for cut in origins(axis, parameters, count, distinct):
        inside = axis <= cut
        part, outside = estimator.take(inside), estimator.take(~inside)
        solution, grid = optimum(part, starts=8)
        if not np.isfinite(solution.value).any():
            continue
        best = solution.z[int(np.argmin(solution.value))]
        groups = None if clusters is None else np.unique(clusters[inside], return_inverse=True)[1]
        kind = "row" if groups is None else "cluster"
        draws = bootstrap(part, best, resamples, seed, kind, groups, grid=grid, checked=0, iterations=QUICK)
        center, deviation = center_and_deviation(
            part.objective,
            outside.predict(best[None])[0],
            outside.predict(draws.z),
            noise_scale(part.residuals(best), parameters),
            part.trials,
        )
        ratio = stats.t.ppf(0.5 + REFERENCE / 2, degrees(len(part.measured), parameters, groups))
        excess = ((outside.target - center) / ratio) ** 2 - deviation**2
        part_needed = np.sqrt(np.maximum(excess, 0.0)) / growth(reaches(axis[~inside], cut))
        usable = np.isfinite(part_needed)
        if usable.any():
            needed.append(part_needed[usable])
            weights.append(np.full(usable.sum(), 1.0 / usable.sum()))
    if not needed:
        return Calibration(axis_name, np.zeros(0), np.zeros(0), 0, noise)
    return Calibration(axis_name, np.concatenate(needed), np.concatenate(weights), len(needed), noise)
