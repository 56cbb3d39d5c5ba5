"""The report's figures. Each draws on the axes it is given (or makes some) and returns them, so notebooks can use it.

`runs` is a results table (one row per trial: params, tokens, flops, loss, ...); rows without a finite loss are left
out. `fit` is a fit of a law L(N, D). N is `params`, D `tokens`, C `flops`, L `loss` in nats/token.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy import stats

from models.errors import ConfigError
from scaling.fitting.fitted import ExtrapolationWarning, Fitted
from scaling.fitting.runs import missing
from scaling.report import numbers, style
from scaling.report.frontier import IsoflopCurve, flops_per_token, isoflop_curves, isoflop_frontier, optimal_path

MAX_LEGEND = 9  # budgets; more than that are read off a colour bar
MAX_INTERVALS = 20  # rows of plot_intervals: the largest runs
MAX_CURVE_POINTS = 400  # per training curve: finer than a pixel, and the SVG stays small


def _axes(ax: Axes | None, size: tuple[float, float] = (7.2, 4.4)) -> Axes:
    return plt.figure(figsize=size, layout="constrained").add_subplot() if ax is None else ax


def usable(runs: pd.DataFrame) -> pd.DataFrame:
    """Rows that can be drawn: finished, with finite loss and positive N, D and C."""
    table = runs[runs["status"] == "done"] if "status" in runs else runs
    for name in ("params", "tokens", "flops", "loss"):
        if name not in table:
            missing(name, table.columns)
    numeric = table[["params", "tokens", "flops", "loss"]].astype(float)
    return table[(np.isfinite(numeric) & (numeric > 0)).all(axis=1)]


def _split(runs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(fitted, held-out) rows; a table that was not read from a run directory has no `role` and is all fitted."""
    table = usable(runs)
    held_out = table["role"] == "held out" if "role" in table else pd.Series(False, table.index)
    if held_out.all():
        raise ConfigError("runs", "no finished row has a finite loss, N, D and C", "finish the sweep first")
    return table[~held_out], table[held_out]


def _pad_limits(values: np.ndarray, fraction: float, log: bool = True) -> tuple[float, float]:
    """Limits a `fraction` of the data's range beyond it, in log space unless told otherwise; of finite values, since
    the interval of a fit that identifies nothing has no ends."""
    v = np.log(values) if log else np.asarray(values, float)
    v = v[np.isfinite(v)]
    if not len(v):
        return (0.5, 2.0) if log else (0.0, 1.0)
    pad = fraction * max(v.max() - v.min(), 0.5 if log else 1e-3)
    low, high = v.min() - pad, v.max() + pad
    return (float(np.exp(low)), float(np.exp(high))) if log else (float(low), float(high))


def _bars(predictions: pd.DataFrame) -> np.ndarray:
    """How far the interval reaches below and above each prediction, `[2, rows]`; NaN, which draws no bar, where it has
    no end."""
    spread = np.abs(predictions[["low", "high"]].to_numpy(float).T - predictions["mean"].to_numpy(float))
    return np.where(np.isfinite(spread), spread, np.nan)


