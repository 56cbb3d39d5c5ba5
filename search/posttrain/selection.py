"""Which problems a set of worked examples is made of: the hard ones, or any, and as many as fit a number of tokens."""

from __future__ import annotations

import numpy as np

from models.errors import require


def hard(rates: np.ndarray, below: float) -> np.ndarray:
    """The numbers of problems that a policy solves less often than `below`, of its shares of success `[problems]`."""
    require(0 < below <= 1, "below", f"is {below}", "give a share above 0, up to 1")
    return np.flatnonzero(np.asarray(rates, np.float64) < below)


def within_tokens(order: np.ndarray, lengths: np.ndarray, budget: int) -> np.ndarray:
    """The longest beginning of `order`, numbers of examples of these `lengths` `[examples]`, that has at most `budget`
    tokens: hard problems have longer examples, so that sets of equal number would not have cost the same.

    Raises ConfigError where all of them together have fewer tokens by more than one example.
    """
    order, lengths = np.asarray(order, np.int64), np.asarray(lengths, np.int64)
    total = np.cumsum(lengths[order])
    enough = len(order) > 0 and total[-1] + lengths.max() >= budget
    problem = f"of {int(total[-1]) if len(order) else 0} tokens are fewer than {budget}"
    require(bool(enough), "examples", problem, "give more examples, or a smaller budget")
    return order[: int(np.searchsorted(total, budget, side="right"))]
