"""Pictures of a study: accuracy against FLOPs at test time."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

STYLES = ("-", "--", ":", "-.")


def plot_table(table: pd.DataFrame, folder: Path) -> list[Path]:
    """One figure per task, one panel per policy: accuracy of every strategy against FLOPs per problem; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for task, group in table.groupby("task", sort=False):
        sizes = sorted(group["params"].unique())
        figure, axes = plt.subplots(1, len(sizes), figsize=(4.2 * len(sizes), 4.0), sharey=True, squeeze=False)
        for axis, params in zip(axes[0], sizes):
            _panel(axis, group[group["params"] == params])
            axis.set_title(f"{params:,} parameters", fontsize=10)
        axes[0, 0].set_ylabel("accuracy")
        handles, labels = axes[0, -1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
        figure.suptitle(str(task), fontsize=11)
        figure.tight_layout()
        name = "".join(c if c.isalnum() else "-" for c in str(task))
        files.append(folder / f"search-{name}.png")
        figure.savefig(files[-1], dpi=120, bbox_inches="tight")
        plt.close(figure)
    return files


def _panel(axis: Axes, group: pd.DataFrame) -> None:
    for i, (strategy, mine) in enumerate(group.groupby("strategy", sort=False)):
        mine = mine.sort_values("budget")
        color = f"C{i % 10}"
        axis.plot(mine["budget"], mine["accuracy"], STYLES[i // 10], marker="o", ms=3, color=color, label=str(strategy))
        axis.fill_between(mine["budget"], mine["low"], mine["high"], color=color, alpha=0.08, lw=0)
    axis.set_xscale("log")
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlabel("FLOPs per problem")
    axis.grid(alpha=0.2)
