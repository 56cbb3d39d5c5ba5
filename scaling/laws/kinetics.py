"""Kinetics (Sadhukhan et al. 2025): test-time cost with the memory traffic of attention, and what it buys.

eFLOPs = FLOPs + intensity x bytes: with long generations reading the cache dominates, and the cost-optimal model is
larger than FLOPs alone say. The intensity is the device's, and no constant of nature.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from scaling.fitting.law import Law
from scaling.fitting.runs import Runs, as_table, numbers

B200_INTENSITY = 562.5      # FLOP/byte: 4.5 PFLOP/s over 8 TB/s, the device of the published numbers


class Cost(NamedTuple):
    """flops: FLOP of the forward passes; bytes: cache traffic; eflops: both at one intensity."""

    flops: np.ndarray
    bytes: np.ndarray
    eflops: np.ndarray


def decoding_cost(params: ArrayLike, layers: int, heads: int, kv_heads: int, head_dim: int, prompt: ArrayLike,
                  generated: ArrayLike, samples: ArrayLike = 1, intensity: float = B200_INTENSITY,
                  bytes_per_value: int = 2) -> Cost:
    """Cost of `samples` generations of `generated` tokens on one prompt of `prompt` tokens; all broadcast.

    flops = (2 P Lo + 2 (2 Li + Lo) Lo heads head_dim layers) samples; the cache holds keys and values of kv_heads and
    is read once per token, the prompt's once for all samples. Reading the parameters and prefill are left out, as in
    the source: they vanish in large batches.
    """
    params, prompt, generated, samples = (np.asarray(v, float) for v in (params, prompt, generated, samples))
    attention = 2 * (2 * prompt + generated) * generated * heads * head_dim * layers
    flops = (2 * params * generated + attention) * samples
    # keys and values: 2 arrays; the mean length of a growing cache: generated / 2
    traffic = bytes_per_value * (2 * prompt + generated * samples) * generated * kv_heads * head_dim * layers
    return Cost(flops, traffic, flops + intensity * traffic)


COST_ACCURACY = Law(
    name="cost_accuracy",
    formula="accuracy = Amax - a cost**-b",
    inputs=("cost",), output="accuracy",
    predict=lambda p, x: p.Amax - p.a * x.cost**-p.b,
    linear=("Amax", "a"), exponents=("b",),
    bounds=dict(Amax=(0, 1), a=(0, None), b=(0, 2)),
    space="raw", objective="gaussian",
    units=dict(cost="eFLOPs, or any cost", accuracy="fraction right"),
    source="our own description of the cost frontier; Kinetics (arXiv:2506.05333) gives the cost, and no closed form")


def cost_frontier(runs: Runs, *, cost: str = "eflops", accuracy: str = "accuracy") -> pd.DataFrame:
    """The rows of `runs` that no cheaper row equals or beats in accuracy, by rising cost."""
    table = as_table(runs)
    price, score = numbers(table, cost, positive=True), numbers(table, accuracy)
    order = np.lexsort((-score, price))
    best = np.concatenate([[-np.inf], np.maximum.accumulate(score[order])[:-1]])
    return table.iloc[order[score[order] > best]]


def best_at(runs: Runs, budgets: ArrayLike, *, cost: str = "eflops", accuracy: str = "accuracy") -> pd.DataFrame:
    """For every budget the best affordable row, with the column `budget`; budgets below the cheapest row are absent."""
    frontier = cost_frontier(runs, cost=cost, accuracy=accuracy)
    budgets = np.atleast_1d(np.asarray(budgets, float))
    position = np.searchsorted(frontier[cost].to_numpy(float), budgets, side="right") - 1
    return frontier.iloc[position[position >= 0]].assign(budget=budgets[position >= 0])


LAWS = (COST_ACCURACY,)
