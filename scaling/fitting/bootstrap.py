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
from scaling.fitting.tangent import Tangent

KINDS = ("row", "cluster", "stratified", "wild", "parametric")
BLOCK = 256
ITERATIONS, TOLERANCE = 40, 1e-12
# a resample's optimum is needed to a thousandth of its own spread: a decrease of so much of one row's share
SPARE = 1e-6
TANGENT_ITERATIONS = 10
NEGLIGIBLE = 0.02  # of a standard deviation, by which the expansion around the optimum may miss a resample's own
# resamples solved from two starts, to see whether the second is ever needed: more where rows are few, and optima apart
CHECKED, CHECKED_ROWS = 24, 20_000


@dataclasses.dataclass(frozen=True)
class Draws:
    """z [B, K] coordinates of the resampled optima; kind and seed that made them; agreed: share of the doubly started
    resamples on which no grid cell led to a better optimum than the neighbourhood of the point fit's."""

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
) -> Draws:
    """`size` resampled optima of `estimator` around its optimum z [K]; the same seed gives the same draws.

    The first of them are also started from their best cells of the grid; one other optimum among them and all are.
    Where the expansion around z finds the optima of the first to NEGLIGIBLE, it is taken for the others.
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
        start = np.repeat(z[None], BLOCK, 0)
        solved = [estimator.solve(start[: len(b)], None, targets[b]).z for b in _blocks(np.arange(size))]
        return Draws(np.concatenate(solved), kind, seed)
    counts = resample_weights(
        len(estimator.measured),
        size,
        rng,
        clusters if kind == "cluster" else None,
        strata if kind == "stratified" else None,
    )
    return _weighted(estimator, z, counts * estimator.weights, kind, seed, grid)


def jackknife(estimator: Estimator, z: np.ndarray, clusters: np.ndarray | None = None) -> np.ndarray:
    """Optima z [n or clusters, K] with one row (or run) left out at a time."""
    groups = np.arange(len(estimator.measured)) if clusters is None else clusters
    weights = (np.unique(groups)[:, None] != groups[None, :]) * estimator.weights
    return _weighted(estimator, z, weights, "jackknife", 0, None).z


def robust_weights(estimator: Estimator, z: np.ndarray) -> np.ndarray:
    """What makes the least squares of a grid cell agree with the objective: less weight [n] for rows far from z [K]."""
    residual = np.abs(estimator.residuals(z))
    if estimator.objective.counts or estimator.objective.kind == "gaussian":
        return np.ones_like(residual)
    width = max(estimator.objective.scale, 0.1 * robust_scale(residual), 1e-12)
    return width / np.maximum(residual, width)


def _weighted(estimator, z, weights, kind, seed, grid) -> Draws:
    """Solve every reweighting; the first thoroughly, and the rest only as far as those say that it matters."""
    size, tolerance = len(weights), SPARE / len(estimator.measured)
    tangent = None if estimator.objective.kind == "lad" else Tangent(estimator, z)

    def around(rows):
        start = np.repeat(z[None], len(rows), 0)
        if tangent is None:
            return start
        near = tangent.solve(start, weights[rows], None, TANGENT_ITERATIONS, tolerance, damping=0.0).z
        return np.where(np.isfinite(near), near, start)

    def exact(rows):
        return estimator.solve(around(rows), weights[rows], None, ITERATIONS, tolerance, damping=0.0)

    def everywhere(rows):
        best, w = exact(rows), weights[rows]
        cells = (grid or StartGrid(estimator)).best_cells(w, robust_weights(estimator, z))
        other = estimator.solve(cells, w, None, ITERATIONS, tolerance)
        # two optima whose objectives differ by a hundredth of one row's share are one to any statistic
        same = best.value <= other.value * (1 + 0.01 / len(estimator.measured)) + 1e-18
        return np.where((best.value <= other.value)[:, None], best.z, other.z), same

    checked = np.arange(min(size, max(CHECKED, CHECKED_ROWS // len(estimator.measured))))
    first, same = everywhere(checked)
    agreed = float(np.mean(same))
    if len(checked) == size:
        return Draws(first, kind, seed, agreed)
    rest = np.arange(len(checked), size)
    if agreed < 1.0:  # one other optimum, and all resamples look for theirs on the whole grid
        found = [everywhere(block) for block in _blocks(rest)]
        same = np.concatenate([same, *(part[1] for part in found)])
        return Draws(np.concatenate([first, *(part[0] for part in found)]), kind, seed, float(np.mean(same)))
    off = np.max(np.abs(around(checked) - first) / (np.std(first, axis=0) + 1e-300))
    solve = around if tangent is not None and off < NEGLIGIBLE else lambda rows: exact(rows).z
    return Draws(np.concatenate([first, *(solve(block) for block in _blocks(rest))]), kind, seed, agreed)


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


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    """Resamples [B] in blocks: the matrix of all of them on the whole grid would not fit the cache.

    One thread: with arrays this small two threads spend their gain on the interpreter lock (measured).
    """
    return [rows[i : i + BLOCK] for i in range(0, len(rows), BLOCK)]
