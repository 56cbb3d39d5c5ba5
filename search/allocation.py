"""Spending test-time compute where it helps: the best strategy per difficulty, and the next sample's best problem.

Difficulty is the quintile of a problem's pass rate (oracle) or of its mean verifier score (predicted), 1 the easiest
(Snell et al. 2024). Strategies are chosen on one half of the problems and measured on the other, since the best of many
strategies on the problems that chose it is too good.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import betaln

from models.errors import ConfigError, require
from scaling.fitting.runs import Runs, as_table
from search.metrics.cost import outcomes
from search.metrics.curves import percentiles, problem_means
from search.metrics.samples import Ragged, Samples

CHOSEN = "compute_optimal"


def difficulty(samples: Samples, by: Literal["pass_rate", "score"] = "pass_rate", bins: int = 5) -> pd.Series:
    """Bin of every problem, 1 (easiest) to `bins`, by its pass rate or its mean score; problems -> int.

    Use other samples than those that the strategies are judged on, or the bins know the outcome.
    """
    require(by in ("pass_rate", "score"), "by", f"is {by!r}", "use 'pass_rate' or 'score'")
    if by == "score":
        samples.needed("scores")
        ease = [float(row.mean()) for row in samples.scores or ()]
    else:
        ease = list(samples.right / samples.counts)
    return difficulty_bins(pd.Series(ease, index=pd.Index(samples.problems, name="problem")), bins)


def difficulty_bins(ease: pd.Series | Mapping[Any, float], bins: int = 5) -> pd.Series:
    """Bins of equal size from problem -> ease, 1 the easiest; equal values keep their order."""
    ease = pd.Series(ease, dtype=float)
    require(not ease.isna().any(), "ease", "has a problem without a value", "give one number per problem")
    require(1 <= bins <= len(ease), "bins", f"is {bins} for {len(ease)} problems", "use at most one bin per problem")
    rank = np.empty(len(ease), int)
    rank[np.argsort(-ease.to_numpy(), kind="stable")] = np.arange(len(ease))
    return pd.Series(rank * bins // len(ease) + 1, index=ease.index, name="difficulty")


def absolute_bins(ease: pd.Series | Mapping[Any, float], edges: Sequence[float] = (0.1, 0.5)) -> pd.Series:
    """Bins by pass rates themselves from problem -> pass rate, 1 the easiest: [0.5, 1], [0.1, 0.5), [0, 0.1).

    So a strong policy's problems are easy, which quintiles cannot say (Liu et al. 2025). edges: rising, each the least
    pass rate of an easier bin.
    """
    ease = pd.Series(ease, dtype=float)
    require(not ease.isna().any(), "ease", "has a problem without a value", "give one number per problem")
    rising = bool(len(edges)) and list(edges) == sorted(set(edges)) and edges[0] > 0 and edges[-1] <= 1
    require(rising, "edges", f"are {tuple(edges)}", "give rising pass rates above 0, such as (0.1, 0.5)")
    easier = np.searchsorted(np.asarray(edges, float), ease.to_numpy(), side="right")
    return pd.Series(len(edges) + 1 - easier, index=ease.index, name="difficulty")


@dataclass(frozen=True, eq=False)
class ComputeOptimal:
    """Accuracy when every problem gets the strategy that was best for its difficulty on the other fold.

    table: budget, accuracy, low, high, best_single (the one strategy that was best on the other fold for all problems
    alike) and one column per strategy. by_bin: difficulty, budget, accuracy and, again, one column per strategy.
    chosen: fold, difficulty, budget, strategy. rows: problem, strategy ("compute_optimal"), budget, correct, to be put
    below the table of the strategies for `sample_efficiency`.
    """

    table: pd.DataFrame
    by_bin: pd.DataFrame
    chosen: pd.DataFrame
    rows: pd.DataFrame

    def summary(self) -> str:
        """Accuracy per budget beside the best single strategy, and what was chosen."""
        shown = self.table[["budget", "accuracy", "low", "high", "best_single"]]
        picks = self.chosen.groupby(["difficulty", "budget"])["strategy"].agg(
            lambda names: "/".join(dict.fromkeys(names))
        )
        return f"{shown.to_string(index=False, float_format='{:.4g}'.format)}\n{picks.unstack().to_string()}"

    __repr__ = summary


def compute_optimal(
    runs: Runs, bins: pd.Series, *, folds: int = 2, interval: float = 0.9, bootstrap: int = 1000, seed: int = 0
) -> ComputeOptimal:
    """Choose a strategy per difficulty and budget on each fold's complement, and measure the choice on the fold.

    runs: rows of problem, strategy, budget and correct (0 or 1, or an expectation), budgets in one unit. A strategy
    takes part at the budgets at which every problem has a row. bins: problem -> difficulty. Of equals the strategy that
    comes first in the table is chosen. Raises ConfigError for problems without a bin, or bins with too few problems.
    """
    table = as_table(runs)
    names = list(dict.fromkeys(table["strategy"]))
    wide = {name: outcomes(table, name) for name in names}
    problems = next(iter(wide.values())).index
    unknown = [problem for problem in problems if problem not in bins.index]
    if unknown:
        raise ConfigError("bins", f"problem {unknown[0]} has none", "give the difficulty of every problem")
    labels = bins.reindex(problems).to_numpy()
    fold = _folds(labels, folds, seed)
    budgets = sorted({budget for values in wide.values() for budget in values.columns})
    require(len(budgets) > 0, "runs", "no strategy has a budget with every problem", "run the missing problems")
    chosen, shape = [], (len(problems), len(budgets))
    mine, single = np.zeros(shape), np.zeros(shape)
    for column, budget in enumerate(budgets):
        here = {name: values[budget].to_numpy() for name, values in wide.items() if budget in values.columns}
        for part in range(folds):
            test, train = fold == part, fold != part
            whole = max(here, key=lambda name: here[name][train].mean())
            single[test, column] = here[whole][test]
            for label in np.unique(labels):
                inside = labels == label
                best = max(here, key=lambda name: here[name][train & inside].mean())
                mine[test & inside, column] = here[best][test & inside]
                chosen.append(dict(fold=part, difficulty=label, budget=budget, strategy=best))
    low, high = percentiles(problem_means(mine, bootstrap, seed), interval)
    means = pd.DataFrame({name: values.mean() for name, values in wide.items()}).reindex(budgets)
    out = pd.DataFrame(dict(budget=budgets, accuracy=mine.mean(0), low=low, high=high, best_single=single.mean(0)))
    out = out.join(means.reset_index(drop=True))
    by_bin = []
    for label in np.unique(labels):
        inside = labels == label
        part_means = pd.DataFrame({name: values[inside].mean() for name, values in wide.items()}).reindex(budgets)
        block = pd.DataFrame(dict(difficulty=label, budget=budgets, accuracy=mine[inside].mean(0)))
        by_bin.append(block.join(part_means.reset_index(drop=True)))
    rows = pd.DataFrame(mine, index=problems, columns=pd.Index(budgets, name="budget")).stack().rename("correct")
    rows = rows.reset_index().assign(strategy=CHOSEN)[["problem", "strategy", "budget", "correct"]]
    return ComputeOptimal(out, pd.concat(by_bin, ignore_index=True), pd.DataFrame(chosen), rows)


def _folds(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Fold of every problem [n], dealt out at random within each bin so that all folds have all bins."""
    require(folds >= 2, "folds", f"is {folds}", "use 2 or more: a choice is not judged on what it was made from")
    out = np.empty(len(labels), int)
    rng = np.random.default_rng(seed)
    for label in np.unique(labels):
        inside = np.flatnonzero(labels == label)
        require(len(inside) >= folds, "bins", f"difficulty {label} has {len(inside)} problems for {folds} folds",
                "use fewer bins or more problems")  # fmt: skip
        out[rng.permutation(inside)] = np.arange(len(inside)) % folds
    return out