def plot_isoflops(runs: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Loss against N at equal compute: one colour per budget, the parabola in ln N, and its minimum.

    A star is a minimum inside the measured sizes. A dashed curve with a cross at its lowest run has no minimum to be
    trusted: the best size is at the edge of those tried, or there are too few sizes.
    """
    ax = _axes(ax)
    table, _ = _split(runs)
    curves = isoflop_curves(table)
    if not curves:
        raise ConfigError("runs", "no compute budget has runs of two sizes", "add sizes at equal compute")
    many = len(curves) > MAX_LEGEND
    norm = LogNorm(min(c.budget for c in curves), max(c.budget for c in curves) * 1.0001)
    colours = style.ramp(ax)
    handles = []
    for rank, curve in enumerate(curves):
        colour = colours(norm(curve.budget) if many else rank / max(len(curves) - 1, 1))
        ax.plot(curve.params, curve.loss, "o", color=colour, ms=5.5, mec=ax.get_facecolor(), mew=0.6, zorder=3)
        handles.append(Line2D([], [], color=colour, marker="o", ms=5, label=numbers.scientific(curve.budget, 2)))
        if curve.coefficients is None:
            continue
        grid = np.geomspace(curve.params.min(), curve.params.max(), 100)
        ax.plot(grid, curve.at(grid), color=colour, lw=1.6, ls="-" if curve.used else "--", zorder=2)
        if curve.used:
            ax.plot(curve.best, curve.at(curve.best), "*", color=colour, ms=13, mec=style.ink(ax), mew=0.9, zorder=4)
        else:
            edge = np.argmin(curve.loss)
            ax.plot(curve.params[edge], curve.loss[edge], "x", color=style.hue(ax, "failed"), ms=10, mew=2.2, zorder=5)
    ax.set_xlabel("parameters N")
    ax.set_ylabel("held-out loss (nats/token)")
    ax.set_xlim(_pad_limits(table["params"].to_numpy(float), 0.06))
    ax.margins(y=0.08)
    style.log_axis(ax, "x")
    if many:
        bar = ax.figure.colorbar(ScalarMappable(norm, colours), ax=ax, label="budget (FLOPs)", pad=0.02)
        style.log_axis(bar.ax, "y", "flops")
        handles = []
    handles += _minimum_handles(ax, curves)
    ax.legend(
        handles=handles,
        title=None if many else "budget (FLOPs)",
        loc="upper left" if not many else "best",
        bbox_to_anchor=None if many else (1.01, 1.0),
        borderaxespad=0,
        alignment="left",
    )
    return ax


def _minimum_handles(ax: Axes, curves: list[IsoflopCurve]) -> list[Line2D]:
    fitted = [c for c in curves if c.coefficients is not None]
    handles = [_hollow(ax, "*", "minimum", 11)] if any(c.used for c in fitted) else []
    if any(not c.used for c in fitted):
        colour = style.hue(ax, "failed")
        handles.append(Line2D([], [], ls="", marker="x", color=colour, ms=8, mew=2, label="not used"))
    return handles


def _hollow(ax: Axes, marker: str, label: str, size: float = 7) -> Line2D:
    """A legend entry for a marker whatever its colour."""
    return Line2D([], [], ls="", marker=marker, ms=size, color="none", mec=style.ink(ax), label=label)


def plot_frontier(runs: pd.DataFrame, fit: Fitted | None = None, ax: Axes | None = None, reach: float = 10.0) -> Axes:
    """Compute-optimal N*(C) and D*(C): the isoFLOP minima, the power law through them, and the fitted law's optimum.

    reach: how far beyond the largest run (in compute) the lines go.
    """
    ax = _axes(ax)
    table, _ = _split(runs)
    minima = isoflop_frontier(table)
    if minima is None and fit is None:
        raise ConfigError("runs", "fewer than two budgets have a minimum inside their sizes", "add sizes, or give fit=")
    low, high = table["flops"].min() / 1.5, table["flops"].max() * reach
    grid = np.geomspace(low, high, 60)
    path = optimal_path(fit, table, grid) if fit is not None else None
    through = dict(zip(("params", "tokens"), minima.optimum(grid))) if minima is not None else None
    names = (("params", "fitted", "parameters N*"), ("tokens", "tokens", "tokens D*"))
    for column, role, words in names:
        colour = style.hue(ax, role)
        if minima is not None and through is not None:
            used = minima.table[minima.table["used"]]
            ax.plot(used["flops"], used[column], "*", color=colour, ms=12, mec=style.ink(ax), mew=0.8, zorder=4)
            ax.plot(grid, through[column], "--", color=colour, lw=1.4, zorder=2)
            end = through[column][-1]
        if path is not None:
            ax.plot(grid, path[column], color=colour, lw=2, zorder=3)
            end = path[column].iloc[-1]
        label = ax.annotate(words, (high, end), (5, 0), textcoords="offset points", va="center", annotation_clip=False)
        label.set(color=colour, weight="bold")
    ax.axvspan(table["flops"].max(), high, color=style.ink(ax, 0.06), lw=0, zorder=0)
    ax.set_xlim(low, high)
    ax.set_xlabel("compute C (FLOPs)")
    ax.set_ylabel("parameters or tokens")
    style.log_axis(ax, "x", "flops")
    style.log_axis(ax, "y")
    handles = []
    if minima is not None:
        handles.append(_hollow(ax, "*", "isoFLOP minimum", 11))
        handles.append(Line2D([], [], ls="--", color=style.ink(ax), lw=1.4, label="power law through minima"))
    if path is not None:
        handles.append(Line2D([], [], color=style.ink(ax), lw=2, label="optimum of the fitted law"))
    ax.legend(handles=handles, loc="upper left")
    return ax


def plot_surface(fit: Fitted, runs: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The fitted L(N, D) as contours, the runs on it in the colour of their measured loss, and the optimal path."""
    ax = _axes(ax, (7.2, 4.9))
    fitted, held_out = _split(runs)
    table = pd.concat([fitted, held_out])
    n_limits, d_limits = (_pad_limits(table[c].to_numpy(float), 0.13) for c in ("params", "tokens"))
    n, d = np.geomspace(*n_limits, 120), np.geomspace(*d_limits, 120)
    surface = fit.law(fit.params, params=n[None, :], tokens=d[:, None])
    norm = LogNorm(min(surface.min(), table["loss"].min()), max(surface.max(), table["loss"].max()))
    colours = style.ramp(ax).reversed()
    levels = MaxNLocator(nbins=18, steps=[1, 2, 2.5, 5, 10]).tick_values(surface.min(), surface.max())
    ax.contourf(n, d, surface, levels=levels, norm=norm, cmap=colours, alpha=0.3)
    lines = ax.contour(n, d, surface, levels=levels, norm=norm, cmap=colours, linewidths=1.1)
    for group, marker, size in ((fitted, "o", 42), (held_out, "D", 62)):
        ax.scatter(
            group["params"],
            group["tokens"],
            c=group["loss"],
            norm=norm,
            cmap=colours,
            marker=marker,
            s=size,
            edgecolors=style.ink(ax),
            linewidths=0.9,
            zorder=4,
        )
    ends = flops_per_token(table, np.array(n_limits)) * d_limits
    path = optimal_path(fit, table, np.geomspace(ends[0], ends[1], 120))
    ax.plot(path["params"], path["tokens"], color=style.ink(ax), lw=2, zorder=3)
    ax.set_xlabel("parameters N")
    ax.set_ylabel("training tokens D")
    ax.set_xlim(n_limits)
    ax.set_ylim(d_limits)
    ax.grid(False)
    style.log_axis(ax, "x")
    style.log_axis(ax, "y")
    places = _label_places(n, d, surface, levels)
    ax.clabel(
        lines,
        levels=list(places),
        manual=list(places.values()),
        fmt=numbers.count,
        fontsize=8.5,
        colors=[style.ink(ax)],
    )
    bar = ax.figure.colorbar(ScalarMappable(norm, colours), ax=ax, label="loss (nats/token)", pad=0.02)
    style.log_axis(bar.ax, "y", "loss")
    handles = [_hollow(ax, "o", "fitted run")]
    if len(held_out):
        handles.append(_hollow(ax, "D", "held-out run"))
    handles.append(Line2D([], [], color=style.ink(ax), lw=2, label="compute-optimal path"))
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0.2)
    return ax


