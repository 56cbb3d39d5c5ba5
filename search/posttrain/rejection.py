"""Rejection sampling: a training set of a policy's own right answers, with a target for every query.

Equal attempts for all queries (vanilla) leave few answers of the hard ones. DART (Tong et al. 2024, arXiv:2407.13690)
draws until every query has as many as it should: the same number each, or in proportion to how often it fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from models.errors import require

Attempt = Callable[[np.ndarray], np.ndarray]  # queries [n] int -> whether a new answer to each is right [n] bool


class Collected(NamedTuple):
    """right: answers that were kept of each query; attempts: that it took; both `[queries]` int64."""

    right: np.ndarray
    attempts: np.ndarray


def equal_attempts(attempt: Attempt, queries: int, total: int, most: int) -> Collected:
    """Attempts at all queries, round by round, until `total` are right or each had `most`."""
    require(queries >= 1 and total >= 0 and most >= 1, "total", f"is {total} of {queries} queries", "give more queries")
    found = Collected(np.zeros(queries, np.int64), np.zeros(queries, np.int64))
    for _ in range(most):
        if found.right.sum() >= total:
            break
        found.right[:] += attempt(np.arange(queries))
        found.attempts[:] += 1
    return found


def to_targets(attempt: Attempt, targets: np.ndarray, most: int) -> Collected:
    """Attempts at each query until it has as many right answers as its target `[queries]`, at most `most` of them."""
    fine = bool((np.asarray(targets) >= 0).all()) and most >= 1
    require(fine, "targets", "are negative, or most is below 1", "give targets of 0 or more")
    found = Collected(np.zeros(len(targets), np.int64), np.zeros(len(targets), np.int64))
    while len(lacking := np.flatnonzero((found.right < targets) & (found.attempts < most))):
        found.right[lacking] += attempt(lacking)
        found.attempts[lacking] += 1
    return found


def uniform_targets(queries: int, total: int) -> np.ndarray:
    """The same for every query, as far as `total` divides."""
    return np.full(queries, total // queries) + (np.arange(queries) < total % queries)


def hard_targets(rates: np.ndarray, total: int) -> np.ndarray:
    """At least 1, and what is left of `total` in proportion to 1 - rate, by largest remainders.

    rates: share of right answers of each query, of other attempts than those that are kept.
    """
    rates = np.asarray(rates, np.float64)
    require(total >= len(rates), "total", f"is {total}", f"give at least one for each of {len(rates)} queries")
    require(bool(((rates >= 0) & (rates <= 1)).all()), "rates", "are no shares", "give numbers from 0 to 1")
    weight = 1 - rates if (rates < 1).any() else np.ones(len(rates))
    exact = weight / weight.sum() * (total - len(rates))
    found = np.floor(exact).astype(np.int64)
    most = np.argsort(found - exact, kind="stable")[: total - len(rates) - int(found.sum())]
    found[most] += 1
    return found + 1


def kept_to(rng: np.random.Generator, right: np.ndarray, total: int) -> np.ndarray:
    """A uniform choice of `total` of the answers; how many of each query `[queries]`."""
    require(0 <= total <= int(right.sum()), "total", f"is {total}, of {right.sum()} answers", "give fewer")
    return rng.multivariate_hypergeometric(right, total)