def expected_gain(alpha: ArrayLike, beta: ArrayLike, n: ArrayLike) -> np.ndarray:
    """E[p (1 - p)^n], p ~ Beta(alpha, beta): the chance that the sample after n others is the first right one."""
    return np.exp(betaln(np.asarray(alpha, float) + 1, np.asarray(beta, float) + n) - betaln(alpha, beta))


def plan_samples(alpha: ArrayLike, beta: ArrayLike, total: int, most: ArrayLike | None = None) -> np.ndarray:
    """Samples per problem [problems] that solve the most problems in expectation, `total` drawn at once, unseen.

    Each next sample goes to the problem with the largest expected gain; gains fall with n, so this is optimal. alpha,
    beta [problems]: densities of the pass rates. most: the largest count of each problem. Lowest index of equals.
    """
    a, b = (np.asarray(v, float) for v in np.broadcast_arrays(alpha, beta))
    require(bool(np.all(a > 0) and np.all(b > 0)), "alpha, beta", "are not all positive", "give Beta densities")
    cap = np.broadcast_to(np.inf if most is None else np.asarray(most, float), a.shape)
    counts = np.zeros(len(a), int)
    heap = [(-gain, i) for i, gain in enumerate(a / (a + b)) if cap[i] > 0]
    heapq.heapify(heap)
    for _ in range(total):
        if not heap:
            break
        gain, i = heapq.heappop(heap)
        # B(a + 1, b + n) falls by (b + n) / (a + b + n + 1) with each n
        gain *= (b[i] + counts[i]) / (a[i] + b[i] + counts[i] + 1)
        counts[i] += 1
        if counts[i] < cap[i]:
            heapq.heappush(heap, (gain, i))
    return counts


