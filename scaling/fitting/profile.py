"""Profile intervals and the covariance behind them: how the objective rises when one parameter is held away from its
optimum and the others follow.

The same estimator solves every held value, so the profile is about the objective that was minimised. An objective is
not a log-likelihood: its rise is put on the scale of a deviance by the ratio of the parameter's sandwich variance to
the inverse curvature (Kent 1982; Chandler and Bate 2007), which is right for Huber losses, rows of unequal scatter and
rows of one run alike. Unlike a covariance, a profile is not symmetric and shows a parameter that nothing bounds.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import stats

from models.errors import ConfigError, nearest
from scaling.fitting.calibration import degrees
from scaling.fitting.covariance import sandwich
from scaling.fitting.fitted import Fitted

FARTHEST = 40.0  # standard errors to either side after which an end counts as open
POINTS = 12  # of a side


@dataclasses.dataclass(frozen=True, eq=False)
class Profile:
    """values [m] of the parameter, ascending; deviance [m]: 0 at the optimum; the interval of level `interval` is where
    it stays below `threshold`, an infinite or bound end where the objective never rises so far."""

    parameter: str
    values: np.ndarray
    deviance: np.ndarray
    low: float
    high: float
    interval: float
    threshold: float


def profile(fit: Fitted, parameter: str, interval: float = 0.95) -> Profile:
    """Profile of one fitted parameter; ConfigError when it is fixed or unknown."""
    names = fit.law.parameters
    if parameter not in names or parameter in fit.fixed:
        free = [name for name in names if name not in fit.fixed]
        near = nearest(parameter, free)
        problem = "is fixed" if parameter in names else f"is no parameter of {fit.law.name}"
        raise ConfigError("profile", f"{parameter!r} {problem}", f"use {near!r}" if near else f"use {', '.join(free)}")
    index = names.index(parameter)
    bread, covariance, _ = sandwich(fit.estimator, fit.z, fit.table.clusters)
    position = int(fit.estimator.free[:index].sum())
    error = float(np.sqrt(max(covariance[position, position], 1e-300)))
    ratio = max(covariance[position, position] / max(bread[position, position], 1e-300), 1e-300)
    direction = np.zeros(len(names))
    direction[fit.estimator.free] = covariance[:, position] / max(covariance[position, position], 1e-300)
    points = len(fit.table.measured)
    freedom = degrees(points, int(fit.estimator.free.sum()), fit.table.clusters)
    threshold = float(stats.f.ppf(interval, 1, freedom))
    sides = [_side(fit, index, sign * error, direction, ratio, threshold) for sign in (-1.0, 1.0)]
    z = np.concatenate([sides[0][0][::-1], [fit.z[index]], sides[1][0]])
    deviance = np.concatenate([sides[0][1][::-1], [0.0], sides[1][1]])
    ends = np.repeat(fit.z[None], 2, 0)
    ends[:, index] = sides[0][2], sides[1][2]
    low, high = np.sort(fit.law.coordinates.to_params(ends)[:, index])
    curve = np.repeat(fit.z[None], len(z), 0)
    curve[:, index] = z
    values = fit.law.coordinates.to_params(curve)[:, index]
    order = np.argsort(values)
    return Profile(parameter, values[order], deviance[order], float(low), float(high), interval, threshold)


def _side(fit: Fitted, index: int, step: float, direction, ratio, threshold) -> tuple[np.ndarray, np.ndarray, float]:
    """Coordinates and deviances [m] on one side of the optimum, and the coordinate where the threshold is crossed."""
    bounds = fit.law.coordinates.low[index], fit.law.coordinates.high[index]
    held = dataclasses.replace(
        fit.estimator, fixed={**fit.fixed, fit.law.parameters[index]: float(fit.params[fit.law.parameters[index]])}
    )
    reach = 2.0 * np.sqrt(threshold)
    while True:
        offsets = np.linspace(0, reach, POINTS + 1)[1:] * step
        z = np.clip(fit.z[index] + offsets, *bounds)
        starts = fit.z + (z - fit.z[index])[:, None] * direction
        plain = np.repeat(fit.z[None], len(z), 0)
        starts[:, index] = plain[:, index] = z
        solved = [held.solve(start) for start in (starts, plain)]
        rise = np.minimum(solved[0].value, solved[1].value) - fit.certificate.objective
        deviance = np.maximum(2 * rise / ratio, 0.0)
        if deviance[-1] > threshold or reach > FARTHEST or z[-1] in bounds:
            break
        reach *= 2.5
    above = np.flatnonzero(deviance > threshold)
    if not len(above):
        return z, deviance, z[-1] if z[-1] in bounds else float(np.copysign(np.inf, step))
    last = above[0]
    roots = np.sqrt(np.concatenate([[0.0], deviance]))  # the root of a deviance is nearly straight
    places = np.concatenate([[fit.z[index]], z])
    share = (np.sqrt(threshold) - roots[last]) / (roots[last + 1] - roots[last])
    return z, deviance, float(places[last] + share * (places[last + 1] - places[last]))
