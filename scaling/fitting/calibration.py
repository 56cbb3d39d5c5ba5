"""How far to trust an extrapolation: rolling held-out errors inside the table say how far the law itself is off.

The table is cut at several sizes; at each cut the law is fitted to the rows below and scored on the rows above. What
the parameters' uncertainty and the noise of a run do not explain there is the law's own discrepancy. It is added to
their variance, not multiplied with it: a fit's uncertainty shrinks with its rows, a law that is not quite true stays
as wrong as it was. On the Chinchilla runs the errors beyond a cut keep their size (1.1 %) from the cut at 40 runs to
the one at 200, while their ratio to the fit's own deviation doubles, so that no factor learnt early could hold later.

Every held-out row has the discrepancy with which its interval would just have held it; the calibration is a quantile
of those, as in conformal prediction with nested sets (Gupta et al. 2022), every cut counting the same. Rows beyond one
cut share its fit, so each cut counts as five rows in the quantile's finite-sample correction: on nine families of
published runs the plain quantile covers 72-99 % at nominal 90 %, this one 88-100 %. The discrepancy grows like a random
walk in the logarithm of size. Only rows of the fit are used, so a later held-out test is fair.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from scipy import special, stats

from scaling.fitting.bootstrap import bootstrap
from scaling.fitting.certificate import robust_scale
from scaling.fitting.estimator import Estimator
from scaling.fitting.objectives import Objective
from scaling.fitting.start_grid import optimum

ORIGINS = 8
RESAMPLES = 48
QUICK = 40  # iterations of a resample here: only the spread of the draws is used
REFERENCE = 0.9  # the level that is calibrated; a t distribution carries it to others
ROWS_PER_CUT = 5.0  # independent rows that a cut is worth
COMPUTE = ("params", "params_active", "params_nonembed")
FALLING = ("loss", "bpb")  # inputs that fall as runs grow
SAME_BUDGET = 1.1  # sizes within this factor are one budget, which a cut must not split
LEAST = 1e-9  # share of successes below which a logit is cut off
PAIRS = 2000  # points of the sequence that integrates over two uncertainties


@dataclasses.dataclass(frozen=True)
class Calibration:
    """axis: what the cuts were made on; needed [m]: per held-out row of every cut the discrepancy that would have put
    it on the edge of its interval; weights [m]: 1 per cut, shared by its rows; origins: how many cuts; noise: standard
    deviation of one row. All in the residual space (log loss: relative), for counts in logits."""

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


def noise_scale(residual: np.ndarray, parameters: int, objective: Objective | None = None) -> float:
    """Standard deviation of one row [n] -> scalar: the root mean square for the degrees of freedom, residuals beyond
    five robust deviations counted as five, so that one outlier does not widen every interval. Pearson residuals of
    counts scatter by 1 at least."""
    n = len(residual)
    limit = 5 * robust_scale(residual)
    clipped = np.clip(residual, -limit, limit) if limit > 0 else residual
    least = 1.0 if objective is not None and objective.counts else 0.0
    return max(float(np.sqrt(np.sum(clipped**2) / max(n - parameters, 1))), least)


def spread(draws: np.ndarray) -> np.ndarray:
    """Robust standard deviation over resamples [B, m] -> [m]."""
    low, high = np.quantile(draws, [0.16, 0.84], axis=0)
    return np.maximum(0.5 * (high - low), 1e-12)


def linked(objective: Objective, f: np.ndarray) -> np.ndarray:
    """Predictions in the space where a law's own error has one size: that of the residuals, for counts the logit."""
    with np.errstate(all="ignore"):
        return special.logit(np.clip(f, LEAST, 1 - LEAST)) if objective.counts else objective.link(f)


def measured(estimator: Estimator) -> np.ndarray:
    """The measurements [n] in the same space; half a success and half a failure keep none and all of them finite."""
    if estimator.trials is None or not estimator.objective.counts:
        return estimator.target
    return special.logit((estimator.measured * estimator.trials + 0.5) / (estimator.trials + 1.0))


def scatter(objective: Objective, mean: np.ndarray, noise: float, trials: np.ndarray | float | None) -> np.ndarray:
    """Standard deviation [m] of one row around predictions mean [m], in that space. noise: `noise_scale`, for counts
    of Pearson residuals; trials [m] or one number."""
    if not objective.counts or trials is None:
        return np.full(np.shape(mean), noise)
    f = np.clip(mean, LEAST, 1 - LEAST)
    return noise / np.sqrt(trials * f * (1 - f))


