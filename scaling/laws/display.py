"""How a fit looks: the notebook table and the plots."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from models.errors import ConfigError, nearest

if TYPE_CHECKING:
    from scaling.laws.fit import Fit


def fit_html(fit: Fit) -> str:
    """The summary as an HTML table, flags first."""
    intervals = fit.interval(0.95)
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


def plot_fit(fit: Fit, kind: str, ax=None):
    """Draw one plot and return its Axes."""
    kinds = {"predicted": _predicted, "residuals": _residuals}
    if kind not in kinds:
        near = nearest(kind, kinds)
        hint = f"use {near!r}" if near else f"use one of {', '.join(kinds)}"
        raise ConfigError("plot", f"{kind!r} is not known", hint)
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(5, 4), layout="constrained")
    kinds[kind](fit, ax)
    return ax


def _predicted(fit, ax):
    predicted = fit.estimator.predict(fit.z[None])[0]
    points = ax.scatter(fit.table.measured, predicted, s=12, c=np.log10(np.maximum(fit.table.axis, 1e-300)))
    ends = [min(fit.table.measured.min(), predicted.min()), max(fit.table.measured.max(), predicted.max())]
    ax.plot(ends, ends, color="0.5", lw=1)
    ax.set(xlabel=f"measured {fit.law.output}", ylabel=f"predicted {fit.law.output}", title=fit.law.name)
    ax.figure.colorbar(points, ax=ax, label=f"log10 {fit.table.axis_name}")


def _residuals(fit, ax):
    ax.axhline(0, color="0.5", lw=1)
    ax.scatter(fit.table.axis, fit.residuals, s=12)
    if np.all(fit.table.axis > 0):
        ax.set_xscale("log")
    ax.set(xlabel=fit.table.axis_name, ylabel=f"residual ({fit.objective.space})", title=fit.law.name)
