"""Accuracy against all the compute that it took: pre-training, post-training and inference on one axis."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from scaling.fitting.runs import missing
from scaling.report import numbers, style

SIZE = (8.6, 4.8)  # inches
ALT = "Accuracy against total FLOPs of policies before and after post-training, with the frontier."
MARKERS = {"pre-trained": "o", "post-trained": "^"}
COLUMNS = ("trial", "params", "stage", "step", "samples", "accuracy", "low", "high", "total")


def frontier(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that are more accurate than every row of no more `total` FLOPs, by total."""
    _check(table)
    ordered = table.sort_values(["total", "accuracy"], ascending=[True, False], kind="stable")
    before = ordered["accuracy"].cummax().shift(fill_value=-np.inf)
    return ordered[ordered["accuracy"] > before].reset_index(drop=True)


def plot(table: pd.DataFrame, ax: Axes) -> Axes:
    """accuracy against total; a colour for each size, a marker for each stage, a line over the samples that vote, and
    the frontier as steps: what so many FLOPs reach."""
    _check(table)
    sizes = sorted(table["params"].unique())
    colours = {n: style.ramp(ax)(i / max(len(sizes) - 1, 1)) for i, n in enumerate(sizes)}
    for (_, params, stage, _), group in table.groupby(["trial", "params", "stage", "step"]):
        group = group.sort_values("samples")
        spread = np.abs(group[["low", "high"]].to_numpy(float).T - group["accuracy"].to_numpy(float))
        line = "--" if stage == "pre-trained" else "-"
        ax.errorbar(
            group["total"], group["accuracy"], spread, color=colours[params], marker=MARKERS[stage], ls=line, ms=5,
            lw=1.1, elinewidth=0.8, alpha=0.9,
        )  # fmt: skip
    best = frontier(table)
    end = table["total"].max() * 1.15
    x, y = [*best["total"], end], [*best["accuracy"], best["accuracy"].iloc[-1]]
    ax.step(x, y, where="post", color=style.hue(ax, "held out"), lw=2.4, alpha=0.85, zorder=1)
    ax.set_xlabel("total FLOPs: pre-training, post-training with rollouts, inference")
    ax.set_ylabel("accuracy on held-out problems")
    top = min(1.03, 1.12 * float(table["high"].max())) or 1.03  # where nothing was right
    ax.set_ylim(-0.03 * top, top)
    ax.set_xlim(table["total"].min() / 1.15, end)
    style.log_axis(ax, "x", "flops")
    ink = style.ink(ax)
    handles = [Line2D([], [], color=colours[n], lw=3, label=f"{numbers.count(n)} parameters") for n in sizes]
    for stage in [name for name in MARKERS if (table["stage"] == name).any()]:
        ls = "--" if stage == "pre-trained" else "-"
        handles.append(Line2D([], [], color=ink, marker=MARKERS[stage], ls=ls, ms=5, lw=1.1, label=stage))
    handles.append(Line2D([], [], color=style.hue(ax, "held out"), lw=2.4, label="frontier"))
    least, most = table["samples"].min(), table["samples"].max()
    title = f"k = {least} to {most} samples vote" if most > least else None
    ax.legend(handles=handles, title=title, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    return ax


def _check(table: pd.DataFrame) -> None:
    for name in COLUMNS:
        if name not in table:
            missing(name, table.columns)