def share_ends(
    center: np.ndarray, deviation: np.ndarray, noise: float, trials: float, level: float, freedom: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ends [m] of the interval of a measured share: binomial scatter of `trials` trials around a rate whose logit has
    centre and deviation [m]. Both are integrated over by an additive sequence (Roberts 2018), which is deterministic.
    """
    first, second = (0.5 + np.outer([0.7548776662466927, 0.5698402909980532], np.arange(1, PAIRS + 1))) % 1.0
    rate = special.expit(center + deviation * stats.t.ppf(first, freedom)[:, None])
    share = rate + noise * np.sqrt(rate * (1 - rate) / trials) * stats.norm.ppf(second)[:, None]
    low, high = np.quantile(np.clip(share, 0.0, 1.0), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def choose_axis(inputs: Mapping[str, np.ndarray]) -> str:
    """What "larger run" means for a law: compute when it follows from the inputs, else the widest-ranging of them; of
    a loss, its inverse, since a larger run has a lower one."""
    if "flops" in inputs or ("tokens" in inputs and any(name in inputs for name in COMPUTE)):
        return "flops"
    positive = {name: values for name, values in inputs.items() if np.all(values > 0)}
    widest = max(positive, key=lambda name: np.ptp(np.log(positive[name])), default=next(iter(inputs)))
    return f"1 / {widest}" if widest in FALLING and widest in positive else widest


def sizes(axis_name: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The size [n] of every row on the axis of `choose_axis`; compute is 6 params tokens."""
    if axis_name in inputs:
        return inputs[axis_name]
    if axis_name.startswith("1 / "):
        return 1.0 / inputs[axis_name.removeprefix("1 / ")]
    return 6 * next(inputs[name] for name in COMPUTE if name in inputs) * inputs["tokens"]


def reaches(axis: np.ndarray, cut: float) -> np.ndarray:
    """log(size / cut) [m]; 0, the edge, where sizes have no logarithm."""
    return np.log(axis / cut) if cut > 0 and np.all(axis > 0) else np.zeros(len(axis))


def degrees(points: int, parameters: int, clusters: np.ndarray | None) -> int:
    """Degrees of freedom behind a deviation; rows of one run are one observation."""
    groups = points if clusters is None else len(np.unique(clusters))
    return max(min(points - parameters, groups - 1), 1)


def origins(axis: np.ndarray, parameters: int, count: int = ORIGINS, distinct: np.ndarray | None = None) -> list[float]:
    """Cuts [<= count] on `axis`, spread over its range, between budgets and never inside one; below each are at least
    three budgets and two distinct rows per parameter. distinct [n]: codes of rows that are equal in all inputs."""
    tops = budgets(axis)
    codes = np.arange(len(axis)) if distinct is None else distinct
    least = max(2 * parameters, 6)
    possible = [float(top) for top in tops[2:-1] if len(np.unique(codes[axis <= top])) >= least]
    if not possible:
        return []
    below = np.searchsorted(np.sort(axis), possible, side="right")
    wanted = np.linspace(below[0], below[-1], min(count, len(possible)))  # equally many rows from cut to cut
    return [possible[i] for i in np.unique(np.argmin(np.abs(below - wanted[:, None]), axis=1))]


def budgets(axis: np.ndarray) -> np.ndarray:
    """The largest size of every budget, ascending: sizes [n] within 10 % of the smallest of their budget are one."""
    tops: list[float] = []
    first = -np.inf
    for value in np.unique(axis):
        if tops and 0 < value <= first * SAME_BUDGET:
            tops[-1] = float(value)
        else:
            tops.append(float(value))
            first = value
    return np.array(tops)


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
    """The discrepancies that the law's own extrapolations inside the table needed; noise: `scatter` of a typical row of
    the whole fit."""
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
        mean = outside.predict(best[None])[0]
        center = linked(part.objective, mean)
        noise_there = noise_scale(part.residuals(best), parameters, part.objective)
        row = scatter(part.objective, mean, noise_there, outside.trials)
        deviation = np.hypot(spread(linked(part.objective, outside.predict(draws.z)) - center), row)
        ratio = stats.t.ppf(0.5 + REFERENCE / 2, degrees(len(part.measured), parameters, groups))
        excess = ((measured(outside) - center) / ratio) ** 2 - deviation**2
        part_needed = np.sqrt(np.maximum(excess, 0.0)) / growth(reaches(axis[~inside], cut))
        usable = np.isfinite(part_needed)
        if usable.any():
            needed.append(part_needed[usable])
            weights.append(np.full(usable.sum(), 1.0 / usable.sum()))
    if not needed:
        return Calibration(axis_name, np.zeros(0), np.zeros(0), 0, noise)
    return Calibration(axis_name, np.concatenate(needed), np.concatenate(weights), len(needed), noise)
