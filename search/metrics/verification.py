"""Verifiers that err, on recorded verdicts: what resampling until acceptance reaches, its ceiling, the best number of
attempts, and how a budget splits between solutions and verdicts.

The closed forms are in `scaling.laws.imperfect_verifier` and `scaling.laws.generative_verifier`; here they meet data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from models.errors import require
from scaling.laws.coverage import pass_at_k
from scaling.laws.imperfect_verifier import (
    VerifierRates,
    expected_reward,
    optimal_attempts,
    verified_ceiling,
    verifier_rates,
)
from search.metrics.curves import curve, powers_of_two
from search.metrics.samples import Samples
from search.metrics.selection import best_of_k, vote_curve


def first_accepted(correct: ArrayLike, accepted: ArrayLike, k: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """P(right) and P(wrong) [K] of the first accepted of k random samples of one problem; exact, NaN where k > n.

    correct, accepted: [n] of 0 and 1. What is missing to one is the probability that all k are rejected.
    """
    right, taken = np.asarray(correct, bool), np.asarray(accepted, bool)
    answered = pass_at_k(len(right), taken.sum(), k)
    share = (right & taken).sum() / max(taken.sum(), 1)
    return answered * share, answered * (1 - share)


def jackknifed(samples: ArrayLike, correct: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Pass rates and weights [3 x problems] whose weighted mean of f(rate) estimates the mean of f(p) over problems.

    f(c / n) alone is biased by the noise of c: what false positives leave is concave in p, and rates from a few hundred
    samples put its mean more than a point too low. n f(c / n) - (n - 1) mean f(one sample left out) removes the 1 / n.
    """
    n, c = (np.asarray(v, float) for v in np.broadcast_arrays(samples, correct))
    if n.min() < 2:
        return c / n, np.ones_like(n)
    rates = np.concatenate([c / n, np.maximum(c - 1, 0) / (n - 1), np.minimum(c, n - 1) / (n - 1)])
    return rates, np.concatenate([n, -(n - 1) * c / n, -(n - 1) * (n - c) / n])


@dataclass(frozen=True, eq=False)
class Verified:
    """Resampling until acceptance, measured and predicted.

    table: the columns of `curve` (accuracy: the accepted answer is right), `false` (it is wrong), `predicted` (accuracy
    from the pass rates and the two rates), `reward`, `predicted_reward`. rates: the verifier's completeness and
    soundness. ceiling: accuracy with unlimited attempts, from the rates; the same for one pass rate per problem.
    best_k, predicted_best_k: attempts with the largest reward (1 right, -penalty wrong, 0 no answer).
    """

    table: pd.DataFrame
    rates: VerifierRates
    ceiling: float
    best_k: int
    predicted_best_k: int
    penalty: float


def verified_curve(
    samples: Samples, k: ArrayLike | None = None, *, penalty: float = 0.0, interval: float = 0.9, bootstrap: int = 1000,
    seed: int = 0,
) -> Verified:  # fmt: skip
    """Accuracy of at most k attempts with the recorded verdicts, against the law of an imperfect verifier.

    The law takes the verifier's errors as independent of the problem and gets the pass rates from the counts (see
    `jackknifed`); where `predicted` leaves the interval, errors depend on the problem. best_k is among 0 to the fewest
    samples of a problem.
    """
    samples.needed("accepted")
    k = powers_of_two(samples.counts.min()) if k is None else np.atleast_1d(np.asarray(k))
    pairs = list(zip(samples.correct, samples.accepted or ()))
    right, false = (np.array(part) for part in zip(*(first_accepted(c, a, k) for c, a in pairs)))
    rates = verifier_rates(np.concatenate(samples.correct), np.concatenate(samples.accepted or ()), interval)
    c, s = rates.completeness, rates.soundness
    p, weights = jackknifed(samples.counts, samples.right)
    table = curve(right, k, interval=interval, bootstrap=bootstrap, seed=seed)
    table["false"] = false.mean(0)
    table["predicted"] = expected_reward(p, c, s, k, weights=weights)
    table["reward"] = table["accuracy"] - penalty * table["false"]
    table["predicted_reward"] = expected_reward(p, c, s, k, penalty, weights)
    every = np.arange(1, samples.counts.min() + 1)
    gains, losses = (np.mean(part, 0) for part in zip(*(first_accepted(x, a, every) for x, a in pairs)))
    best = int(np.argmax(np.concatenate([[0.0], gains - penalty * losses])))
    predicted = optimal_attempts(p, c, s, penalty, weights, most=max(int(every[-1]), 10_000))
    ceiling = float(np.clip(verified_ceiling(p, c, s, weights), 0, 1))  # weights of the jackknife may be negative
    return Verified(table, rates, ceiling, best, predicted, penalty)


