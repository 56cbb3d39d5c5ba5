"""What accuracy costs: one price for compute and memory traffic on any device, and the budget that a method saves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from models.devices import DEVICES, find_device
from models.errors import ConfigError, nearest, require
from scaling.fitting.fitted import Interval
from scaling.fitting.runs import Runs, as_table, missing, numbers
from scaling.laws.kinetics import B200_INTENSITY, Cost, decoding_cost
from search.ledger import Cost as LedgerCost
from search.metrics.curves import problem_means

# FLOP per byte where no data sheet says it. kinetics: the B200 of the published numbers, at 4.5 PFLOP/s.
# cpu: float32 on two cores of a Xeon as `measured_intensity` saw them; ask it about the machine at hand.
OTHER_INTENSITIES = {"kinetics": B200_INTENSITY, "cpu": 5.6}


def intensities() -> dict[str, float]:
    """FLOP per byte of every device kind known here: peak (dense bf16) over memory bandwidth."""
    return {**{name: device.flops / device.bandwidth for name, device in DEVICES.items()}, **OTHER_INTENSITIES}


def intensity(kind: str) -> float:
    """FLOP per byte of a device kind, as jax names it ("TPU v5 lite", "NVIDIA H200", "cpu") or as the table does."""
    known = intensities()
    if kind.lower() in known:
        return known[kind.lower()]
    device = find_device(kind)
    if device is None:
        near = nearest(kind.lower(), known)
        fix = f"did you mean {near!r}?" if near else f"use one of {', '.join(known)}, or give the number itself"
        raise ConfigError("device", f"{kind!r} is not known", fix)
    return device.flops / device.bandwidth


def measured_intensity(size: int = 1024, values: int = 2**25, repeats: int = 5) -> float:
    """FLOP per byte of this machine's CPU: a float32 product [size, size] over copies of `values` floats, which should
    be more than its caches hold."""
    a, source = np.ones((size, size), np.float32), np.ones(values, np.float32)
    target = np.empty_like(source)

    def fastest(work: Callable[[], object]) -> float:
        times = []
        for _ in range(repeats):
            begin = time.perf_counter()
            work()
            times.append(time.perf_counter() - begin)
        return min(times)

    flops = 2 * size**3 / fastest(lambda: a @ a)
    return flops / (2 * source.nbytes / fastest(lambda: np.copyto(target, source)))


def eflops(
    params: ArrayLike, layers: int, heads: int, kv_heads: int, head_dim: int, prompt: ArrayLike, generated: ArrayLike,
    samples: ArrayLike = 1, *, device: str | float = "kinetics", bytes_per_value: int = 2,
) -> Cost:  # fmt: skip
    """FLOPs, bytes and eFLOPs of generations as `scaling.laws.kinetics.decoding_cost`, on a named device or at an
    intensity of your own."""
    price = intensity(device) if isinstance(device, str) else float(device)
    return decoding_cost(params, layers, heads, kv_heads, head_dim, prompt, generated, samples, price, bytes_per_value)


def ledger_eflops(cost: LedgerCost, device: str | float) -> float:
    """FLOPs + intensity x bytes of what a ledger counted."""
    return cost.flops + (intensity(device) if isinstance(device, str) else float(device)) * cost.bytes


def attended(prompt: ArrayLike, generated: ArrayLike, budget: ArrayLike = np.inf) -> np.ndarray:
    """Keys read in all by `generated` tokens after `prompt` ones when each reads at most `budget` of them.

    The integral of min(budget, t) over t from prompt to prompt + generated: where the budget binds,
    budget x generated - max(0, budget - prompt)^2 / 2 (Kinetics, sparse attention; the published top-k code adds the
    last term instead of subtracting it).
    """
    start, count, most = np.broadcast_arrays(*(np.asarray(v, float) for v in (prompt, generated, budget)))
    free = np.clip(most - start, 0.0, count)  # tokens that still see all their keys
    with np.errstate(invalid="ignore"):
        bound = np.where(count > free, most * (count - free), 0.0)
    return free * start + free**2 / 2 + bound


def budget_to_reach(budgets: ArrayLike, accuracy: ArrayLike, target: float) -> float:
    """Smallest budget at which the running maximum of accuracy [n] reaches `target`; inf when none does.

    Between two budgets accuracy is taken as linear in their logarithm; below the smallest, nothing is assumed.
    """
    price = np.asarray(budgets, float)
    best = np.maximum.accumulate(np.asarray(accuracy, float)[np.argsort(price)])
    price = np.sort(price)
    reached = np.flatnonzero(best >= target - 1e-12)
    if not len(reached):
        return float("inf")
    at = int(reached[0])
    if at == 0 or best[at] <= target:
        return float(price[at])
    share = np.clip((target - best[at - 1]) / (best[at] - best[at - 1]), 0.0, 1.0)
    return float(np.exp((1 - share) * np.log(price[at - 1]) + share * np.log(price[at])))


def amortised(ahead: ArrayLike, asked: ArrayLike, queries: ArrayLike) -> np.ndarray:
    """Tokens of a query when `ahead` tokens are spent once on what `queries` of them share, and `asked` on each."""
    return np.asarray(ahead, float) / np.asarray(queries, float) + np.asarray(asked, float)


def queries_to_pay(ahead: float, asked: float, without: float) -> float:
    """Queries of one context from which on tokens spent ahead of them are saved again: ahead / (without - asked), where
    a query takes `without` tokens if nothing was done ahead; infinite where it takes no more than `asked`."""
    return ahead / (without - asked) if without > asked else float("inf")


class Efficiency(NamedTuple):
    """How much less a strategy needs: ratio = baseline's budget / its own at the same accuracy, above 1 is better.

    budget, baseline_budget: smallest that reach the target. interval: of the ratio, over problems; its ends are 0 or
    inf where one of the two does not reach the target in that many resamples.
    """

    target: float
    budget: float
    baseline_budget: float
    ratio: float
    interval: Interval


def outcomes(runs: Runs, strategy: str) -> pd.DataFrame:
    """Mean `correct` of one strategy: problems x budgets. Budgets that lack a problem are left out.

    runs: rows of problem, strategy, budget, correct. Raises ConfigError for an unknown strategy.
    """
    table = as_table(runs)
    for name in ("problem", "strategy", "budget", "correct"):
        if name not in table.columns:
            missing(name, table.columns)
    numbers(table, "correct"), numbers(table, "budget", positive=True)
    rows = table[table["strategy"] == strategy]
    if not len(rows):
        have = sorted(map(str, table["strategy"].unique()))
        near = nearest(strategy, have)
        fix = f"did you mean {near!r}?" if near else f"have {', '.join(have)}"
        raise ConfigError("strategy", f"{strategy!r} has no rows", fix)
    wide = rows.pivot_table(index="problem", columns="budget", values="correct", aggfunc="mean").astype(float)
    wide = wide.reindex(list(dict.fromkeys(table["problem"])))
    return wide.dropna(axis=1)


def sample_efficiency(
    runs: Runs, strategy: str, baseline: str = "best_of_n", *, target: float | None = None, interval: float = 0.9,
    bootstrap: int = 1000, seed: int = 0,
) -> Efficiency:  # fmt: skip
    """Budget that `strategy` needs for the accuracy of `baseline`, at equal problems and in the same unit.

    runs: one row per problem, strategy and budget with `correct`. target: accuracy, the baseline's best unless
    given. Problems are resampled in pairs.
    """
    ours, theirs = outcomes(runs, strategy), outcomes(runs, baseline)
    require(ours.shape[1] > 0, "strategy", f"{strategy!r} has no budget with every problem", "run the missing problems")
    require(
        theirs.shape[1] > 0, "baseline", f"{baseline!r} has no budget with every problem", "run the missing problems"
    )
    points = [(wide.columns.to_numpy(float), wide.to_numpy()) for wide in (ours, theirs)]
    means = [values.mean(0) for _, values in points]
    # the baseline's own best is a number of the sample too: every resample has another
    draws = [problem_means(values, bootstrap, seed) for _, values in points]
    goals = [float(row.max()) if target is None else target for row in (means[1], *draws[1])]
    budget, base = (budget_to_reach(price, row, goals[0]) for (price, _), row in zip(points, means))
    own, other = (
        np.array([budget_to_reach(price, row, goal) for row, goal in zip(rows, goals[1:])])
        for (price, _), rows in zip(points, draws)
    )
    # neither reaches it: such a resample says nothing about the ratio
    known = np.isfinite(own) | np.isfinite(other)
    ratios = np.where(np.isfinite(own), other / np.where(np.isfinite(own), own, 1.0), 0.0)[known]
    low, high = np.quantile(ratios, [(1 - interval) / 2, (1 + interval) / 2], method="nearest") if len(ratios) else (
        np.nan, np.nan)  # fmt: skip
    ratio = base / budget if np.isfinite(budget) else (0.0 if np.isfinite(base) else float("nan"))
    return Efficiency(goals[0], budget, base, ratio, Interval(float(low), float(high)))
