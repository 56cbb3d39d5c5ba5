"""Comparisons: the pairs of strategies that are most asked about, on the same problems at equal FLOPs.

Each side takes part with one of its sizes: of those that cost at least a quarter of what the dearest size that both
have costs, the two whose mean FLOPs per problem are nearest. What follows from independent samples (best-of-N, votes)
takes exactly as many of them as the other side's FLOPs pay for. Differences are paired by problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from search.strategy_table import KEYS, SAMPLED, sampled_values

PAIRS = (  # who is asked about, and against whom
    ("best_of_n", "majority"), ("weighted_vote", "majority"), ("short_m", "majority"),
    ("adaptive_consistency", "majority"), ("beam", "best_of_n"), ("dvts", "beam"), ("rebase", "beam"),
    ("particle_filter", "beam"), ("particle_filter", "best_of_n"), ("mcts", "best_of_n"), ("astar", "best_of_n"),
    ("metropolis", "best_of_n"),
)  # fmt: skip
COMPARED = "comparisons.csv"
UNEQUAL = 1.5  # sizes whose FLOPs differ by a larger factor are not compared
LEVEL, RESAMPLES, ALL = 0.9, 2000, "all"


@dataclass(frozen=True)
class Side:
    """One size of a strategy with one policy on one task. correct: of every problem [problems], an expectation."""

    size: str
    flops: float
    correct: Callable[[], np.ndarray]


def compare(
    samples: pd.DataFrame, searches: pd.DataFrame, pairs: Iterable[tuple[str, str]] = PAIRS, seed: int = 0
) -> pd.DataFrame:
    """Rows of first, second, policy, params, task, sizes, FLOPs of both, difference, low, high and problems.

    difference: accuracy of the first less that of the second, with a 90 % interval over problems. Rows of policy and
    task ALL pool a pair's cells: the mean over them, whose problems are resampled once for all policies that had them.
    Pairs of which a study lacks a side, or has none of nearly equal FLOPs, have no rows.
    """
    rows = []
    for first, second in pairs:
        cells: dict[str, list[np.ndarray]] = {}
        for key, group in samples.groupby(KEYS, sort=False):
            mine = searches[(searches[KEYS] == list(key)).all(axis=1)]
            sides = nearest(_sides(first, group, mine), _sides(second, group, mine))
            if sides is None:
                continue
            gap = sides[0].correct() - sides[1].correct()
            cells.setdefault(key[2], []).append(gap)
            where = dict(zip(KEYS, key, strict=True))
            rows.append(dict(first=first, second=second) | where | _sizes(sides) | _mean([gap], seed))
        if cells:
            pooled = dict(zip(KEYS, (ALL, 0, ALL), strict=True))
            together = [np.mean(gaps, axis=0) for gaps in cells.values()]  # a task's policies had the same problems
            rows.append(dict(first=first, second=second) | pooled | _mean(together, seed))
    return pd.DataFrame(rows)


def _sizes(sides: tuple[Side, Side]) -> dict[str, str | float]:
    first, second = sides
    return dict(first_size=first.size, second_size=second.size, first_flops=first.flops, second_flops=second.flops)


def _mean(tasks: list[np.ndarray], seed: int) -> dict[str, float | int]:
    """The mean over tasks of differences [problems] each, and its interval over resampled problems of each."""
    rng = np.random.default_rng(seed)
    drawn = np.mean([gap[rng.integers(len(gap), size=(RESAMPLES, len(gap)))].mean(1) for gap in tasks], axis=0)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value = float(np.mean([gap.mean() for gap in tasks]))
    return dict(difference=value, low=float(low), high=float(high), problems=sum(map(len, tasks)))


def _sides(name: str, samples: pd.DataFrame, searches: pd.DataFrame) -> list[Side] | pd.DataFrame:
    """The sizes of a search; of what follows from independent samples those themselves, to take any number of."""
    if name in SAMPLED:
        return samples.assign(strategy=name)
    mine = searches[searches["strategy"] == name].sort_values("problem")
    return [
        Side(str(size), float(rows["flops"].mean()), rows["correct"].to_numpy)
        for size, rows in mine.groupby("size", sort=False)
    ]


def nearest(first: list[Side] | pd.DataFrame, second: list[Side] | pd.DataFrame) -> tuple[Side, Side] | None:
    """The two sizes that are compared; None where there are none of nearly equal FLOPs."""
    if isinstance(first, pd.DataFrame) and isinstance(second, pd.DataFrame):
        most = float(first["flops"].mean()) * int(first.groupby("problem").size().min())
        return _taken(first, most), _taken(second, most)
    if isinstance(first, pd.DataFrame):
        turned = nearest(second, first)
        return turned and turned[::-1]
    if not first or (not isinstance(second, pd.DataFrame) and not second):
        return None
    if isinstance(second, pd.DataFrame):
        price, most = float(second["flops"].mean()), int(second.groupby("problem").size().min())
        paid = [side for side in first if price <= side.flops < price * (most + 1)]
        if not paid:
            return None
        dearest = max(paid, key=lambda side: side.flops)
        return dearest, _taken(second, dearest.flops)
    top = min(max(side.flops for side in sides) for sides in (first, second))
    pairs = [(a, b) for a in first for b in second if max(a.flops, b.flops) >= top / 4]
    best = min(pairs, key=lambda pair: (abs(np.log(pair[0].flops / pair[1].flops)), -pair[0].flops))
    return best if abs(np.log(best[0].flops / best[1].flops)) <= np.log(UNEQUAL) else None


def _taken(samples: pd.DataFrame, flops: float) -> Side:
    """As many samples as these FLOPs pay for."""
    name, price = str(samples["strategy"].iloc[0]), float(samples["flops"].mean())
    k = min(int(flops / price * (1 + 1e-9)), int(samples.groupby("problem").size().min()))
    return Side(f"{k} samples", k * price, lambda: sampled_values(samples, k, (name,))[name])


def section(compared: pd.DataFrame) -> str:
    """The pairs, pooled, as a section of a study's page, in Markdown."""
    if not len(compared):
        return "## Compared\n\nThis study has no pair of strategies at equal FLOPs.\n"
    pooled = compared[compared["task"] == ALL]
    lines = [
        f"| {one.first} | {one.second} | {100 * one.difference:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}] |"
        for one in pooled.itertuples()
    ]
    said = "Points of accuracy on the same problems at equal FLOPs, over all policies and tasks, with 90 % intervals."
    drawn = "![differences by policy](figures/comparisons.png)\n"
    head = [f"## Compared\n\n{said}\n", "| strategy | against | difference |", "|---|---|---|"]
    return "\n".join([*head, *lines, "", drawn])
