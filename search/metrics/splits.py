"""How a budget splits between samples and judgements of each, by problem: what a best number of judgements is worth.

`search.metrics.verification.genrm_grid` has the means of such a grid, for laws; here problems stay apart, so that what
was chosen on some can be tested on others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from models.errors import require
from search.metrics.selection import best_of_k


def judged_grid(
    correct: Sequence[ArrayLike],
    judgements: Sequence[ArrayLike],
    counts: Sequence[int],
    *,
    draws: int = 8,
    seed: int = 0,
) -> np.ndarray:
    """Accuracy `[problems, counts, n]` of the best of 1 to n samples by the mean of so many judgements of each.

    correct: per problem `[n]` of 0 and 1; judgements: per problem `[n, m]` scores, of which those of a sample are drawn
    with replacement, `draws` times; exact over which samples were drawn.
    """
    require(len(correct) == len(judgements), "judgements", f"are of {len(judgements)} problems, not {len(correct)}",
            "give one array per problem")  # fmt: skip
    require(draws >= 1 and min(counts) >= 1, "counts", f"are {counts}, drawn {draws} times", "give 1 or more")
    n = len(np.asarray(correct[0]))
    out = np.zeros((len(correct), len(counts), n))
    for i, (right, pool) in enumerate(zip(correct, judgements, strict=True)):
        scores, rng = np.asarray(pool, float), np.random.default_rng([seed, i])
        require(scores.shape[:1] == (n,), "judgements", f"are {scores.shape} of {n} samples", "give a row each")
        for j, count in enumerate(counts):
            for _ in range(draws):
                drawn = rng.integers(scores.shape[1], size=(n, count))
                values = np.take_along_axis(scores, drawn, 1).mean(1)
                out[i, j] += best_of_k(right, values, np.arange(1, n + 1)) / draws
    return out


def at_budget(values: np.ndarray, prices: ArrayLike, budget: float) -> np.ndarray:
    """Accuracy `[problems, counts]` of as many samples as a budget buys, on a line between whole numbers.

    values: of `judged_grid`; prices `[counts]`: of a sample with its judgements. NaN for a count of which the budget
    buys less than one sample, or more than there are.
    """
    n = values.shape[-1]
    out = np.full(values.shape[:2], np.nan)
    for j, bought in enumerate((budget / np.asarray(prices, float)).tolist()):
        if 1 <= bought <= n:
            low = int(bought)
            out[:, j] = values[:, j, low - 1] + (bought - low) * (values[:, j, min(low, n - 1)] - values[:, j, low - 1])
    return out


def best_elsewhere(small: np.ndarray, large: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """What the best count gains over the one that is best at another budget: (`[problems, 2]`, chosen).

    small, large: of `at_budget`. The best of either budget is chosen on one half of the problems (of even and of odd
    places) and tested on the other, so that luck gains nothing: the columns are the gains at small and at large. A
    count that a budget does not allow stands for the nearest that it does. chosen: (at small, at large), on the other
    half, for the even problems and for the odd ones.
    """
    side, gains, chosen = np.arange(len(small)) % 2, np.zeros((len(small), 2)), []
    for tested in (0, 1):
        best = [int(np.nanargmax(values[side != tested].mean(0))) for values in (small, large)]
        for column, values in enumerate((small, large)):
            allowed = np.flatnonzero(np.isfinite(values[0]))
            other = int(allowed[np.abs(allowed - best[1 - column]).argmin()])
            gains[side == tested, column] = (values[:, best[column]] - values[:, other])[side == tested]
        chosen.append((best[0], best[1]))
    return gains, chosen
