"""How far to trust an extrapolation: rolling held-out errors inside the table calibrate the prediction interval.

The table is cut at several sizes; at each cut the law is fitted to the rows below and scored on the rows above, each
error divided by the interval's own standard deviation (parameters, from a bootstrap of that fit, and noise). Published
bands are too narrow because the law is not exactly true: the scores then spread wider than a normal's, by a factor that
the same law will need again at the next extrapolation. Only rows of the fit are used, so a later held-out test is fair.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import stats

from scaling.laws.bootstrap import bootstrap
from scaling.laws.certificate import robust_scale
from scaling.laws.estimator import Estimator
from scaling.laws.start_grid import optimum

ORIGINS = 6
RESAMPLES = 48
QUICK = 40  # iterations of a resample here: only the spread of the draws is used
DEGREES = 5.0  # of the t distribution that scores are compared with: residuals have heavier tails than a normal's


@dataclasses.dataclass(frozen=True)
class Calibration:
    """axis: what the cuts were made on; scores [m] standardised errors; reach [m] log of (held-out size / largest
    fitted size); origins: how many cuts; noise: standard deviation of one row in the residual space."""

    axis: str
    scores: np.ndarray
    reach: np.ndarray
    origins: int
    noise: float

    def factor(self, level: float) -> float:
        """What the interval at this level is multiplied by; 1 when no cut was possible."""
        if not len(self.scores):
            return 1.0
        size = np.abs(self.scores)
        # the finite-sample quantile of conformal prediction; with few scores it is the largest one
        rank = min(np.ceil((len(size) + 1) * level) / len(size), 1.0)
        return float(max(np.quantile(size, rank, method="higher") / stats.norm.ppf(0.5 + level / 2), 1.0))


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


def choose_axis(inputs: dict[str, np.ndarray]) -> tuple[str, np.ndarray]:
    """What "larger run" means for a table: compute when it follows from the columns, else the widest-ranging input."""
    if "flops" in inputs:
        return "flops", inputs["flops"]
    if {"params", "tokens"} <= inputs.keys():
        return "flops", 6 * inputs["params"] * inputs["tokens"]
    positive = {k: v for k, v in inputs.items() if np.all(v > 0)}
    name = max(positive, key=lambda k: np.ptp(np.log(positive[k])), default=next(iter(inputs)))
    return name, inputs[name]


def origins(axis: np.ndarray, parameters: int, count: int = ORIGINS) -> list[float]:
    """Cuts [<= count] on `axis` with at least 2 rows per parameter below and some above, spread over its range."""
    values = np.unique(axis)
    least = max(2 * parameters, 6)
    possible = [v for v in values[:-1] if np.sum(axis <= v) >= least and len(np.unique(axis[axis <= v])) >= 3]
    if not possible:
        return []
    wanted = np.linspace(0, len(possible) - 1, min(count, len(possible))).round().astype(int)
    return [possible[i] for i in np.unique(wanted)]


def calibrate(
    estimator: Estimator,
    axis_name: str,
    axis: np.ndarray,
    clusters=None,
    seed: int = 0,
    count: int = ORIGINS,
    resamples: int = RESAMPLES,
) -> Calibration:
    """Standardised errors of the law's own extrapolations inside the table."""
    parameters = int(estimator.free.sum())
    scores, reach, used = [], [], 0
    best = None
    for cut in origins(axis, parameters, count):
        inside = axis <= cut
        part = estimator.take(inside)
        solution, grid = optimum(part, starts=8)
        if not np.isfinite(solution.value).any():
            continue
        best = solution.z[int(np.argmin(solution.value))]
        groups = None if clusters is None else np.unique(clusters[inside], return_inverse=True)[1]
        kind = "row" if groups is None else "cluster"
        draws = bootstrap(part, best, resamples, seed, kind, groups, grid=grid, checked=0, iterations=QUICK)
        outside = estimator.take(~inside)
        link = outside.objective.link
        center = link(outside.predict(best[None])[0])
        deviation = spread(link(outside.predict(draws.z)) - center)
        noise = noise_scale(part.residuals(best), parameters)
        scores.append((outside.target - center) / np.sqrt(deviation**2 + noise**2))
        reach.append(np.log(axis[~inside] / cut))
        used += 1
    if not used:
        return Calibration(axis_name, np.zeros(0), np.zeros(0), 0, 0.0)
    return Calibration(axis_name, np.concatenate(scores), np.concatenate(reach), used, 0.0)