def _label_places(n: np.ndarray, d: np.ndarray, surface: np.ndarray, levels: Sequence[float]) -> dict[float, tuple]:
    """level -> (N, D) near the right or the top margin, where a contour label hides no run; surface [D, N]."""
    places = {}
    column, row = int(0.95 * len(n)), int(0.96 * len(d))
    for level in levels:
        rising = surface[::-1, column]  # loss falls with D; interp wants it to rise
        if rising[0] < level < rising[-1]:
            place = (n[column], np.interp(level, rising, d[::-1]))
            if place[1] < d[row]:
                places[level] = place
                continue
        rising = surface[row, ::-1]
        if rising[0] < level < rising[-1]:
            places[level] = (np.interp(level, rising, n[::-1]), d[row])
    return places


def plot_residuals(fit: Fitted, runs: pd.DataFrame, axes: np.ndarray | None = None) -> np.ndarray:
    """Measured over fitted loss, in percent, against N, D and C, and their normal quantiles; axes [2, 2]."""
    if axes is None:
        axes = plt.figure(figsize=(8.4, 5.8), layout="constrained").subplots(2, 2)
    groups = [(label, t) for label, t in zip(("fitted", "held out"), _split(runs)) if len(t)]
    residuals = {
        label: 100 * (t["loss"] / fit.law(fit.params, params=t["params"], tokens=t["tokens"]) - 1)
        for label, t in groups
    }
    kinds: dict[str, tuple[str, Literal["count", "flops"]]] = {
        "params": ("parameters N", "count"),
        "tokens": ("training tokens D", "count"),
        "flops": ("compute C (FLOPs)", "flops"),
    }
    for ax, (column, (title, kind)) in zip(axes.flat, kinds.items()):
        ax.axhline(0, color=style.ink(ax, 0.7), lw=1)
        for label, group in groups:
            marker, words = ("o", "fitted runs") if label == "fitted" else ("D", "held-out runs")
            ax.plot(
                group[column],
                residuals[label],
                marker,
                color=style.hue(ax, label),
                ms=5.5,
                mec=ax.get_facecolor(),
                mew=0.5,
                label=words,
            )
        ax.set_xlabel(title)
        ax.set_ylabel("residual (%)")
        ax.set_xlim(_pad_limits(pd.concat([t[column] for _, t in groups]).to_numpy(float), 0.07))
        style.log_axis(ax, "x", kind)
    _quantiles(axes.flat[3], residuals.get("fitted", pd.Series(dtype=float)))
    if len(groups) > 1:
        axes.flat[0].legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, handletextpad=0.1, borderaxespad=0.2)
    return axes


