"""Judgements that vote: scores that a generative reward model wrote, of which a meta model says which to trust.

A candidate's value is the mean of the scores of its judgements, or of the most trusted of them; of two candidates the
one of the higher value is preferred (DeepSeek-GRM, Liu et al. 2025, arXiv:2504.02495: principles, critiques and scores,
sampled k times, voted, and filtered by a meta reward model).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from models.errors import require
from search.metrics.selection import subsets_of

SUBSETS = 64


def voted(scores: ArrayLike, trust: ArrayLike | None = None, kept: int | None = None) -> np.ndarray:
    """Values `[...]` of candidates from their judgements' scores `[..., k]`, NaN where one could not be read.

    trust: as scores, a meta model's word for each; kept: of the judgements that can be read, only so many vote, the
    most trusted ones, the first of equals. Those that cannot be read never vote; a candidate without any is worth -inf.
    """
    values = np.asarray(scores, float)
    require((trust is None) == (kept is None), "kept", f"is {kept} beside trust", "give both or neither")
    votes = np.isfinite(values)
    if trust is not None and kept is not None:
        given = np.asarray(trust, float)
        require(given.shape == values.shape, "trust", f"is {given.shape} for scores {values.shape}", "give one each")
        require(kept >= 1, "kept", f"is {kept}", "keep 1 or more")
        order = np.argsort(np.where(votes, -given, np.inf), axis=-1, kind="stable")
        rank = np.argsort(order, axis=-1, kind="stable")
        votes &= rank < kept
    count = votes.sum(-1)
    total = np.where(votes, values, 0.0).sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), -np.inf)


def preferred(
    better: ArrayLike,
    worse: ArrayLike,
    k: int,
    trust: tuple[ArrayLike, ArrayLike] | None = None,
    kept: int | None = None,
    *,
    subsets: int = SUBSETS,
    seed: int = 0,
) -> np.ndarray:
    """The chance `[pairs]` that k random judgements of each prefer the better of two candidates, ties counting half.

    better, worse: scores `[pairs, n]` of recorded judgements; trust: those of either, for `kept` of the k (`voted`). It
    is the average over all pairs of subsets of k, exact where there are no more than `subsets` of them, else over so
    many random ones of each side.
    """
    sides = [np.asarray(better, float), np.asarray(worse, float)]
    trusts = [None, None] if trust is None else [np.asarray(one, float) for one in trust]
    require(len(sides[0]) == len(sides[1]), "worse", f"has {len(sides[1])} rows for {len(sides[0])}", "give pairs")
    rng, values = np.random.default_rng([seed, k]), []
    for scores, given in zip(sides, trusts, strict=True):
        n = scores.shape[1]
        require(1 <= k <= n, "k", f"is {k} of {n} judgements", f"use 1 to {n}")
        picks = [subsets_of(n, k, subsets, rng)[0] for _ in scores]
        rows = np.stack([row[pick] for row, pick in zip(scores, picks, strict=True)])
        said = None if given is None else np.stack([row[pick] for row, pick in zip(given, picks, strict=True)])
        values.append(voted(rows, said, kept))
    first, second = values[0][:, :, None], values[1][:, None, :]
    return ((first > second) + 0.5 * (first == second)).mean((1, 2))
