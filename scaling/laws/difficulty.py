"""Clustering on difficulty (COD, Xu et al. 2025): predict the tasks that can be predicted, then map to the whole test.

Tasks whose scores rise alike over small models are put together, one law per cluster; clusters without a usable trend
are dropped, and a smooth monotone map leads from the kept subset's score to the full test's. The thresholds on the
parameters are arguments.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression

from models.errors import ConfigError
from scaling.fitting.fit import Fit
from scaling.fitting.law import Law

COD = Law(
    name="difficulty_cluster",
    formula="y = g + (1 - g) exp(-a C**-b - c), a = C0**b",  # g: score of a guess; exp(-c): share that can be learnt
    inputs=("flops",), output="accuracy",
    predict=lambda p, x: p.g + (1 - p.g) * np.exp(-((x.flops / p.C0) ** -p.b) - p.c),
    exponents=("b",),
    bounds=dict(C0=(0, None), b=(0, 4), c=(0, None), g=(0, 1)),
    space="raw", objective="gaussian",
    start=dict(C0=tuple(np.geomspace(1e14, 1e27, 14)), b=(0.1, 0.2, 0.4, 0.8, 1.6), c=(0.01, 0.1, 0.5),
               g=(0.0, 0.25, 0.5)),
    derived=dict(a=lambda p: p.C0**p.b, ceiling=lambda p: p.g + (1 - p.g) * np.exp(-p.c)),
    units=dict(flops="FLOP", accuracy="fraction right"),
    source="Xu et al. 2025 (arXiv:2502.17262); hold g with fixed= where the guess rate is known")


def extrapolatable(least_a: float = 0.1, least_b: float = 0.1, most_c: float = 1.0) -> Callable[[Fit], str]:
    """The `keep` rule for `grouped.fit_groups`: why a cluster's trend cannot be used; empty when it can.

    a is taken at the smallest budget of the cluster, (C0 / C)**b: how much of the rise, in e-folds, was still to come
    there. The published threshold a > 1 is in an unstated unit of C; in FLOP it would never reject anything.
    """
    def keep(fit: Fit) -> str:
        p = fit.params
        a = (p.C0 / fit.table.inputs["flops"].min()) ** p.b
        rules = ((a > least_a, f"a = {a:.3g} is not above {least_a}: nothing left to rise"),
                 (p.b > least_b, f"b = {p.b:.3g} is not above {least_b}: no trend"),
                 (p.c < most_c, f"c = {p.c:.3g} is not below {most_c}: a ceiling below the trend"))
        return next((why for holds, why in rules if not holds), "")
    return keep


def difficulty_clusters(scores: ArrayLike, radius: float | None = None, smallest: int = 5,
                        rounds: int = 100) -> np.ndarray:
    """Cluster code [tasks] of every task by mean shift on its scores [tasks, models]; -1 for tasks in no cluster.

    radius: of the flat kernel, Euclidean in score space; by default .15 sqrt(models), a typical difference of .15 per
    model. Clusters of fewer than `smallest` tasks are outliers. No number of clusters has to be guessed.
    """
    x = np.asarray(scores, float)
    if x.ndim != 2 or not np.isfinite(x).all():
        raise ConfigError("scores", f"shape {x.shape} or a missing value", "give a row per task, a column per model")
    radius = 0.15 * np.sqrt(x.shape[1]) if radius is None else radius
    modes = x.copy()
    for _ in range(rounds):
        near = np.linalg.norm(modes[:, None] - x[None], axis=2) <= radius
        moved = near @ x / near.sum(1, keepdims=True)
        done = np.allclose(moved, modes, atol=1e-9)
        modes = moved
        if done:
            break
    codes, centers = np.full(len(x), -1), list[np.ndarray]()
    for i, mode in enumerate(modes):
        close = [k for k, center in enumerate(centers) if np.linalg.norm(mode - center) <= radius / 2]
        if not close:
            centers.append(mode)
        codes[i] = close[0] if close else len(centers) - 1
    sizes = np.bincount(codes)
    # codes ordered from easy to hard, so that the same data always give the same names
    order = sorted(np.flatnonzero(sizes >= smallest), key=lambda k: -float(centers[k].mean()))
    renamed = np.full(len(centers), -1)
    renamed[order] = np.arange(len(order))
    return renamed[codes]


def subset_to_full(subset: ArrayLike, full: ArrayLike, guess: float = 0.0) -> Callable[[np.ndarray], np.ndarray]:
    """A smooth increasing map from the subset's score to the full test's, through (guess, guess) and (1, 1).

    subset, full: scores [models] of models for which both were measured. Isotonic regression makes them monotone, a
    shape-preserving cubic makes the map smooth.
    """
    x, y = np.asarray(subset, float), np.asarray(full, float)
    bad = np.flatnonzero((x < guess) | (x > 1) | (y < guess) | (y > 1))
    if len(bad):
        raise ConfigError(f"model {bad[0]}", f"scores {x[bad[0]]:.4g}, {y[bad[0]]:.4g} outside [{guess}, 1]",
                          "lower guess, or drop the model")
    order = np.argsort(x, kind="stable")
    x, y = x[order], isotonic_regression(y[order]).x
    knots = np.unique(x)
    heights = np.array([y[x == knot].mean() for knot in knots])
    inner = (knots > guess) & (knots < 1)
    return PchipInterpolator([guess, *knots[inner], 1.0], [guess, *heights[inner], 1.0])


LAWS = (COD,)