def _quantiles(ax: Axes, residuals: pd.Series) -> None:
    ax.set_xlabel("normal quantile")
    ax.set_ylabel("fitted runs' residual (%)")
    if len(residuals) < 3:
        ax.text(0.5, 0.5, "needs at least 3 runs", ha="center", va="center", transform=ax.transAxes)
        return
    (theory, ordered), (slope, middle, _) = stats.probplot(residuals)
    ax.plot(theory, middle + slope * theory, color=style.ink(ax, 0.7), lw=1)
    ax.plot(theory, ordered, "o", color=style.hue(ax, "fitted"), ms=5.5, mec=ax.get_facecolor(), mew=0.5)


def plot_predictions(
    predictions: pd.DataFrame, runs: pd.DataFrame | None = None, fit: Fitted | None = None, ax: Axes | None = None
) -> Axes:
    """Measured against predicted loss of the held-out runs, with intervals; the fitted runs stand by in the back.

    predictions: columns mean, low, high, measured. A run on the diagonal was predicted exactly.
    """
    ax = _axes(ax, (5.6, 4.6))
    tested = predictions[np.isfinite(predictions["measured"].astype(float))]
    extremes = [tested[c].to_numpy(float) for c in ("mean", "low", "high", "measured")]
    if runs is not None and fit is not None:
        fitted, _ = _split(runs)
        back = fit.law(fit.params, params=fitted["params"], tokens=fitted["tokens"])
        ax.plot(back, fitted["loss"], "o", color=style.ink(ax, 0.28), ms=5, mew=0, label="fitted run")
        extremes += [back, fitted["loss"].to_numpy(float)]
    limits = _pad_limits(np.concatenate(extremes), 0.06, log=False)
    ax.plot(limits, limits, color=style.ink(ax, 0.7), lw=1, zorder=1)
    verdicts = ((True, "good", "held out, inside its interval"), (False, "held out", "held out, outside"))
    for held, role, label in verdicts:
        group = tested[tested["inside"] == held]
        if len(group):
            spread = _bars(group)
            ax.errorbar(
                group["mean"],
                group["measured"],
                xerr=spread,
                fmt="D",
                color=style.hue(ax, role),
                ms=7,
                mec=style.ink(ax),
                mew=0.8,
                capsize=4,
                elinewidth=2,
                label=label,
                zorder=4,
            )
    ax.set_xlim(limits)
    ax.set_ylim(limits)
    ax.set_aspect("equal")
    ax.set_xlabel("predicted loss (nats/token)")
    ax.set_ylabel("measured loss (nats/token)")
    ax.legend(loc="upper left")
    return ax


