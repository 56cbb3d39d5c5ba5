"""The usual way to fit Chinchilla's third approach: scipy's L-BFGS-B from every point of a 4,500-point grid.

Parameters (log A, log B, log E, alpha, beta); objective: sum of Huber(1e-3) on log residuals; gradients by finite
differences and default tolerances, as public notebooks have it. The resampling loop restarts from the best point.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy.optimize import minimize

DELTA = 1e-3
GRID = {
    "alpha": np.arange(0, 2.5, 0.5),
    "beta": np.arange(0, 2.5, 0.5),
    "log_E": np.arange(-1, 1.5, 0.5),
    "log_A": np.arange(0, 30, 5.0),
    "log_B": np.arange(0, 30, 5.0),
}


def starts() -> np.ndarray:
    """The 4,500 starts [S, 5] in the order log A, log B, log E, alpha, beta."""
    names = ("log_A", "log_B", "log_E", "alpha", "beta")
    points = itertools.product(*(GRID[name] for name in GRID))
    return np.array([[dict(zip(GRID, point, strict=True))[name] for name in names] for point in points])


def objective(p, log_params, log_tokens, log_loss) -> float:
    """Sum of Huber losses of the log residuals."""
    predicted = np.logaddexp.reduce(
        [np.full_like(log_params, p[2]), p[0] - p[3] * log_params, p[1] - p[4] * log_tokens], axis=0
    )
    size = np.abs(predicted - log_loss)
    return float(np.where(size <= DELTA, 0.5 * size**2, DELTA * (size - 0.5 * DELTA)).sum())


def fit_from(points, log_params, log_tokens, log_loss):
    """Best scipy result over the starts `points` [S, 5]."""
    best = None
    with np.errstate(all="ignore"):
        for start in points:
            result = minimize(objective, start, args=(log_params, log_tokens, log_loss), method="L-BFGS-B")
            if np.isfinite(result.fun) and (best is None or result.fun < best.fun):
                best = result
    return best


def bootstrap_from(point, log_params, log_tokens, log_loss, size: int, seed: int = 0) -> np.ndarray:
    """Optima [size, 5] of `size` row resamples, each from `point`."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(size):
        rows = rng.integers(0, len(log_loss), len(log_loss))
        out.append(fit_from([point], log_params[rows], log_tokens[rows], log_loss[rows]).x)
    return np.array(out)