def genrm_grid(samples: Samples, verdicts: Sequence[np.ndarray], *, seed: int = 0, subsets: int = 256) -> pd.DataFrame:
    """Accuracy of best of S solutions by the mean of V verdicts, S and V powers of two, and of votes (V = 0).

    verdicts: per problem [n, V] of 0, 1, NaN where unreadable; V of them are drawn for each solution. The table
    (solutions, verifications, accuracy) is what `scaling.laws.generative_verifier.genrm_frontier` takes.
    """
    require(len(verdicts) == len(samples.correct), "verdicts", f"{len(verdicts)} for {len(samples.correct)} problems",
            "give one array per problem")  # fmt: skip
    most = min(row.shape[1] for row in verdicts)
    k = powers_of_two(samples.counts.min())
    votes = vote_curve(samples, k, subsets=subsets, seed=seed)
    rows = [dict(solutions=size, verifications=0, accuracy=value) for size, value in zip(k, votes["accuracy"])]
    rng = np.random.default_rng(seed)
    shuffled = [rng.permuted(row, axis=1) for row in verdicts]
    for count in powers_of_two(most):
        accuracy = []
        for row, (correct, given) in enumerate(zip(samples.correct, shuffled)):
            seen = given[:, :count]
            valid = np.isfinite(seen).sum(1)
            scores = np.nansum(seen, 1) / np.maximum(valid, 1)
            if samples.answers is not None:
                scores = np.where(samples.answers[row] < 0, -1.0, scores)
            accuracy.append(best_of_k(correct, scores, k))
        rows += [dict(solutions=size, verifications=count, accuracy=value)
                 for size, value in zip(k, np.mean(accuracy, 0))]  # fmt: skip
    return pd.DataFrame(rows)


def told_apart(samples: pd.DataFrame) -> dict[str, float]:
    """What a score can tell apart, from rows of problem, correct and score: shares in [0, 1].

    one_sample: right samples. area: under the curve between right and wrong ones, over all problems; within: the same
    among samples of one problem, mean over the problems that have both, which is what picking one of them needs.
    best_of_all: problems whose best-scored sample is right. NaN where there are no two kinds.
    """
    groups = [group for _, group in samples.groupby("problem")]
    within = [_area(group) for group in groups]
    mixed = [area for area in within if np.isfinite(area)]
    return {
        "one_sample": float(samples["correct"].mean()),
        "area": _area(samples),
        "within": float(np.mean(mixed)) if mixed else float("nan"),
        "best_of_all": float(np.mean([group.loc[group["score"].idxmax(), "correct"] for group in groups])),
    }


def _area(samples: pd.DataFrame) -> float:
    """P(a right sample scores above a wrong one), ties counting half; NaN without both."""
    right, ranks = samples["correct"].to_numpy() > 0, rankdata(samples["score"])
    n = int(right.sum())
    pairs = n * (len(right) - n)
    return float((ranks[right].sum() - n * (n + 1) / 2) / pairs) if pairs else float("nan")
