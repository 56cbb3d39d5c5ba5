"""Accuracy against total compute: the frontier is what no cheaper row reaches, and both themes draw every row."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from models.errors import ConfigError
from scaling.report import total_compute


def rows(seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    n = 24
    accuracy = rng.integers(0, 10, n) / 10
    return pd.DataFrame({
        "trial": rng.choice(["a", "b"], n), "params": rng.choice([10, 20], n), "step": np.arange(n) % 2,
        "stage": np.where(np.arange(n) % 2, "post-trained", "pre-trained"), "samples": 2 ** (np.arange(n) % 4),
        "accuracy": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05, "total": 10.0 ** rng.integers(9, 13, n),
    })  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_the_frontier_is_what_no_row_of_as_few_flops_reaches(seed: int) -> None:
    table = rows(seed)
    pairs = list(zip(table["total"], table["accuracy"]))
    expected = sorted({
        (c, a) for c, a in pairs if not any((d <= c and b > a) or (d < c and b >= a) for d, b in pairs)
    })  # fmt: skip
    found = total_compute.frontier(table)
    assert list(zip(found["total"], found["accuracy"])) == expected


def test_the_figure_shows_every_policy_and_the_frontier() -> None:
    table = rows(0)
    ax = total_compute.plot(table, Figure().add_subplot())
    drawn = np.sort(np.concatenate([c.lines[0].get_ydata() for c in ax.containers]))
    assert np.allclose(drawn, np.sort(table["accuracy"]))
    legend = ax.get_legend()
    assert legend is not None and [t.get_text() for t in legend.get_texts()][-1] == "frontier"
    with pytest.raises(ConfigError, match="total"):
        total_compute.plot(table.drop(columns="total"), Figure().add_subplot())
