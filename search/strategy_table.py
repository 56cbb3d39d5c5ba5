"""The strategy table: what each strategy reaches at each budget, all of them at equal FLOPs per problem.

Best-of-N, votes and coverage come from one set of independent samples, exactly or over all their subsets; a search
takes part at a budget with the largest of its sizes whose mean cost the budget pays for, which no outcome decides.
Above the largest size, or the samples that were drawn, `flops` says how much less was spent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from models.errors import require
from scaling.laws.coverage import pass_at_k
from search.metrics import Samples, best_of_k
from search.metrics.curves import percentiles, problem_means
from search.metrics.selection import SUBSETS, subsets_of, vote_accuracy

KEYS = ["policy", "params", "task"]
SAMPLED = ("best_of_n", "weighted_vote", "majority", "coverage")  # coverage: a verifier that never errs


def budgets_from(samples: pd.DataFrame, count: int = 6, factor: float = 4.0) -> np.ndarray:
    """`count` budgets in FLOPs per problem, from one sample of the cheapest policy on, each `factor` times the last."""
    require(count >= 1, "budgets", f"is {count}", "give a positive number")
    return float(samples.groupby(KEYS)["flops"].mean().min()) * 1.0001 * factor ** np.arange(count)


def strategy_rows(samples: pd.DataFrame, searches: pd.DataFrame, budgets: Sequence[float]) -> pd.DataFrame:
    """One row per policy, task, strategy, budget and problem: `correct`, an expectation, and `flops` spent, a mean.

    samples, searches: as `Study` gives them, with columns `policy` and `params`. A budget below a strategy's cheapest
    size has no rows. `level`, the difficulty of a problem of a mixed task, is kept, so that rows can be binned by it.
    """
    parts = [part for _, group in samples.groupby(KEYS, sort=False) for part in _sampled(group, budgets)]
    parts += [
        part for _, group in searches.groupby([*KEYS, "strategy"], sort=False) for part in _searched(group, budgets)
    ]
    rows = pd.concat(parts, ignore_index=True)
    if "level" in samples.columns:
        levels = samples.drop_duplicates(["task", "problem"])[["task", "problem", "level"]]
        rows = rows.merge(levels, on=["task", "problem"], how="left")
    return rows


def strategy_table(rows: pd.DataFrame, interval: float = 0.9, bootstrap: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Accuracy with an interval over problems, per policy, task, strategy and budget."""
    found = []
    for key, group in rows.groupby([*KEYS, "strategy", "budget"], sort=False):
        values = group["correct"].to_numpy(float)[:, None]
        low, high = percentiles(problem_means(values, bootstrap, seed), interval)
        found.append(dict(
            zip([*KEYS, "strategy", "budget"], key), size=group["size"].iloc[0], accuracy=values.mean(),
            low=low[0], high=high[0], flops=group["flops"].mean(), problems=len(values),
        ))  # fmt: skip
    return pd.DataFrame(found)


def samples_of(group: pd.DataFrame) -> Samples:
    """The samples of one policy on one task."""
    return Samples.from_table(group)


def sampled_values(
    group: pd.DataFrame, k: int, names: Sequence[str] = SAMPLED, rng: np.random.Generator | None = None
) -> dict[str, np.ndarray]:
    """What each way of picking among `k` of a policy's samples scores on one task, an expectation `[problems]`.

    rng: draws the subsets that votes average over.
    """
    samples, rng = samples_of(group), rng or np.random.default_rng(0)
    values: dict[str, list[float]] = {name: [] for name in names}
    for row, correct in enumerate(samples.correct):
        scores, codes = (samples.scores or ())[row], (samples.answers or ())[row]
        picks, _ = subsets_of(len(correct), k, SUBSETS, rng)
        for name, value in values.items():
            value.append(_picked(name, correct, scores, codes, picks, k))
    return {name: np.array(value) for name, value in values.items()}


def _picked(
    name: str, correct: np.ndarray, scores: np.ndarray, codes: np.ndarray, picks: np.ndarray, k: int
) -> float:
    """The expected accuracy of one way of picking among `k` samples of a problem."""
    if name == "best_of_n":
        return float(best_of_k(correct, scores, k)[0])
    if name == "coverage":
        return float(pass_at_k(len(correct), int(correct.sum()), k))
    weights = scores if name == "weighted_vote" else np.ones(len(codes))
    return float(vote_accuracy(codes, weights, correct, picks).mean())


def _sampled(group: pd.DataFrame, budgets: Sequence[float]) -> Iterator[pd.DataFrame]:
    samples, price = samples_of(group), float(group["flops"].mean())
    rng = np.random.default_rng(0)
    for budget in budgets:
        k = min(int(budget // price), int(samples.counts.min()))
        if k < 1:
            continue
        for name, accuracy in sampled_values(group, k, rng=rng).items():
            yield _rows(group, name, f"{k} samples", budget, list(samples.problems), accuracy.tolist(), k * price)


def _searched(group: pd.DataFrame, budgets: Sequence[float]) -> Iterator[pd.DataFrame]:
    price = group.groupby("size", sort=False)["flops"].mean().sort_values()
    for budget in budgets:
        payable = price[price <= budget]
        if not len(payable):
            continue
        size = payable.index[-1]
        mine = group[group["size"] == size]
        yield _rows(
            mine, mine["strategy"].iloc[0], size, budget, list(mine["problem"]), mine["correct"], payable.iloc[-1]
        )


def _rows(
    group: pd.DataFrame, strategy: str, size: str, budget: float, problems: list, correct: Sequence[float], flops: float
) -> pd.DataFrame:
    fixed = {name: group[name].iloc[0] for name in KEYS}
    return pd.DataFrame(
        dict(
            **fixed,
            strategy=strategy,
            size=size,
            budget=float(budget),
            problem=problems,
            correct=list(correct),
            flops=flops,
        )
    )
