"""Shares of sources chosen by optimal transport: how far a mixture is from what is asked for, and what it will score.

After Projektor (Kang et al. 2023, arXiv:2307.02460): scores of small mixtures give a line in the distance at two sizes,
and a score at any size follows from these two, linear in the logarithm of the size, with nothing more to fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import identity, kron, vstack

from models.errors import ConfigError, require


@dataclass(frozen=True)
class Transport:
    """distance: the least mean cost of moving the mixture onto the target, exact. slopes: its derivative by the share
    of each source, shares moved between sources alone counting, `[sources]` float64 of mean 0."""

    distance: float
    slopes: np.ndarray


def labelled_costs(
    points: np.ndarray, labels: np.ndarray, to: np.ndarray, to_labels: np.ndarray, far: float = 1.0
) -> np.ndarray:
    """Euclidean distances `[points, targets]` of points `[points, dim]` to targets `[targets, dim]`, and `far` more
    where the labels differ."""
    apart = np.sqrt(((points[:, None] - to[None]) ** 2).sum(-1))
    return apart + far * (labels[:, None] != to_labels[None])


def transport(costs: Sequence[np.ndarray], shares: np.ndarray) -> Transport:
    """Optimal transport of a mixture of sources to a target.

    costs: of every source `[its points, targets]`, both with equal weight within. shares `[sources]`, adding up to 1.

    Raises:
      ConfigError: shares of another number than sources, negative or not adding up to 1.
    """
    shares = np.asarray(shares, float)
    fits = shares.shape == (len(costs),) and shares.min() >= 0 and abs(shares.sum() - 1) < 1e-9
    require(fits, "shares", f"are {shares.tolist()}", f"give {len(costs)} numbers from 0 on that add up to 1")
    cost = np.concatenate(costs)
    count, targets = cost.shape
    source = np.repeat(np.arange(len(costs)), [len(one) for one in costs])
    weight = (shares / np.bincount(source))[source]
    sums = vstack([kron(identity(count), np.ones((1, targets))), kron(np.ones((1, count)), identity(targets))])
    wanted = np.concatenate([weight, np.full(targets, 1 / targets)])
    # The last sum follows from the others; with it, rounded weights would contradict each other.
    found = linprog(cost.ravel(), A_eq=sums.tocsr()[:-1], b_eq=wanted[:-1], method="highs")
    if found.status != 0:
        raise ConfigError("costs", f"cannot be transported: {found.message}", "give finite costs")
    potential = found.eqlin.marginals[:count]
    slopes = np.array([potential[source == s].mean() for s in range(len(costs))])
    return Transport(float(found.fun), slopes - slopes.mean())


def nearest_mixture(costs: Sequence[np.ndarray], steps: int = 60, rate: float = 1.0) -> np.ndarray:
    """The shares `[sources]` whose mixture is nearest to the target, from uniform ones down the slopes of the distance
    (exponentiated gradients; the distance is convex in the shares). The best of all that were met."""
    shares = np.full(len(costs), 1 / len(costs))
    best, least = shares, np.inf
    for step in range(steps):
        here = transport(costs, shares)
        if here.distance < least:
            best, least = shares, here.distance
        size = np.abs(here.slopes).max()
        if size < 1e-12:
            break
        shares = shares * np.exp(-rate / np.sqrt(1 + step) * here.slopes / size)
        shares = shares / shares.sum()
    return best


@dataclass(frozen=True)
class Projection:
    """Scores of mixtures at any size: at sizes[i] a line slopes[i] x distance + offsets[i]."""

    sizes: tuple[int, int]
    slopes: tuple[float, float]
    offsets: tuple[float, float]

    @classmethod
    def fitted(cls, sizes: tuple[int, int], distances: np.ndarray, scores: np.ndarray) -> Projection:
        """Of scores `[2, mixtures]` at two sizes and the mixtures' distances `[mixtures]`, by least squares."""
        require(0 < sizes[0] < sizes[1], "sizes", f"are {sizes}", "give two increasing numbers of examples")
        (a, b), (c, d) = (np.polyfit(distances, one, 1) for one in scores)
        return cls(sizes, (float(a), float(c)), (float(b), float(d)))

    def score(self, distance: float | np.ndarray, size: float) -> np.ndarray:
        """At `size` examples, linear in its logarithm through the scores at both fitted sizes."""
        small, large = (a * np.asarray(distance) + b for a, b in zip(self.slopes, self.offsets, strict=True))
        share = np.log(size / self.sizes[0]) / np.log(self.sizes[1] / self.sizes[0])
        return small + (large - small) * share
