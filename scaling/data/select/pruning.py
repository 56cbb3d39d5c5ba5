"""Pruning: keep a share of a set by a score of difficulty (Sorscher et al. 2022, arXiv:2206.14486)."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from models.errors import nearest, require

Rule = Literal["hard", "easy", "random"]


def keep(
    difficulty: ArrayLike, count: int, rule: Rule, *, classes: ArrayLike | None = None, balance: float = 0.0,
    seed: int = 0,
) -> np.ndarray:  # fmt: skip
    """Indices [count] of the examples that are kept, ascending.

    difficulty [examples]: larger is harder; equal scores keep the order of the set. classes [examples] with balance b:
    every class keeps at least floor(b count / classes) of its own first, as far as it has them, so that pruning cannot
    empty one; Sorscher et al. take b = 0.5. rule "random" ignores the scores.
    """
    scores = np.asarray(difficulty, dtype=np.float64)
    fix = "did you mean {}?".format(nearest(rule, get_args(Rule)) or "hard")
    require(rule in get_args(Rule), "rule", f"is {rule!r}", fix)
    require(bool(np.isfinite(scores).all()), "difficulty", "is not finite everywhere", "score every example")
    require(0 <= count <= len(scores), "count", f"is {count} of {len(scores)} examples", "keep no more than there are")
    require(0 <= balance <= 1, "balance", f"is {balance}", "give a share of an even split, such as 0.5")
    if rule == "random":
        order = np.random.default_rng(seed).permutation(len(scores))
    else:
        order = np.argsort(-scores if rule == "hard" else scores, kind="stable")
    if classes is None or not balance:
        return np.sort(order[:count])
    labels = np.asarray(classes)[order]
    kinds = np.unique(labels)
    least = int(balance * count / len(kinds))
    sure = np.concatenate([np.flatnonzero(labels == kind)[:least] for kind in kinds])
    rest = np.setdiff1d(np.arange(len(order)), sure)  # ascending, so still by rank
    return np.sort(order[np.concatenate([sure, rest[: count - len(sure)]])])
