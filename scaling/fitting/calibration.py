"""How far to trust an extrapolation: rolling held-out errors inside the table say how far the law itself is off.

The table is cut at several sizes along an axis; at each cut the law is fitted to the rows below and scored on the rows
above. What the parameters' uncertainty and the noise of a run do not explain there is the law's own discrepancy. It is
added to their variance, not multiplied with it: a fit's uncertainty shrinks with its rows, a law that is not quite true
stays as wrong as it was.

The discrepancy has two parts. At the edge of the fitted sizes it is at least the noise of one run, and more when the
rows just above the cuts were missed by more. Beyond the edge it is a share of what the law promises to gain there: the
gain per factor e over the last factor e of fitted sizes, times r / (1 + r) for a reach of r = log(size / largest fitted
size). Published laws are off by a tenth of that (Chinchilla's runs) or by most of it (routers, small budgets), and the
cuts of a small table cannot tell which. So the share starts from SHARE, worth PRIOR cuts, and moves as the cuts speak:
each counts by its rows, and by its distance from the cut before, since two cuts side by side say one thing twice.

A run is larger along more than one axis: compute, and every input on its own. Each axis has its own cuts, and the axis
along which a prediction reaches farthest decides, so that ten times the parameters are never an interpolation because
another input covers a wider range. The constants were chosen on six families of published runs, of which nominal 90 %
intervals cover 87-98 % (docs/laws.md). Only rows of the fit are used, so a later held-out test is fair.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
from scipy import special, stats

from scaling.fitting.bootstrap import robust_weights
from scaling.fitting.certificate import robust_scale
from scaling.fitting.covariance import sandwich
from scaling.fitting.estimator import Estimator
from scaling.fitting.objectives import Objective
from scaling.fitting.start_grid import StartGrid

ORIGINS = 8
QUICK, QUICK_TOLERANCE = 25, 1e-9  # iterations of a cut's fit, and the relative decrease below which it has ended
SHARE = 0.82  # of the promised gain, before any cut has spoken
MOST_SHARE = 10.0  # that one cut can ask for: of a law that promises nothing, any error is any multiple
PRIOR = 0.3  # cuts that this is worth
ROWS = 45.0  # held-out rows at which a cut counts half
NEAR = 0.7  # reach up to which a held-out row tells about the edge, and beyond which about the share
AGE = 3.0  # power of a cut's share of the rows with which it counts for the edge: the last cuts are closest to the fit
MEDIAN = float(stats.chi2.ppf(0.5, 1))  # of a squared standard normal: one outlier does not widen every interval
COMPUTE = ("params", "params_active", "params_nonembed")
SIZES = (*COMPUTE, "tokens")
FALLING = ("loss", "bpb")  # inputs that fall as runs grow
SAME_BUDGET = 1.1  # sizes within this factor are one budget, which a cut must not split
FARTHER = 1.5  # times the tested reach, from which on a prediction says so
LEAST = 1e-9  # share of successes below which a logit is cut off
PAIRS = 2000  # points of the sequence that integrates over two uncertainties


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What the cuts along one axis said. edge: standard deviation of the law's own error at the edge of the fitted
    sizes, never below the noise of one row; share: of the promised gain by which the law may be off; origins: how many
    cuts; tested: the farthest reach that they tested; noise: standard deviation of one row. Edge and noise are in the
    residual space (log loss: relative), for counts in logits."""

    axis: str
    edge: float
    share: float
    origins: int
    tested: float
    noise: float
    worth: float = np.inf

    def doubt(self, reach: float) -> str:
        """What a reader must know about an interval at this reach; empty when cuts have tested the like of it."""
        far = f"{np.exp(reach):.3g} times the fitted {self.axis}"
        if reach <= 0:
            return ""
        if not self.origins:
            return f"no interval was tested: the rows leave no cut of {self.axis}, and {far} are predicted"
        if reach > FARTHER * self.tested:
            return f"intervals were tested up to {np.exp(self.tested):.3g} times the {self.axis}, {far} are predicted"
        if self.worth < PRIOR:
            few = f"the cuts of {self.axis} say less of this law's error than those of other published laws do"
            return f"{few}: intervals beyond the fitted rows are rather too wide"
        if self.share > 1:
            missed = f"beyond its cuts of {self.axis} the law missed by more than it promises to gain"
            return f"{missed}: intervals are wide and say little"
        return ""

    def at(self, reach: np.ndarray, gain: np.ndarray) -> np.ndarray:
        """The discrepancy [m] at log(size / largest fitted size) [m]; gain [m]: see `promised`."""
        return np.hypot(self.edge * np.sqrt(np.clip(1.0 + reach, 0.0, 1.0)), self.share * gain * growth(reach))


