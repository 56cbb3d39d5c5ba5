"""Generative verifiers (Singhi et al. 2025): how a budget splits between solutions and verifications of each.

C = S (1 + lambda V): S solutions, V verdicts on each, a verdict costing lambda solutions. At every budget the best
(S, V) of the grid is found, minima on the edge of the grid are rejected, and S* and V* are fitted as powers of C.
Published exponents: .57 and .39 for Llama-3.1-8B on MATH (second-hand; compare with them).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from models.errors import ConfigError
from scaling.fitting.fit import Fit, fit
from scaling.fitting.runs import Runs, as_table, numbers
from scaling.laws.power import power_law

SOURCE = "Singhi et al. 2025 (arXiv:2504.01005)"

GENRM_SOLUTIONS = power_law(
    "genrm_solutions", "solutions", {"budget": "a"}, dict(budget="solutions' cost", solutions="solutions"), SOURCE,
    scale="G")

GENRM_VERIFICATIONS = power_law(
    "genrm_verifications", "verifications", {"budget": "a"},
    dict(budget="solutions' cost", verifications="verdicts per solution"), SOURCE, scale="G")


def genrm_cost(solutions: ArrayLike, verifications: ArrayLike, ratio: float) -> np.ndarray:
    """C = S (1 + lambda V) in units of one solution; ratio is lambda, tokens of a verdict / tokens of a solution."""
    return np.asarray(solutions, float) * (1 + ratio * np.asarray(verifications, float))


class GenRMFrontier(NamedTuple):
    """table: one row per budget (budget, solutions, verifications, accuracy, used, reason); the two power laws."""

    table: pd.DataFrame
    solutions: Fit
    verifications: Fit


def genrm_frontier(runs: Runs, ratio: float, *, bins_per_octave: float = 1.0,
                   columns: Mapping[str, str] | None = None, **options: Any) -> GenRMFrontier:
    """Best (S, V) per budget and its power laws.

    runs: solutions, verifications, accuracy of every grid point, V = 0 being self-consistency. Budgets are bins of
    log2 C; a bin is used when at least 3 splits compete in it and the best is neither its smallest nor its largest S.
    Raises ConfigError with fewer than 3 usable budgets (6 or more are advisable).
    """
    table = as_table(runs, columns, ("solutions", "verifications", "accuracy"))
    solutions, verdicts = numbers(table, "solutions", positive=True), numbers(table, "verifications")
    accuracy = numbers(table, "accuracy")
    cost = genrm_cost(solutions, verdicts, ratio)
    bins = np.round(np.log2(cost) * bins_per_octave).astype(int)
    rows = []
    for value in np.unique(bins):
        inside = np.flatnonzero((bins == value) & (verdicts > 0))
        if not len(inside):
            continue
        # the cheaper of equals
        best = inside[np.lexsort((cost[inside], -accuracy[inside]))[0]]
        splits = np.unique(solutions[inside])
        reason = f"{len(splits)} splits, at least 3 are needed" if len(splits) < 3 else (
            "the best split is on the edge of those tried" if solutions[best] in (splits[0], splits[-1]) else "")
        rows.append(dict(budget=cost[best], solutions=solutions[best], verifications=verdicts[best],
                         accuracy=accuracy[best], used=not reason, reason=reason))
    budgets = pd.DataFrame(rows, columns=["budget", "solutions", "verifications", "accuracy", "used", "reason"])
    used = budgets[budgets["used"].astype(bool)]
    if len(used) < 3:
        raise ConfigError("runs", f"{len(used)} of {len(budgets)} budgets have a best split inside the grid",
                          "extend the grid in both directions")
    return GenRMFrontier(budgets, fit(GENRM_SOLUTIONS, used, **options), fit(GENRM_VERIFICATIONS, used, **options))


LAWS = (GENRM_SOLUTIONS, GENRM_VERIFICATIONS)