def plot_intervals(predictions: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Each held-out run's interval around its prediction and the measured loss, in percent of the prediction."""
    ax = _axes(ax, (5.6, 1.6 + 0.42 * min(len(predictions), MAX_INTERVALS)))
    tested = predictions[np.isfinite(predictions["measured"].astype(float))].tail(MAX_INTERVALS)
    for y, row in enumerate(tested.itertuples()):
        low, high, measured = (100 * (value / row.mean - 1) for value in (row.low, row.high, row.measured))
        colour = style.hue(ax, "good" if row.inside else "held out")
        ax.plot([low, high], [y, y], color=colour, lw=7, alpha=0.4, solid_capstyle="butt")
        ax.plot(measured, y, "D", color=colour, ms=7.5, mec=style.ink(ax), mew=0.8, zorder=4)
    ax.axvline(0, color=style.ink(ax, 0.7), lw=1)
    ax.set_yticks(range(len(tested)), [f"{numbers.ratio(f)} compute" for f in tested["factor"]])
    ax.set_ylim(-0.8, len(tested) - 0.2)
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("measured − predicted (% of predicted)")
    bar = Line2D([], [], color=style.ink(ax, 0.35), lw=7, solid_capstyle="butt", label="interval")
    ax.legend(
        handles=[bar, _hollow(ax, "D", "measured")],
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=2,
        borderaxespad=0.2,
    )
    return ax


def plot_scaling(
    fit: Fitted,
    runs: pd.DataFrame,
    predictions: pd.DataFrame | None = None,
    ax: Axes | None = None,
    interval: float = 0.9,
) -> Axes:
    """Loss against compute: the fitted law's optimum L*(C) with its prediction interval, and what was measured.

    Held-out runs show the interval that was written down before they ran (bar) and the measured loss (diamond).
    """
    ax = _axes(ax)
    fitted, held_out = _split(runs)
    predicted = predictions if predictions is not None else pd.DataFrame(columns=["flops", "mean", "low", "high"])
    top = max([fitted["flops"].max(), *held_out["flops"], *predicted["flops"].dropna()])
    low, high = fitted["flops"].min() / 1.3, top * 2
    grid = np.geomspace(low, high, 50)
    path = optimal_path(fit, fitted, grid)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)  # the shaded part of the figure says it
        band = fit.predict(params=path["params"].to_numpy(), tokens=path["tokens"].to_numpy(), interval=interval)
    blue, orange = style.hue(ax, "fitted"), style.hue(ax, "held out")
    ax.axvspan(fitted["flops"].max(), high, color=style.ink(ax, 0.06), lw=0, zorder=0)
    words = f"{numbers.level(interval)} prediction interval"
    if np.isfinite(band.low).any():
        ax.fill_between(grid, band.low, band.high, color=blue, alpha=0.2, lw=0, label=words)
    ax.plot(grid, path["loss"], color=blue, lw=2, label="law at the optimal size")
    ax.plot(fitted["flops"], fitted["loss"], "o", color=style.ink(ax, 0.35), ms=4.5, mew=0, label="fitted runs")
    if len(predicted):
        spread = _bars(predicted)
        ax.errorbar(
            predicted["flops"],
            predicted["mean"],
            yerr=spread,
            fmt="_",
            color=orange,
            ms=10,
            elinewidth=2.4,
            capsize=7,
            capthick=2,
            label="predicted before the run",
            zorder=4,
        )
    if len(held_out):
        ax.plot(
            held_out["flops"],
            held_out["loss"],
            "D",
            color=orange,
            ms=6,
            mec=style.ink(ax),
            mew=0.9,
            label="held-out run, measured",
            zorder=5,
        )
    ax.set_xlim(low, high)
    ax.set_xlabel("compute C (FLOPs)")
    ax.set_ylabel("held-out loss (nats/token)")
    style.log_axis(ax, "x", "flops")
    ax.legend(loc="upper right")
    return ax


