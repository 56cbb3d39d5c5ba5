"""Resampling: reweighted copies of a table, solved by the estimator that made the point fit.

row        multinomial counts of rows
cluster    multinomial counts of whole runs (rows of one run are not independent)
stratified multinomial counts within each stratum
wild       residuals of every row (or run) multiplied by a random sign; keeps the design and the heteroscedasticity
parametric residuals drawn from all residuals, scaled for the degrees of freedom
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from models.errors import ConfigError, nearest
from scaling.fitting.certificate import robust_scale
from scaling.fitting.estimator import Estimator
from scaling.fitting.start_grid import StartGrid

KINDS = ("row", "cluster", "stratified", "wild", "parametric")
BLOCK = 256
ITERATIONS, TOLERANCE = 100, 1e-12  # a resample's optimum is needed to well below its own spread, no further
CHECKED = 256  # resamples solved from two starts, to see whether the second is ever needed


@dataclasses.dataclass(frozen=True)
class Draws:
    """z [B, K] coordinates of the resampled optima; kind and seed that made them; agreed: share of the doubly started
    resamples on which both starts found the same optimum."""

    z: np.ndarray
    kind: str
    seed: int
    agreed: float = 1.0


def codes(labels: Iterable) -> np.ndarray:
    """Integer codes [n] of arbitrary labels."""
    return np.unique(np.asarray(labels).astype(str), return_inverse=True)[1]


def resample_weights(
    n: int, size: int, rng: np.random.Generator, clusters: np.ndarray | None = None, strata: np.ndarray | None = None
) -> np.ndarray:
    """Multinomial counts [B, n]: of rows, of clusters (integer codes [n]), or of rows within strata (codes [n])."""
    if strata is not None:
        out = np.zeros((size, n))
        for stratum in np.unique(strata):
            rows = np.flatnonzero(strata == stratum)
            out[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=size)
        return out
    if clusters is not None:
        count = int(clusters.max()) + 1
        return rng.multinomial(count, np.full(count, 1 / count), size=size)[:, clusters].astype(float)
    return rng.multinomial(n, np.full(n, 1 / n), size=size).astype(float)


def bootstrap(
    estimator: Estimator,
    z: np.ndarray,
    size: int,
    seed: int = 0,
    kind: str = "row",
    clusters: np.ndarray | None = None,
    strata: np.ndarray | None = None,
    grid: StartGrid | None = None,
    checked: int = CHECKED,
    iterations: int = ITERATIONS,
) -> Draws:
    """`size` resampled optima of `estimator` around its optimum z [K]; the same seed gives the same draws.

    checked: how many are also started from z, to see whether their best grid cell suffices; one failure and all are.
    """
    if kind not in KINDS:
        near = nearest(kind, KINDS)
        raise ConfigError("resample", f"{kind!r} is not known", f"use {near or ', '.join(KINDS)!r}")
    if kind == "cluster" and clusters is None:
        raise ConfigError("resample", "'cluster' needs the runs", "name the column with cluster=")
    if kind == "stratified" and strata is None:
        raise ConfigError("resample", "'stratified' needs strata", "name the column with strata=")
    rng = np.random.default_rng(seed)
    if kind in ("wild", "parametric"):
        targets = _targets(estimator, z, size, rng, kind, clusters)
        solved, _ = _blocks(lambda rows: _solve_targets(estimator, z, targets[rows]), size)
        return Draws(solved, kind, seed)
    counts = resample_weights(
        len(estimator.measured),
        size,
        rng,
        clusters if kind == "cluster" else None,
        strata if kind == "stratified" else None,
    )
    return _weighted(estimator, z, counts * estimator.weights, kind, seed, grid, checked, iterations)


def jackknife(estimator: Estimator, z: np.ndarray, clusters: np.ndarray | None = None) -> np.ndarray:
    """Optima z [n or clusters, K] with one row (or run) left out at a time."""
    groups = np.arange(len(estimator.measured)) if clusters is None else clusters
    weights = (np.unique(groups)[:, None] != groups[None, :]) * estimator.weights
    return _weighted(estimator, z, weights, "jackknife", 0, None).z


def _weighted(estimator, z, weights, kind, seed, grid, checked=CHECKED, iterations=ITERATIONS) -> Draws:
    """Solve every reweighting from its own best cell, and a part of them from the point fit too."""
    grid = grid or StartGrid(estimator)
    residual = np.abs(estimator.residuals(z))
    if estimator.objective.counts or estimator.objective.kind == "gaussian":
        robust = np.ones_like(residual)
    else:
        width = max(estimator.objective.scale, 0.1 * robust_scale(residual), 1e-12)
        robust = width / np.maximum(residual, width)

    def solve(rows, both):
        w = weights[rows]
        best = estimator.solve(grid.best_cells(w, robust), w, None, iterations, TOLERANCE)
        if not both:
            return best.z, np.ones(len(w), bool)
        other = estimator.solve(np.repeat(z[None], len(w), 0), w, None, iterations, TOLERANCE)
        same = np.abs(best.value - other.value) <= 1e-6 * np.minimum(best.value, other.value) + 1e-18
        return np.where((best.value <= other.value)[:, None], best.z, other.z), same

    size = len(weights)
    checked = min(size, checked)
    if not checked:
        return Draws(_blocks(lambda rows: solve(rows, False), size)[0], kind, seed)
    first, same = _blocks(lambda rows: solve(rows, True), checked)
    rest = size - checked
    if rest == 0:
        return Draws(first, kind, seed, float(np.mean(same)))
    # the best cell suffices wherever it always did; one disagreement and all resamples get both starts
    both = not bool(np.all(same))
    second, more = _blocks(lambda rows: solve(rows + checked, both), rest)
    same = np.concatenate([same, more]) if both else same
    return Draws(np.concatenate([first, second]), kind, seed, float(np.mean(same)))


def _solve_targets(estimator, z, targets):
    return estimator.solve(np.repeat(z[None], len(targets), 0), None, targets).z, np.ones(len(targets), bool)


def _targets(estimator, z, size, rng, kind, clusters) -> np.ndarray:
    """Resampled measurements [B, n] in the residual space."""
    if estimator.objective.counts:
        raise ConfigError("resample", f"{kind!r} needs residuals, counts have none", "use 'row' or 'cluster'")
    n, k = len(estimator.measured), int(estimator.free.sum())
    residual = estimator.residuals(z)
    fitted = estimator.target - residual
    scale = np.sqrt(n / max(n - k, 1))
    if kind == "parametric":
        return fitted + scale * rng.choice(residual - residual.mean(), size=(size, n))
    groups = np.arange(n) if clusters is None else clusters
    signs = rng.choice([-1.0, 1.0], size=(size, int(groups.max()) + 1))[:, groups]
    return fitted + scale * residual * signs


def _blocks(solve, size: int):
    """Run solve(row indices) block by block: the matrix of all resamples on the whole grid would not fit the cache.

    One thread: with arrays this small two threads spend their gain on the interpreter lock (measured).
    """
    parts = [solve(np.arange(i, min(i + BLOCK, size))) for i in range(0, size, BLOCK)]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
