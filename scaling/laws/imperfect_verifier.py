"""Imperfect verifiers: what repeated sampling reaches when false answers are accepted too.

A verifier accepts right answers with probability c (completeness) and rejects wrong ones with probability s
(soundness). Resampling until acceptance raises accuracy to a ceiling that more samples do not move, and where a false
positive costs something, the best number of attempts is finite (Stroebl et al. 2024).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta as beta_distribution
from scipy.stats import norm

from models.errors import ConfigError
from scaling.fitting.fitted import Interval
from scaling.fitting.law import Law

VERIFIED_ACCURACY = Law(
    name="verified_accuracy",
    formula="P(right | accepted) = p / (p + f (1 - p)), f = (1 - s) / c",   # only the ratio f is determined
    inputs=("pass_rate",), output="accepted_accuracy",
    predict=lambda p, x: x.pass_rate / (x.pass_rate + p.f * (1 - x.pass_rate)),
    bounds=dict(f=(0, None)),
    space="logit", objective="gaussian", start=dict(f=tuple(np.geomspace(1e-4, 10.0, 31))),
    units=dict(pass_rate="P(one sample right)", accepted_accuracy="P(right | accepted)"),
    source="Bayes' rule; Stroebl et al. 2024 (arXiv:2411.17501). One task difficulty: a mixture of tasks bends it")

RESAMPLING = Law(
    name="verified_resampling",
    formula="E[right, K] = c p (1 - B**K) / (1 - B), B = (1 - c) p + s (1 - p)",
    inputs=("pass_rate", "samples"), output="accuracy",
    predict=lambda p, x: accepted_right(p.c, p.s, x.pass_rate, x.samples),
    bounds=dict(c=(0, 1), s=(0, 1)),
    space="raw", objective="gaussian", start=dict(c=(0.3, 0.6, 0.9, 0.99), s=(0.3, 0.6, 0.9, 0.99)),
    units=dict(pass_rate="P(one sample right)", samples="attempts at most", accuracy="P(the accepted answer is right)"),
    source="geometric series over attempts; no answer when all K are rejected")


def accepted_right(c: Any, s: Any, pass_rate: Any, attempts: Any) -> Any:
    """P(an answer is accepted within `attempts` and is right) at completeness c, soundness s; all broadcast."""
    p = pass_rate
    rejected = (1 - c) * p + s * (1 - p)
    return c * p * (1 - rejected**attempts) / (1 - rejected)


def verified_ceiling(pass_rates: ArrayLike, c: float, s: float, weights: ArrayLike | None = None) -> float:
    """Accuracy with unlimited attempts for a mix of tasks with pass_rates [tasks]: it does not depend on the budget.

    weights: shares of the tasks. A task on which nothing is ever accepted counts as wrong.
    """
    p = np.atleast_1d(np.asarray(pass_rates, float))
    accepted = c * p + (1 - s) * (1 - p)
    right = np.divide(c * p, accepted, out=np.zeros_like(p), where=accepted > 0)
    return float(np.average(right, weights=_shares(weights)))


def _shares(weights: ArrayLike | None) -> np.ndarray | None:
    return None if weights is None else np.asarray(weights, float)


def expected_reward(pass_rates: ArrayLike, c: float, s: float, attempts: ArrayLike, penalty: float = 0.0,
                    weights: ArrayLike | None = None) -> np.ndarray:
    """Mean reward [K] of at most `attempts` [K] tries: 1 for a right answer, -penalty for a wrong one, 0 for none."""
    p, k = np.atleast_1d(np.asarray(pass_rates, float))[:, None], np.atleast_1d(np.asarray(attempts, float))
    rejected = (1 - c) * p + s * (1 - p)
    tries = np.where(rejected < 1, (1 - rejected**k) / np.where(rejected < 1, 1 - rejected, 1.0), k)
    return np.average((c * p - penalty * (1 - s) * (1 - p)) * tries, axis=0, weights=_shares(weights))


def optimal_attempts(pass_rates: ArrayLike, c: float, s: float, penalty: float, weights: ArrayLike | None = None,
                     most: int = 10_000) -> int:
    """The number of attempts (0 to `most`) with the largest expected reward; the smallest of equals."""
    reward = np.concatenate([[0.0], expected_reward(pass_rates, c, s, np.arange(1, most + 1), penalty, weights)])
    return int(np.argmax(reward))


class VerifierRates(NamedTuple):
    """Completeness and soundness with their Jeffreys intervals."""

    completeness: float
    soundness: float
    completeness_interval: Interval
    soundness_interval: Interval


def verifier_rates(right: ArrayLike, accepted: ArrayLike, interval: float = 0.9) -> VerifierRates:
    """Completeness and soundness from verdicts: right, accepted [answers] booleans.

    Raises ConfigError when all answers are right, or all wrong: one of the two rates is then unknown.
    """
    r, a = np.asarray(right, bool), np.asarray(accepted, bool)
    if r.all() or not r.any():
        raise ConfigError("right", f"all {len(r)} answers are {'right' if r.all() else 'wrong'}",
                          "give verdicts on right and on wrong answers")

    def rate(hits, total):
        ends = beta_distribution.ppf([(1 - interval) / 2, (1 + interval) / 2], hits + 0.5, total - hits + 0.5)
        return float(hits / total), Interval(float(ends[0]), float(ends[1]))

    (c, c_interval), (s, s_interval) = rate((r & a).sum(), r.sum()), rate((~r & ~a).sum(), (~r).sum())
    return VerifierRates(c, s, c_interval, s_interval)


def gaussian_best_of_n(p: float, d: float, n: ArrayLike) -> np.ndarray:
    """Accuracy of best-of-n [.] when a sample is right with probability p and its score normal, shifted by d if right.

    n p integral of phi(x - d) F(x)^(n - 1) with F = p Phi(x - d) + (1 - p) Phi(x), by the trapezoidal rule, which is
    exact to rounding for integrands that vanish at both ends.
    """
    x = np.linspace(-12.0, 12.0 + abs(d), 4001) + min(d, 0.0)
    mixture = p * norm.cdf(x - d) + (1 - p) * norm.cdf(x)
    n = np.asarray(n, float)
    return n * p * np.trapezoid(norm.pdf(x - d) * mixture ** (n[..., None] - 1), x, axis=-1)


LAWS = (VERIFIED_ACCURACY, RESAMPLING)
