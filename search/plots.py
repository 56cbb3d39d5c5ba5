"""Pictures of a study: accuracy against FLOPs at test time, by strategy and by policy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scaling.report import numbers, style
from scaling.report.figures import Drawing
from search.comparisons import ALL

# Best-of-N, votes and coverage come from one set of samples; each search has a look of its own everywhere.
SAMPLED = {"best_of_n": "-", "weighted_vote": "--", "majority": ":", "coverage": "-."}
MARKERS = "osD^v<>Pp*hX"
COLOURS = ("#0072B2", "#D55E00", "#00805D", "#B3375A", "#B07A00", "#6A51A3", "#3A9AB2", "#8C6D31", "#E377C2", "#7F7F7F")


def drawings(table: pd.DataFrame) -> dict[str, Drawing]:
    """The figures of a study's table: one per task with a panel per policy, and one that compares the policies."""
    found = {}
    for i, (task, group) in enumerate(table.groupby("task", sort=False)):
        panels = len(_policies(group))
        alt = f"Accuracy of every strategy on {task} against FLOPs per problem, one panel per policy."
        size = (max(2.9 * min(panels, 4), 5.8) + 2.0, 4.3 * -(-panels // 4))
        found[f"strategies-{i + 1}"] = Drawing(f"strategies-{i + 1}", alt, size, partial(plot_strategies, group))
    tasks = table["task"].nunique()
    alt = "The best accuracy that each policy reaches at each budget, one panel per task."
    size = (4.2 * min(tasks, 2) + 1.0, 3.6 * -(-tasks // 2) + 0.5)
    found["policies"] = Drawing("policies", alt, size, partial(plot_policies, table))
    return found


def plot_strategies(table: pd.DataFrame, figure: Figure) -> None:
    """Accuracy of every strategy against FLOPs per problem on one task, one panel per policy."""
    policies = _policies(table)
    columns = min(len(policies), 4)
    axes = figure.subplots(-(-len(policies) // columns), columns, sharex=True, sharey=True, squeeze=False)
    names = list(dict.fromkeys(table["strategy"]))
    for axis, (params, policy) in zip(axes.flat, policies):
        for strategy, mine in table[table["policy"] == policy].groupby("strategy", sort=False):
            mine = mine.sort_values("budget")
            axis.plot(mine["budget"], mine["accuracy"], **_look(axis, str(strategy), names))
        _finish(axis, f"{numbers.count(params)} parameters")
    handles = [Line2D([], [], label=name.replace("_", " "), **_look(axes[0, 0], name, names)) for name in names]
    figure.legend(handles=handles, loc="outside right center")
    _label(axes)


def plot_policies(table: pd.DataFrame, figure: Figure, without: Sequence[str] = ("coverage",)) -> None:
    """The best strategy of each policy at each budget with its interval, one panel per task; dashed: coverage."""
    tasks = list(dict.fromkeys(table["task"]))
    columns = min(len(tasks), 2)
    axes = figure.subplots(-(-len(tasks) // columns), columns, sharex=True, sharey=True, squeeze=False)
    sizes = sorted(table["params"].unique())
    for axis, task in zip(axes.flat, tasks):
        for params, policy in _policies(table[table["task"] == task]):
            mine = table[(table["task"] == task) & (table["policy"] == policy)]
            colour = style.ramp(axis)(sizes.index(params) / max(len(sizes) - 1, 1))
            real = mine[~mine["strategy"].isin(without)]
            best = real.loc[real.groupby("budget")["accuracy"].idxmax()].sort_values("budget")
            axis.plot(best["budget"], best["accuracy"], color=colour, marker="o", ms=3.5)
            axis.fill_between(best["budget"], best["low"], best["high"], color=colour, alpha=0.15, lw=0)
            upper = mine[mine["strategy"] == "coverage"].sort_values("budget")
            axis.plot(upper["budget"], upper["accuracy"], color=colour, ls="--", lw=1)
        _finish(axis, task)
    for axis in axes.flat[len(tasks) :]:
        axis.set_visible(False)
    ramp = style.ramp(axes[0, 0])
    handles = [
        Line2D([], [], color=ramp(i / max(len(sizes) - 1, 1)), marker="o", ms=3.5, label=numbers.count(n))
        for i, n in enumerate(sizes)
    ]
    handles.append(Line2D([], [], color=style.ink(axes[0, 0]), ls="--", lw=1, label="coverage"))
    figure.legend(handles=handles, loc="outside right center", title="parameters")
    _label(axes)


def foretold(judged: pd.DataFrame) -> Drawing:
    """The figure of a study's predictions, as `search.foretold.judge` gives them."""
    kinds = judged["what"].nunique()
    size = (2.7 * min(kinds, 4) + 0.6, 2.9 * -(-kinds // 4) + 0.6)
    alt = "What was measured against what had been foretold, one panel per kind of prediction."
    return Drawing("foretold", alt, size, partial(plot_foretold, judged))


def plot_foretold(judged: pd.DataFrame, figure: Figure) -> None:
    """Every prediction with its interval against its measurement: those whose interval holds touch the diagonal."""
    kinds = list(dict.fromkeys(judged["what"]))
    columns = min(len(kinds), 4)
    axes = figure.subplots(-(-len(kinds) // columns), columns, sharex=True, sharey=True, squeeze=False)
    for axis, kind in zip(axes.flat, kinds):
        mine = judged[judged["what"] == kind]
        axis.plot([0, 1], [0, 1], color=style.ink(axis), lw=0.8, ls=":")
        for inside, colour in ((True, COLOURS[0]), (False, COLOURS[1])):
            part = mine[mine["inside"] == inside]
            reach = [part["predicted"] - part["low"], part["high"] - part["predicted"]]
            label = "interval holds" if inside else "misses"
            axis.errorbar(
                part["measured"], part["predicted"], reach, fmt="o" if inside else "s", ms=3.5, lw=1, color=colour,
                label=label,
            )  # fmt: skip
        axis.set_title(f"{kind.replace('_', ' ')}: {mine['inside'].sum()} of {len(mine)}", fontsize=10)
        axis.set_xlim(-0.03, 1.03)
        axis.set_ylim(-0.03, 1.03)
    for axis in axes.flat[len(kinds) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("measured")
    for axis in axes[:, 0]:
        axis.set_ylabel("foretold")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")


def comparisons(compared: pd.DataFrame) -> Drawing:
    """The figure of a study's comparisons, as `search.comparisons.compare` gives them."""
    pairs = compared.drop_duplicates(["first", "second"])
    alt = "The difference in accuracy of each pair of strategies at equal FLOPs, by policy, and over all of them."
    return Drawing("comparisons", alt, (7.2, 0.5 * len(pairs) + 1.2), partial(plot_comparisons, compared))


def plot_comparisons(compared: pd.DataFrame, figure: Figure) -> None:
    """A line per pair: each policy's mean difference over tasks as a small mark, all of them with an interval."""
    axis = figure.subplots()
    pooled, each = compared[compared["task"] == ALL], compared[compared["task"] != ALL]
    sizes = sorted(each["params"].unique())
    ramp = style.ramp(axis)
    for place, pair in enumerate(pooled.itertuples()):
        mine = each[(each["first"] == pair.first) & (each["second"] == pair.second)]
        means = 100 * mine.groupby("params")["difference"].mean()
        for params, value in means.items():
            colour = ramp(sizes.index(params) / max(len(sizes) - 1, 1))
            axis.plot([value], [place + 0.22], marker="o", ms=4, color=colour, ls="")
        middle, low, high = (100 * value for value in (pair.difference, pair.low, pair.high))
        axis.errorbar([middle], [place - 0.1], xerr=[[middle - low], [high - middle]], fmt="D", ms=5, lw=1.6,
                      color=style.ink(axis))  # fmt: skip
    axis.axvline(0, color=style.ink(axis), lw=0.8, ls=":")
    names = [f"{pair.first} against {pair.second}".replace("_", " ") for pair in pooled.itertuples()]
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel("difference in accuracy, points")
    handles = [
        Line2D([], [], color=ramp(i / max(len(sizes) - 1, 1)), marker="o", ms=4, ls="", label=numbers.count(n))
        for i, n in enumerate(sizes)
    ]
    handles.append(Line2D([], [], color=style.ink(axis), marker="D", ms=5, lw=1.6, label="all, 90 %"))
    figure.legend(handles=handles, loc="outside right center", title="parameters")


def _policies(table: pd.DataFrame) -> list[tuple[int, str]]:
    """(parameters, name) of every policy, by size."""
    return sorted(set(zip(table["params"], table["policy"], strict=True)))


def _look(axis: Axes, name: str, names: Sequence[str]) -> dict:
    if name in SAMPLED:
        return {"color": style.ink(axis), "ls": SAMPLED[name], "lw": 1.4}
    place = [n for n in names if n not in SAMPLED].index(name)
    lighter = 0.45 if style.is_dark(axis) else 0.0  # so that it shows
    colour = tuple((1 - lighter) * c + lighter for c in mpl.colors.to_rgb(COLOURS[place % len(COLOURS)]))
    return {"color": colour, "lw": 1.2, "marker": MARKERS[place % len(MARKERS)], "ms": 4, "alpha": 0.9}


def _finish(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_ylim(-0.03, 1.03)
    style.log_axis(axis, "x", "flops")


def _label(axes) -> None:
    for axis in axes[-1]:
        axis.set_xlabel("FLOPs per problem")
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy")
