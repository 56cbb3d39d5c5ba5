"""Picking one of k samples: best of k by score, majority and weighted vote, as rules and as expectations over draws.

Ties go to the lowest index, everywhere. Expectations are over which k of the n recorded samples were drawn, in which
order: best of k is exact (formula of sc-genrm-scaling, with exact averages inside blocks of equal scores), votes are
averaged over subsets. An answer that could not be read never votes.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from models.errors import require
from scaling.laws.coverage import pass_at_k
from search.metrics.curves import curve, powers_of_two
from search.metrics.samples import INVALID, Samples

SUBSETS = 256


def best_of(scores: ArrayLike) -> int:
    """Index of the highest score; the first of equals."""
    return int(np.argmax(np.asarray(scores, float)))


def vote(answers: ArrayLike, scores: ArrayLike | None = None) -> int | None:
    """Index of the first sample that gave the winning answer; None when no answer could be read.

    answers: codes [k], -1 for unreadable. scores: weights [k], one each without them. Of equal totals the answer that
    was given first wins.
    """
    codes = np.asarray(answers)
    weights = np.ones(len(codes)) if scores is None else np.asarray(scores, float)
    valid = np.flatnonzero(codes != INVALID)
    if not len(valid):
        return None
    seen, first, group = np.unique(codes[valid], return_index=True, return_inverse=True)
    totals = np.bincount(group.ravel(), weights[valid], minlength=len(seen))
    winners = np.flatnonzero(_tied(totals, totals.max()))
    return int(valid[first[winners].min()])


def _tied(totals: np.ndarray, best: np.ndarray | float) -> np.ndarray:
    """Which totals equal the best up to the rounding of a sum in another order."""
    return totals >= best - 1e-12 * np.abs(best)


def best_of_k(correct: ArrayLike, scores: ArrayLike, k: ArrayLike) -> np.ndarray:
    """P(the best-scored of k random samples is right) [K] for correct [n], scores [n]; exact, NaN where k > n.

    sum over blocks of equal scores of P(the best drawn lies in the block) x share of the block that is right.
    """
    correct, scores, k = np.asarray(correct, float), np.asarray(scores, float), np.atleast_1d(np.asarray(k))
    _, block = np.unique(-scores, return_inverse=True)
    size, right = np.bincount(block.ravel()), np.bincount(block.ravel(), correct)
    above = np.concatenate([[0], np.cumsum(size)])
    reached = pass_at_k(len(correct), above[:, None], k)  # P(one of the `above` best is drawn) [blocks + 1, K]
    return np.einsum("bk,b->k", np.diff(reached, axis=0), right / size)


def best_of_curve(
    samples: Samples, k: ArrayLike | None = None, *, interval: float = 0.9, bootstrap: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Accuracy of best of k (columns of `curve`); k: powers of two up to the fewest samples unless given."""
    samples.needed("scores")
    k = powers_of_two(samples.counts.min()) if k is None else np.atleast_1d(np.asarray(k))
    values = np.array([best_of_k(c, s, k) for c, s in zip(samples.correct, samples.scores or ())])
    return curve(values, k, interval=interval, bootstrap=bootstrap, seed=seed)


