"""How a fit looks: the notebook table and the plots."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from models.errors import ConfigError, nearest
from scaling.fitting.allocation import plan
from scaling.fitting.calibration import budgets as budgets_of
from scaling.fitting.fitted import Fitted, Interval, only_known
from scaling.fitting.profile import profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES = 6  # budgets drawn by "isoflop"


def fit_html(fit: Fitted, intervals: Mapping[str, Interval]) -> str:
    """The summary as an HTML table, flags first; 95 % intervals of every parameter and derived quantity."""
    flags = "".join(f"<p><b>!</b> {escape(w)}</p>" for w in fit.certificate.warnings)
    rows = []
    for name, value in {**fit.params, **fit.derived}.items():
        low, high = intervals[name]
        band = f"{low:.6g} to {high:.6g}" if np.isfinite(low) else "no interval"
        rows.append(f"<tr><td>{escape(name)}</td><td>{value:.8g}</td><td>{band}</td></tr>")
    c = fit.certificate
    return (
        f"<div><b>{escape(fit.law.name)}</b> <code>{escape(fit.law.formula)}</code>{flags}"
        f"<table><tr><th></th><th>value</th><th>95 %</th></tr>{''.join(rows)}</table>"
        f"<small>{c.points} rows, objective {c.objective:.10g}, {c.agreed:.0%} of {c.starts} starts agreed, "
        f"gradient {c.gradient_norm:.1e}</small></div>"
    )


def plot_fit(fit: Fitted, kind: str, ax: Axes | None = None, **options) -> Axes:
    """Draw one plot, in the report's theme when it makes its own axes, and return the Axes."""
    kinds = {
        "predicted": _predicted,
        "residuals": _residuals,
        "isoflop": _isoflop,
        "contour": _contour,
        "profile": _profile,
    }
    if kind not in kinds:
        near = nearest(kind, kinds)
        hint = f"use {near!r}" if near else f"use one of {', '.join(kinds)}"
        raise ConfigError("plot", f"{kind!r} is not known", hint)
    only_known("plot", options, ("parameter", "interval") if kind == "profile" else ())
    import matplotlib.pyplot as plt

    from scaling.report import style

    if ax is not None:
        kinds[kind](fit, ax, **options)
        return ax
    with style.theme():
        _, ax = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
        kinds[kind](fit, ax, **options)
    return ax


def _unit(fit: Fitted, name: str) -> str:
    """A column with its unit, as an axis label."""
    unit = fit.law.units.get(name, "")
    return f"{name} ({unit})" if unit and unit != name else name


def _size_label(fit: Fitted) -> str:
    name = fit.table.axis_name
    return "compute (FLOPs)" if name == "flops" else _unit(fit, name)


def _size_axis(fit: Fitted, ax: Axes, axis) -> None:
    from scaling.report import style

    if np.all(fit.table.axis > 0) and np.ptp(fit.table.axis) > 0:
        style.log_axis(ax, axis, "flops" if fit.table.axis_name == "flops" else "count")


def _predicted(fit: Fitted, ax: Axes) -> None:
    from matplotlib.colors import LogNorm

    from scaling.report import style

    predicted = fit.estimator.predict(fit.z[None])[0]
    sizes = fit.table.axis
    norm = LogNorm(sizes.min(), sizes.max()) if np.all(sizes > 0) and np.ptp(sizes) > 0 else None
    ends = [min(fit.table.measured.min(), predicted.min()), max(fit.table.measured.max(), predicted.max())]
    points = ax.scatter(predicted, fit.table.measured, s=24, c=sizes, norm=norm, cmap=style.ramp(ax), linewidths=0)
    ax.plot(ends, ends, color=style.ink(ax, 0.7), lw=1, zorder=1)
    output = _unit(fit, fit.law.output)
    ax.set(xlabel=f"predicted {output}", ylabel=f"measured {output}", title=fit.law.name)
    bar = ax.figure.colorbar(points, ax=ax, label=_size_label(fit), pad=0.02)
    _size_axis(fit, bar.ax, "y")


def _residuals(fit: Fitted, ax: Axes) -> None:
    from scaling.report import style

    unit = "%" if fit.objective.space == "log" else "Pearson" if fit.objective.counts else fit.objective.space
    factor = 100 if unit == "%" else 1
    ax.axhline(0, color=style.ink(ax, 0.7), lw=1)
    noise = factor * fit.noise
    ax.axhspan(-noise, noise, color=style.ink(ax, 0.08), lw=0)
    ax.scatter(fit.table.axis, factor * fit.residuals, s=24, color=style.hue(ax, "fitted"), linewidths=0, zorder=3)
    ax.set(xlabel=_size_label(fit), ylabel=f"measured − predicted ({unit})", title=fit.law.name)
    _size_axis(fit, ax, "x")


