"""Which compute budget each run of a table belongs to."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

SAME_BUDGET = 1.1  # runs whose FLOPs differ by less share a budget: planners hit theirs within a few percent


def budgets(runs: pd.DataFrame) -> pd.Series:
    """The compute budget (FLOPs) that each run belongs to: the geometric mean of the runs within 10 % of each other.

    Sorted by FLOPs, a run opens a new budget when it costs over 1.1 times the first run of the current one, so a
    dense series cannot chain two budgets together.
    """
    flops = runs["flops"].astype(float)
    labels = pd.Series(np.nan, index=runs.index)
    members: list[Any] = []
    for index, value in flops[flops > 0].sort_values(kind="stable").items():
        if members and value > SAME_BUDGET * flops[members[0]]:
            labels[members] = math.exp(np.log(flops[members]).mean())
            members = []
        members.append(index)
    if members:
        labels[members] = math.exp(np.log(flops[members]).mean())
    return labels
