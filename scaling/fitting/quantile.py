"""Regression on the frontier: the best of what was tried, not the average of it.

A model can fall short of what its size allows in many ways and exceed it in none; mean regression measures the ways.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.optimize import linprog

from models.errors import ConfigError


def quantile_regression(design: ArrayLike, y: ArrayLike, quantile: float,
                        weights: ArrayLike | None = None) -> np.ndarray:
    """Coefficients [K] of the linear quantile of y [n] on design [n, K] (Koenker and Bassett 1978).

    By linear programme, exactly: the plane passes through K of the points. weights [n] multiply the rows' losses.
    """
    x, y = np.asarray(design, float), np.asarray(y, float)
    if not 0 < quantile < 1:
        raise ConfigError("quantile", f"{quantile} is not inside (0, 1)", "use a value such as 0.9")
    if len(y) < x.shape[1]:
        raise ConfigError("runs", f"{len(y)} rows for {x.shape[1]} coefficients", "add runs")
    w = np.ones(len(y)) if weights is None else np.asarray(weights, float)
    # columns of unit size: the solver's tolerances are absolute
    size, height = np.abs(x).max(0) + 1e-300, np.abs(y).max() + 1e-300
    eye = sparse.identity(len(y), format="csr")
    programme = linprog(np.concatenate([np.zeros(x.shape[1]), quantile * w, (1 - quantile) * w]),
                        A_eq=sparse.hstack([x / size, eye, -eye], format="csr"), b_eq=y / height,
                        bounds=[(None, None)] * x.shape[1] + [(0, None)] * (2 * len(y)))
    if programme.x is None:
        raise ConfigError("runs", f"the quantile regression has no solution ({programme.message})",
                          "drop rows that are not finite")
    return programme.x[:x.shape[1]] * height / size


def records(order: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Indices of the rows that set a record of y [n] when taken in the order of `order` [n]: its running maximum."""
    by_order = np.lexsort((-np.asarray(y), np.asarray(order)))
    best = np.maximum.accumulate(np.asarray(y, float)[by_order])
    return by_order[np.concatenate([[True], np.diff(best) > 0])]