def plot_training(metrics: Mapping[str, pd.DataFrame], runs: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Training loss against compute spent, one line per trial coloured by its size; failed trials end in a cross.

    metrics: trial -> rows with `flops` (or `tokens`, from which FLOPs follow) and `loss` (nats/token).
    """
    ax = _axes(ax, (7.6, 4.4))
    rows = runs[runs["trial"].isin(list(metrics))].sort_values("params", ascending=False, kind="stable")
    sizes = rows["params"].astype(float)
    norm = LogNorm(sizes.min(), max(sizes.max(), sizes.min() * 1.01))
    colours = style.ramp(ax)
    highest, failed = {"done": 0.0, "failed": 0.0}, False
    for row in rows.itertuples():
        spent, value = _curve(metrics[row.trial], row.flops / row.tokens)
        if not len(spent):
            continue
        ax.plot(spent, value, color=colours(norm(row.params)), lw=1.1, alpha=0.9)
        highest["done" if row.status == "done" else "failed"] = max(highest.get(row.status, 0.0), value.max())
        if row.status != "done":
            ax.plot(spent[-1], value[-1], "x", color=style.hue(ax, "failed"), ms=9, mew=2.2, zorder=5)
            failed = True
    ax.set_xlabel("training compute spent (FLOPs)")
    ax.set_ylabel("training loss (nats/token)")
    top = 1.05 * (highest["done"] or highest["failed"])  # a spike must not squeeze the other curves
    if top:
        ax.set_ylim(top=min(ax.get_ylim()[1], top))
    style.log_axis(ax, "x", "flops")
    style.log_axis(ax, "y", "loss")
    if sizes.nunique() > 1:
        bar = ax.figure.colorbar(ScalarMappable(norm, colours), ax=ax, label="parameters N", pad=0.02)
        style.log_axis(bar.ax, "y")
    handles = [Line2D([], [], color=colours(0.0), label=f"{numbers.count(sizes.iloc[0])} parameters")]
    handles = handles if sizes.nunique() == 1 else []
    if failed:
        handles.append(Line2D([], [], ls="", marker="x", ms=8, mew=2, color=style.hue(ax, "failed"), label="failed"))
    if handles:
        ax.legend(handles=handles, loc="upper right")
    return ax


def _curve(rows: pd.DataFrame, flops_per_token: float) -> tuple[np.ndarray, np.ndarray]:
    """(FLOPs spent, loss) of one trial's finite rows, thinned to what a figure can show, its last row kept."""
    spent = rows["flops"].fillna(rows["tokens"] * flops_per_token).to_numpy(float)
    value = rows["loss"].to_numpy(float)
    keep = np.flatnonzero(np.isfinite(spent) & (spent > 0) & np.isfinite(value) & (value > 0))
    thin = keep[:: max(1, -(-len(keep) // MAX_CURVE_POINTS))]
    shown = np.union1d(thin, keep[-1:])
    return spent[shown], value[shown]