def growth(reach: np.ndarray) -> np.ndarray:
    """The part [m] of the gain per factor e that is in doubt at log(size / largest fitted size) [m]: as long as the
    reach at first; doubts about the next decade hold for the one after it, too."""
    beyond = np.maximum(reach, 0.0)
    return beyond / (1.0 + beyond)


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


def linked_slope(objective: Objective, f: np.ndarray) -> np.ndarray:
    """Slope of `linked` at predictions f."""
    f = np.clip(f, LEAST, 1 - LEAST) if objective.counts else f
    return 1.0 / (f * (1.0 - f)) if objective.counts else objective.link_slope(f)


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


def half_width(deviation: np.ndarray, discrepancy: np.ndarray, level: float, freedom: int) -> np.ndarray:
    """Half of an interval [m]: what the rows determined, with their degrees of freedom, and the law's own error, which
    does not come from the residuals of this fit."""
    tail = 0.5 + level / 2
    return np.hypot(stats.t.ppf(tail, freedom) * deviation, stats.norm.ppf(tail) * discrepancy)


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


def axes(inputs: Mapping[str, np.ndarray]) -> list[str]:
    """Every axis along which a run can be larger, the main one first: compute where it follows from the inputs, and
    each positive input; of a loss its inverse."""
    own = [f"1 / {name}" if name in FALLING else name for name, values in inputs.items() if np.all(values > 0)]
    return list(dict.fromkeys([choose_axis(inputs), *own]))


def choose_axis(inputs: Mapping[str, np.ndarray]) -> str:
    """What "larger run" means for a law: compute when it follows from the inputs, else the widest-ranging count of
    parameters or tokens, else the widest-ranging input; of a loss its inverse, since a larger run has a lower one."""
    if "flops" in inputs or ("tokens" in inputs and any(name in inputs for name in COMPUTE)):
        return "flops"
    positive = {name: values for name, values in inputs.items() if np.all(values > 0)}
    counts = {name: values for name, values in positive.items() if name in SIZES} or positive
    widest = max(counts, key=lambda name: np.ptp(np.log(counts[name])), default=next(iter(inputs)))
    return f"1 / {widest}" if widest in FALLING and widest in positive else widest


