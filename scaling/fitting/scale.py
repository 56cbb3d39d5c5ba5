"""The scale of an objective: a Huber delta, a Student scale or a beta-binomial concentration, given or found."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.optimize import minimize_scalar

from models.errors import ConfigError
from scaling.fitting.certificate import robust_scale
from scaling.fitting.estimator import Estimator
from scaling.fitting.objectives import Objective
from scaling.fitting.start_grid import optimum

DELTAS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


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

    return float(np.exp(minimize_scalar(cost, bounds=(-2.0, 14.0), method="bounded", options={"xatol": 1e-4}).x))