def subsets_of(n: int, k: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    """Indices [S, k] of subsets of n samples, and whether they are all of them (there being no more than `count`)."""
    if comb(n, k) <= count:
        return np.array(list(combinations(range(n), k))), True
    return np.argsort(rng.random((count, n)), axis=1)[:, :k], False


def vote_accuracy(codes: np.ndarray, weights: np.ndarray, correct: np.ndarray, picks: np.ndarray) -> np.ndarray:
    """Expected accuracy [S] of the vote of every subset picks [S, k] of one problem's samples [n], over its orders.

    Equal totals: in a random order the first member of the tied groups is any of them, so each group wins in
    proportion to its size. A group scores the share of its samples that are right.
    """
    groups = int(codes.max(initial=INVALID)) + 1
    if groups == 0:
        return np.zeros(len(picks))
    valid = codes != INVALID
    given = np.bincount(codes[valid], minlength=groups)
    value = np.bincount(codes[valid], correct[valid], minlength=groups) / np.maximum(given, 1)
    drawn, keep = codes[picks], valid[picks]
    cell = (np.arange(len(picks))[:, None] * groups + drawn)[keep]
    shape = (len(picks), groups)
    count = np.bincount(cell, minlength=shape[0] * groups).reshape(shape)
    total = np.bincount(cell, weights[picks][keep], minlength=shape[0] * groups).reshape(shape)
    total = np.where(count > 0, total, -np.inf)
    best = total.max(1, keepdims=True)
    share = np.where(_tied(total, np.where(np.isfinite(best), best, 0.0)), count, 0)  # no vote at all: nobody wins
    return share @ value / np.maximum(share.sum(1), 1)


def vote_values(
    samples: Samples, k: np.ndarray, weighted: bool = False, subsets: int = SUBSETS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Expected accuracy of every problem's vote [problems, K], and the variance of that estimate; NaN where k > n."""
    samples.needed("answers", *(["scores"] if weighted else []))
    require(subsets >= 200, "subsets", f"is {subsets}", "use 200 or more: votes have no closed form")
    values, variance = np.full((2, len(samples.correct), len(k)), np.nan)
    for row, (correct, codes) in enumerate(zip(samples.correct, samples.answers or ())):
        weights = samples.scores[row] if weighted and samples.scores else np.ones(len(correct))
        for column, size in enumerate(k):
            if size > len(correct):
                continue
            # a stream of its own for every problem and k: adding another k changes nothing
            rng = np.random.default_rng([seed, row, int(size)])
            picks, all_of_them = subsets_of(len(correct), int(size), subsets, rng)
            drawn = vote_accuracy(codes, weights, correct, picks)
            values[row, column] = drawn.mean()
            variance[row, column] = 0.0 if all_of_them else drawn.var(ddof=1) / len(picks)
    return values, variance


def vote_curve(
    samples: Samples, k: ArrayLike | None = None, *, weighted: bool = False, subsets: int = SUBSETS,
    interval: float = 0.9, bootstrap: int = 1000, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Accuracy of the vote of k samples: the columns of `curve` and `standard_error`, that of averaging over subsets.

    weighted: answers gather their samples' scores instead of one vote each. subsets: at least 200; where all subsets of
    k are no more, all are taken and the standard error is zero. NaN where a problem has fewer than k samples.
    """
    k = powers_of_two(samples.counts.min()) if k is None else np.atleast_1d(np.asarray(k))
    values, variance = vote_values(samples, k, weighted, subsets, seed)
    table = curve(values, k, interval=interval, bootstrap=bootstrap, seed=seed)
    table["standard_error"] = np.sqrt(variance.sum(0)) / len(variance)
    return table


def selection_results(
    samples: Samples, k: ArrayLike | None = None, *, subsets: int = SUBSETS, seed: int = 0
) -> pd.DataFrame:
    """What every way of picking among the same samples scores: rows of problem, strategy, budget (samples) and correct.

    strategy: "coverage" (a verifier that never errs), and where scores and answers are there "best_of_n", "majority"
    and "weighted_vote". correct is the expected accuracy of the problem, not one draw. For `compute_optimal` and
    `sample_efficiency`, below the rows of strategies that sample otherwise.
    """
    k = powers_of_two(samples.counts.min()) if k is None else np.atleast_1d(np.asarray(k))
    found = {"coverage": pass_at_k(samples.counts[:, None], samples.right[:, None], k)}
    if samples.scores is not None:
        found["best_of_n"] = np.array([best_of_k(c, s, k) for c, s in zip(samples.correct, samples.scores)])
    if samples.answers is not None:
        found["majority"] = vote_values(samples, k, False, subsets, seed)[0]
        if samples.scores is not None:
            found["weighted_vote"] = vote_values(samples, k, True, subsets, seed)[0]
    index = pd.MultiIndex.from_product([samples.problems, k], names=["problem", "budget"])
    tables = [pd.DataFrame(dict(strategy=name, correct=values.ravel()), index=index) for name, values in found.items()]
    return pd.concat(tables).reset_index()[["problem", "strategy", "budget", "correct"]]


def vote_limit(
    samples: Samples, *, weighted: bool = False, interval: float = 0.9, bootstrap: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Where votes level off: the share of problems whose most frequent answer is right (columns of `curve`, k = inf).

    With more samples the vote of a problem tends to the mode of its answers (weighted: to the answer with the largest
    total score), so a problem whose mode is wrong never improves. Estimated from the mode of all recorded samples.
    """
    samples.needed("answers", *(["scores"] if weighted else []))
    values = []
    for row, (correct, codes) in enumerate(zip(samples.correct, samples.answers or ())):
        weights = samples.scores[row] if weighted and samples.scores else np.ones(len(correct))
        values.append(vote_accuracy(codes, weights, correct, np.arange(len(correct))[None]))
    return curve(np.array(values), [np.inf], interval=interval, bootstrap=bootstrap, seed=seed)


def genrm_scores(verdicts: Iterable[Iterable[bool | None]], probabilities: ArrayLike | None = None) -> np.ndarray:
    """Scores [S] of solutions from a generative verifier's votes: the mean of its yes (1) and no (0) verdicts.

    verdicts: per solution, None where no verdict could be read (dropped; a solution without any scores 0).
    probabilities [S]: of "yes" at the verdict token; used where finite, as the hybrid rule of sc-genrm-scaling.
    """
    rows = [[float(v) for v in row if v is not None] for row in verdicts]
    scores = np.array([np.mean(row) if row else 0.0 for row in rows])
    if probabilities is None:
        return scores
    given = np.asarray(probabilities, float)
    return np.where(np.isfinite(given), given, scores)