def sizes(axis_name: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The size [n] of every row on an axis of `axes`; compute is 6 params tokens."""
    if axis_name in inputs:
        return inputs[axis_name]
    if axis_name.startswith("1 / "):
        return 1.0 / inputs[axis_name.removeprefix("1 / ")]
    return 6 * next(inputs[name] for name in COMPUTE if name in inputs) * inputs["tokens"]


def moved(axis_name: str, inputs: Mapping[str, np.ndarray], factor: np.ndarray) -> dict[str, np.ndarray]:
    """The inputs of runs `factor` [m] times as large on an axis; compute is shared by parameters and tokens alike."""
    powers = {axis_name: 1.0, axis_name.removeprefix("1 / "): -1.0 if axis_name.startswith("1 / ") else 1.0}
    if axis_name == "flops" and "flops" not in inputs:
        powers = {next(name for name in COMPUTE if name in inputs): 0.5, "tokens": 0.5}
    return {name: values * factor ** powers[name] if name in powers else values for name, values in inputs.items()}


def reaches(axis: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """log(size / largest fitted size) [m] of sizes on one axis, or log(smallest / size) for those below all fitted
    ones; 0, the edge, where a size has no logarithm. Below the smallest is nothing once a size of 0 was fitted."""
    if not np.any(fitted > 0):
        return np.zeros(len(axis))
    sized = np.where(axis > 0, axis, fitted.max())
    above, below = np.log(sized / fitted.max()), np.log(fitted[fitted > 0].min() / sized)
    return np.where((below > 0) & np.all(fitted > 0), below, above)


def promised(
    estimator: Estimator, z: np.ndarray, axis_name: str, fitted: np.ndarray, inputs: Mapping[str, np.ndarray]
) -> np.ndarray:
    """How much the output of runs with these inputs [m] changes per factor e over the last factor e of the fitted sizes
    [n], or all of them if they are closer together: taken back to the edge along the axis, in the residual space."""
    axis, sized = sizes(axis_name, inputs), fitted[fitted > 0]
    span = min(1.0, float(np.log(sized.max() / sized.min()))) if len(sized) else 0.0
    if span <= 0 or np.any(fitted < 0):
        return np.zeros(len(axis))
    down = axis < fitted.min()
    with np.errstate(all="ignore"):  # a size of 0 promises nothing
        factor = np.where(down, fitted.min(), np.minimum(fitted.max(), axis)) / axis
    inner = factor * np.exp(np.where(down, span, -span))
    params, ends = estimator.coordinates.to_params(z), []
    for scale in (factor, inner):
        value = estimator.law.evaluate(params, moved(axis_name, inputs, scale)).value
        ends.append(np.broadcast_to(linked(estimator.objective, value), axis.shape))
    return np.nan_to_num(np.abs(ends[0] - ends[1]) / span)


def alike(axis: np.ndarray, residual: np.ndarray) -> float:
    """How far residuals [n] of equal or neighbouring sizes on an axis [n] agree: near 0 for runs, near 1 for points of
    one curve, or for one run measured again and again. The larger of the correlation of neighbours' means and the
    intraclass correlation of rows of one size; 0 with fewer than 10 sizes."""
    values, place, count = np.unique(axis, return_inverse=True, return_counts=True)
    groups, n = len(values), len(axis)
    if groups < 10 or not np.ptp(residual) > 0:
        return 0.0
    mean = np.bincount(place, residual) / count
    along = float(np.corrcoef(mean[:-1], mean[1:])[0, 1]) if np.ptp(mean) > 0 else 0.0
    if n < 2 * groups:
        return along
    within = float(np.sum((residual - mean[place]) ** 2)) / (n - groups)
    between = float(np.sum(count * (mean - residual.mean()) ** 2)) / (groups - 1)
    each = (n - np.sum(count**2) / n) / (groups - 1)
    return max(along, (between - within) / (between + (each - 1) * within))


def degrees(points: int, parameters: int, clusters: np.ndarray | None) -> int:
    """Degrees of freedom behind a deviation; rows of one run are one observation."""
    groups = points if clusters is None else len(np.unique(clusters))
    return max(min(points - parameters, groups - 1), 1)


def origins(
    axis: np.ndarray, parameters: int, count: int = ORIGINS, distinct: np.ndarray | None = None, below: int = 3
) -> list[float]:
    """Cuts [<= count] on `axis`, spread over its range, between budgets and never inside one; under each are at least
    `below` budgets and two distinct rows per parameter. distinct [n]: codes of rows that are equal in all inputs."""
    tops = budgets(axis)
    codes = np.arange(len(axis)) if distinct is None else distinct
    least = max(2 * parameters, 6)
    possible = [float(top) for top in tops[below - 1 : -1] if len(np.unique(codes[axis <= top])) >= least]
    if not possible:
        return []
    rows = np.searchsorted(np.sort(axis), possible, side="right")
    wanted = np.linspace(rows[0], rows[-1], min(count, len(possible)))  # equally many rows from cut to cut
    return [possible[i] for i in np.unique(np.argmin(np.abs(rows - wanted[:, None]), axis=1))]


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
    axis_names: Iterable[str],
    noise: float,
    z: np.ndarray,
    clusters: np.ndarray | None = None,
    count: int = ORIGINS,
) -> dict[str, Calibration]:
    """Axis -> the discrepancy that the law's own extrapolations along it inside the table needed; noise: `scatter` of a
    typical row of the whole fit, z [K] its optimum. The cuts of all axes are solved together."""
    distinct = np.unique(np.column_stack(list(estimator.inputs.values())), axis=0, return_inverse=True)[1].ravel()
    along = {name: sizes(name, estimator.inputs) for name in axis_names}
    free = int(estimator.free.sum())
    cuts = {
        name: origins(axis, free, count, distinct, below=2) if np.all(axis >= 0) else [] for name, axis in along.items()
    }
    below = [axis <= cut for name, axis in along.items() for cut in cuts[name]]
    best, out = iter(_fits_below(estimator, np.array(below), z)), {}
    for name, axis in along.items():
        excess = [
            None if point is None else _excess(estimator, name, axis, axis <= cut, point, clusters)
            for cut, point in zip(cuts[name], best, strict=False)
        ]
        out[name] = _calibration(name, axis, cuts[name], excess, noise)
    return out


def _calibration(
    axis_name: str, axis: np.ndarray, cuts: list[float], excess: list[tuple[np.ndarray, ...] | None], noise: float
) -> Calibration:
    """What the cuts along one axis say together; excess: `_excess` of each."""
    # sums of weight x squared multiple of the noise, of weight x squared share, and of the weights
    edge, edge_weight, share, share_weight = PRIOR, PRIOR, PRIOR * SHARE**2, PRIOR
    made, tested = 0, 0.0
    for index, (cut, found) in enumerate(zip(cuts, excess, strict=True)):
        if found is None:
            continue
        reach, gain, beyond, row = found
        made, tested = made + 1, max(tested, float(reach.max()))
        near = reach <= NEAR
        apart = min(np.log(cut / cuts[index - 1]), 1.0) if index else 1.0
        if near.any():
            worth = apart * (np.sum(axis <= cut) / np.sum(axis <= cuts[-1])) ** AGE * near.sum() / (near.sum() + ROWS)
            edge += worth * max(float(np.median(beyond[near] / row[near] ** 2)) / MEDIAN, 0.0)
            edge_weight += worth
        far = ~near & (gain > 0)
        if far.any():
            worth = apart * far.sum() / (far.sum() + ROWS)
            doubt = (gain * growth(reach))[far]
            missed = float(np.median((beyond[far] - row[far] ** 2) / doubt**2)) / MEDIAN
            share += worth * min(max(missed, 0.0), MOST_SHARE**2)
            share_weight += worth
    multiple = max(float(np.sqrt(edge / edge_weight)), 1.0)
    share, worth = float(np.sqrt(share / share_weight)), share_weight - PRIOR
    return Calibration(axis_name, multiple * noise, share, made, tested, noise, worth)


def _fits_below(estimator: Estimator, below: np.ndarray, z: np.ndarray) -> list[np.ndarray | None]:
    """The optimum [K] of the rows below every cut (below [cuts, n]), None where there is none: all cuts are one batch
    of reweightings, each from its own best cell of the grid and from the optimum z [K] of all rows."""
    if not len(below):
        return []
    weights = below * estimator.weights
    starts = StartGrid(estimator).best_cells(weights, robust_weights(estimator, z))
    both = np.concatenate([starts, np.repeat(z[None], len(below), 0)])
    solution = estimator.solve(both, np.concatenate([weights, weights]), None, QUICK, QUICK_TOLERANCE)
    values = solution.value.reshape(2, -1)
    best = np.nanargmin(np.where(np.isfinite(values), values, np.inf), axis=0)
    points = solution.z.reshape(2, len(below), -1)
    return [points[k, i] if np.isfinite(values[k, i]) else None for i, k in enumerate(best)]


def _excess(
    estimator: Estimator,
    axis_name: str,
    axis: np.ndarray,
    inside: np.ndarray,
    best: np.ndarray,
    clusters: np.ndarray | None,
) -> tuple[np.ndarray, ...] | None:
    """One cut: reach, promised gain, squared error beyond what parameters and noise explain, and noise [m] of the rows
    held out; None when nothing is finite there. The parameters' share is that of their covariance."""
    part, outside = estimator.take(inside), estimator.take(~inside)
    mean = outside.predict(best[None])[0]
    center = linked(part.objective, mean)
    noise = noise_scale(part.residuals(best), int(estimator.free.sum()), part.objective)
    row = scatter(part.objective, mean, noise, outside.trials)
    groups = None if clusters is None else np.unique(clusters[inside], return_inverse=True)[1]
    slopes = outside.jacobian(best)[estimator.free] * linked_slope(part.objective, mean)
    with np.errstate(all="ignore"):
        variance = np.einsum("km,kl,lm->m", slopes, sandwich(part, best, groups)[1], slopes)
    beyond = (measured(outside) - center) ** 2 - np.maximum(variance, 0.0) - row**2
    gain = promised(part, best, axis_name, axis[inside], outside.inputs)
    usable = np.isfinite(beyond) & np.isfinite(gain)
    found = reaches(axis[~inside], axis[inside]), gain, beyond, np.maximum(row, 1e-12)
    return tuple(values[usable] for values in found) if usable.any() else None
