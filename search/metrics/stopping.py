"""Stopping early on recorded answers: how many samples each rule would have used, and what it would have answered.

Early-stopping self-consistency (Li et al. 2024): windows of 5 samples up to 40; a unanimous window ends it. Adaptive
consistency (Aggarwal et al. 2023): after every sample, stop when the leading answer is settled. short-m@k (Hassid et
al. 2025): start k chains, stop all when m have ended, vote among these m.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import betainc, entr

from models.errors import require
from search.metrics.curves import curve
from search.metrics.samples import INVALID, Samples
from search.metrics.selection import SUBSETS, subsets_of, vote
from search.named import instead

Rule = Callable[
    [np.ndarray], tuple[int | None, int]
]  # codes [n] -> (index of the winning sample or None, samples used)


def early_stopping(window: int = 5, most: int = 40) -> Rule:
    """Stop at the first window in which all answers are equal and answer that; else the majority of `most`."""
    require(1 <= window <= most, "window", f"is {window} of at most {most} samples", "use 1 <= window <= most")

    def rule(codes: np.ndarray) -> tuple[int | None, int]:
        codes = codes[:most]
        for start in range(0, len(codes) - window + 1, window):
            inside = codes[start : start + window]
            if inside[0] != INVALID and np.all(inside == inside[0]):
                return start, start + window
        return vote(codes), len(codes)

    return rule


def _beta(top: float, second: float, counts: np.ndarray) -> float:
    """P(the leader's rate exceeds 1/2 | counts of the top two, uniform prior)."""
    return float(1 - betainc(top + 1, second + 1, 0.5))


def _entropy(top: float, second: float, counts: np.ndarray) -> float:
    """1 - entropy of the counts relative to the largest possible; one lonely answer is set against one more."""
    counts = counts if len(counts) > 1 else np.append(counts, 1)
    return float(1 - entr(counts / counts.sum()).sum() / np.log(len(counts)))


def _share(top: float, second: float, counts: np.ndarray) -> float:
    return float(top / counts.sum())


# certainty of the leader -> where to stop, as in the authors' code; entropy and share never stop at the first sample
SETTLED = {"beta": (_beta, 0.95, 1), "entropy": (_entropy, 0.25, 2), "share": (_share, 0.8, 2)}


def settling(criterion: str, threshold: float | None) -> tuple[Callable[[float, float, np.ndarray], float], float, int]:
    """A criterion's certainty of the leader, from which on it is settled, and after how many answers at least.

    threshold: None for the criterion's usual one. ConfigError for a criterion that is none.
    """
    require(criterion in SETTLED, "criterion", f"{criterion!r} is not known", instead(criterion, SETTLED))
    certainty, usual, fewest = SETTLED[criterion]
    # rounding must not ask for a fifth sample at exactly the threshold
    return certainty, (usual if threshold is None else threshold) - 1e-12, fewest


def adaptive_consistency(criterion: str = "beta", threshold: float | None = None, most: int = 40) -> Rule:
    """Stop after the first sample at which the leading answer is settled, at the latest after `most`; answer it.

    criterion: "beta" (certainty that the leader beats the second, .95: four equal answers are enough), "share" of the
    leader (.8), or "entropy", 1 minus the relative entropy of the counts (.25, the published .75 of entropy).
    """
    certainty, bar, fewest = settling(criterion, threshold)

    def rule(codes: np.ndarray) -> tuple[int | None, int]:
        codes = codes[:most]
        counts = np.zeros(int(codes.max(initial=INVALID)) + 1)
        for used, code in enumerate(codes, start=1):
            if code == INVALID:
                continue
            counts[code] += 1
            second, top = np.sort(counts)[-2:] if len(counts) > 1 else (0.0, counts[0])
            if counts.sum() >= fewest and certainty(top, second, counts[counts > 0]) >= bar:
                return vote(codes[:used]), used
        return vote(codes), len(codes)

    return rule


class Stopped(NamedTuple):
    """Means over problems and orders: accuracy with interval and standard error (of the orders), samples used."""

    accuracy: float
    low: float
    high: float
    standard_error: float
    samples: float


def stopped(
    samples: Samples, rule: Rule, *, orders: int = SUBSETS, interval: float = 0.9, bootstrap: int = 1000, seed: int = 0
) -> Stopped:
    """What a stopping rule gets and uses on recorded answers, averaged over random orders of each problem's samples."""
    samples.needed("answers")
    right, used = np.zeros((2, len(samples.correct), orders))
    for row, (correct, codes) in enumerate(zip(samples.correct, samples.answers or ())):
        rng = np.random.default_rng([seed, row])
        for order in range(orders):
            shuffled = rng.permutation(len(codes))
            winner, used[row, order] = rule(codes[shuffled])
            right[row, order] = 0.0 if winner is None else correct[shuffled[winner]]
    table = curve(right.mean(1)[:, None], [0], interval=interval, bootstrap=bootstrap, seed=seed).iloc[0]
    error = np.sqrt((right.var(1, ddof=1) / orders).sum()) / len(right)
    return Stopped(table["accuracy"], table["low"], table["high"], float(error), float(used.mean()))


class ShortRace(NamedTuple):
    """One race of k chains: indices of the m that end first, tokens that all chains wrote, tokens in sequence."""

    finished: np.ndarray
    tokens: float
    depth: float


def short_race(lengths: ArrayLike, m: int) -> ShortRace:
    """The m shortest of the chains [k] (the lowest index of equals), sum_j min(len_j, len_(m)) and len_(m)."""
    lengths = np.asarray(lengths, float)
    finished = np.argsort(lengths, kind="stable")[:m]
    end = lengths[finished[-1]]
    return ShortRace(finished, float(np.minimum(lengths, end).sum()), float(end))


def short_m_curve(
    samples: Samples, m: int, k: ArrayLike, *, subsets: int = SUBSETS, interval: float = 0.9, bootstrap: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """short-m@k: the columns of `curve`, and mean `tokens` and `depth` per problem, and the `plain_tokens` of k chains.

    Of tied answers the one with the shortest chain wins. attrs["length_correlation"]: mean correlation over problems of
    length and correctness; where it is positive, the shortest chains are the worst and this loses to a plain vote.
    """
    k = np.atleast_1d(np.asarray(k))
    values, tokens, depth, plain = short_m_values(samples, m, k, subsets, seed)
    table = curve(values, k, interval=interval, bootstrap=bootstrap, seed=seed)
    table["tokens"], table["depth"], table["plain_tokens"] = tokens.mean(0), depth.mean(0), plain.mean(0)
    table.attrs["length_correlation"] = length_correlation(samples)
    return table


def short_m_values(samples: Samples, m: int, k: np.ndarray, subsets: int = SUBSETS, seed: int = 0) -> np.ndarray:
    """Accuracy, tokens, depth and tokens of k whole chains, all of short-m@k, `[4, problems, K]`; NaN where k > n."""
    samples.needed("answers", "tokens")
    require(1 <= m <= k.min(), "m", f"is {m} with k = {k.min()}", "use m <= k")
    values, tokens, depth, plain = np.full((4, len(samples.correct), len(k)), np.nan)
    for row, (correct, codes, lengths) in enumerate(zip(samples.correct, samples.answers or (), samples.tokens or ())):
        for column, size in enumerate(k):
            if size > len(correct):
                continue
            rng = np.random.default_rng([seed, row, int(size)])
            picks, _ = subsets_of(len(correct), int(size), subsets, rng)
            races = [short_race(lengths[pick], m) for pick in picks]
            tokens[row, column] = np.mean([race.tokens for race in races])
            depth[row, column] = np.mean([race.depth for race in races])
            plain[row, column] = lengths.mean() * size
            # `finished` is in order of length, so the answer seen first is that of the shortest chain
            winners = [(pick, vote(codes[pick[race.finished]]), race) for pick, race in zip(picks, races)]
            right = [0.0 if w is None else correct[pick[race.finished[w]]] for pick, w, race in winners]
            values[row, column] = np.mean(right)
    return np.stack([values, tokens, depth, plain])


def length_correlation(samples: Samples) -> float:
    """Mean over problems of the correlation between a sample's length and its being right; NaN where none varies."""
    samples.needed("tokens")
    pairs = [(c, t) for c, t in zip(samples.correct, samples.tokens or ()) if np.ptp(c) > 0 and np.ptp(t) > 0]
    return float(np.mean([np.corrcoef(c, t)[0, 1] for c, t in pairs])) if pairs else float("nan")