@dataclass(frozen=True, eq=False)
class Sequential:
    """counts [problems]: samples used. solved [problems]: whether one was right. curve [samples + 1]: solved problems
    after so many samples in all. exhausted: problems whose recorded samples ran out unsolved."""

    counts: np.ndarray
    solved: np.ndarray
    curve: np.ndarray
    exhausted: int


def allocate_sequentially(
    correct: Ragged, alpha: ArrayLike, beta: ArrayLike, total: int, *, batch: int = 1
) -> Sequential:
    """Draw recorded samples one batch at a time, each from where a success is expected most, until `total` are used.

    correct: per problem, 0 or 1 in the order drawn, as a verifier that never errs sees them. alpha, beta: Beta density
    of each problem's pass rate before any sample, from `fit_beta_binomial` on other problems of its difficulty, say.
    After each batch a failure adds one to beta, and a solved problem is left. Within a batch nothing is seen, so sample
    n + 1 of a problem counts E[p (1 - p)^n]. With batch = 1 no policy solves more problems in expectation. With one
    density for all problems this is round robin over the unsolved.
    """
    require(batch >= 1, "batch", f"is {batch}", "use 1 or more")
    rows: Sequence[np.ndarray] = [np.asarray(row, bool) for row in correct]
    a, b = (np.broadcast_to(np.asarray(v, float), (len(rows),)).copy() for v in (alpha, beta))
    lengths = np.array([len(row) for row in rows])
    counts, solved, curve = np.zeros(len(rows), int), np.zeros(len(rows), bool), [0]
    while len(curve) <= total:
        left = np.where(solved, 0, lengths - counts)
        extra = plan_samples(a, b, min(batch, total - len(curve) + 1), left)
        if not extra.any():
            break
        for i in map(int, np.flatnonzero(extra)):
            drawn = rows[i][counts[i] : counts[i] + extra[i]]
            counts[i] += extra[i]
            b[i] += (~drawn).sum()
            for success in drawn:
                solved[i] |= bool(success)
                curve.append(int(solved.sum()))
    return Sequential(counts, solved, np.array(curve), int((~solved & (counts == lengths)).sum()))