def _two_inputs(fit: Fitted, kind: str) -> None:
    if set(fit.law.inputs) != {"params", "tokens"}:
        problem = f"{kind!r} needs a law of params and tokens, {fit.law.name} has {', '.join(fit.law.inputs)}"
        raise ConfigError("plot", problem, "use 'predicted', 'residuals' or 'profile'")


def _isoflop(fit: Fitted, ax: Axes) -> None:
    """Fitted loss against size at equal compute, each run beside the curve of the nearest budget, stars at minima."""
    from matplotlib.lines import Line2D

    from scaling.report import numbers, style

    _two_inputs(fit, "isoflop")
    n, log_c = fit.table.inputs["params"], np.log(fit.table.axis)
    tops = budgets_of(fit.table.axis)
    group = np.searchsorted(tops, fit.table.axis)
    few = len(tops) <= CURVES
    budgets = (
        np.array([log_c[group == code].mean() for code in range(len(tops))])
        if few
        else np.linspace(log_c.min(), log_c.max(), CURVES)
    )
    nearest_budget = np.argmin(np.abs(log_c[:, None] - budgets), axis=1)
    colours = style.ramp(ax)(np.linspace(0, 1, len(budgets)))
    grid = np.geomspace(n.min() / 1.5, n.max() * 1.5, 160)
    # runs are moved along the law to their curve's compute, so that what is left between them is the residual
    moved = np.exp(budgets[nearest_budget]) / (6 * n)
    height = fit.law(fit.params, params=n, tokens=moved) * fit.table.measured / fit.estimator.predict(fit.z[None])[0]
    handles = []
    for rank, (budget, colour) in enumerate(zip(np.exp(budgets), colours, strict=True)):
        near = nearest_budget == rank
        if not near.any():
            continue
        x = grid[(grid >= n[near].min() / 1.5) & (grid <= n[near].max() * 1.5)]
        ax.plot(x, fit.law(fit.params, params=x, tokens=budget / (6 * x)), color=colour, lw=1.6, zorder=2)
        ax.plot(n[near], height[near], "o", color=colour, ms=5, mec=ax.get_facecolor(), mew=0.6, zorder=3)
        best = plan(fit, budget)
        if x[0] < best.params < x[-1]:
            ax.plot(best.params, best.loss, "*", color=colour, ms=13, mec=style.ink(ax), mew=0.9, zorder=4)
        handles.append(Line2D([], [], color=colour, marker="o", ms=5, label=numbers.scientific(budget, 2)))
    handles.append(Line2D([], [], color=style.ink(ax, 0.4), marker="*", ms=12, lw=0, label="optimum"))
    ax.set(xlabel="parameters N", ylabel=_unit(fit, fit.law.output), title=fit.law.name)
    ax.set_ylim(0.98 * height.min(), 1.03 * height.max())
    style.log_axis(ax, "x")
    ax.legend(handles=handles, title="6 N D (FLOPs)", loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)


def _contour(fit: Fitted, ax: Axes) -> None:
    from scaling.report.plots import plot_surface

    _two_inputs(fit, "contour")
    table = pd.DataFrame({**fit.table.inputs, "flops": fit.table.axis, "loss": fit.table.measured})
    plot_surface(fit, table, ax)


def _profile(fit: Fitted, ax: Axes, parameter: str | None = None, interval: float = 0.95) -> None:
    from scaling.report import numbers, style

    name = parameter or next(n for n in (*fit.law.exponents, *fit.law.parameters) if n not in fit.fixed)
    curve = profile(fit, name, interval)
    shown = curve.deviance <= 3 * curve.threshold
    ax.plot(curve.values[shown], curve.deviance[shown], color=style.hue(ax, "fitted"), zorder=3)
    ax.axhline(curve.threshold, color=style.ink(ax, 0.7), lw=1, ls=":")
    ax.axvline(fit.params[name], color=style.ink(ax, 0.7), lw=1)
    finite = [end for end in (curve.low, curve.high) if np.isfinite(end)]
    ax.plot(finite, [curve.threshold] * len(finite), "o", color=style.hue(ax, "fitted"), ms=6, zorder=4)
    ends = f"{curve.low:.4g} to {curve.high:.4g}" if finite else "not bounded"
    ax.set_title(f"{fit.law.name}: {numbers.level(interval)} of {name} is {ends}")
    ax.set(xlabel=_unit(fit, name), ylabel="deviance")
    ax.set_ylim(0, 3 * curve.threshold)
