"""How figures look: a light and a dark theme, colours that colour-blind readers can tell apart, ticks that read 10k."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from scaling.report import numbers

# Okabe and Ito 2008; the second of each pair is the lighter relative that dark backgrounds need.
_HUES = {
    "fitted": ("#0072B2", "#56B4E9"),
    "held out": ("#D55E00", "#FF8A3D"),
    "tokens": ("#B07A00", "#E69F00"),
    "good": ("#00805D", "#2CC79A"),
    "failed": ("#B3375A", "#F0728F"),
}
_PAPER = {"light": ("#ffffff", "#1c2128", "#d8dde4"), "dark": ("#171a20", "#dfe3ea", "#39404b")}


@contextmanager
def theme(name: Literal["light", "dark"] = "light") -> Iterator[None]:
    """Matplotlib settings of the report for the figures drawn inside; `plt` and its state are left alone."""
    paper, ink, grid = _PAPER[name]
    settings: Any = {
        "figure.facecolor": paper,
        "axes.facecolor": paper,
        "savefig.facecolor": paper,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "grid.color": grid,
        "grid.linewidth": 0.7,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.8,
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 10.5,
        "axes.titlesize": 11.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 9,
        "axes.labelsize": 10.5,
        "xtick.labelsize": 9.5,
        "ytick.labelsize": 9.5,
        "legend.fontsize": 9.5,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "lines.solid_capstyle": "round",
        "figure.constrained_layout.w_pad": 0.07,
        "figure.constrained_layout.h_pad": 0.07,
        "svg.fonttype": "path",
        "svg.hashsalt": "isoflop",
        "text.usetex": False,
        "text.parse_math": False,  # labels may hold names from data, and a stray dollar sign must not raise
    }
    with mpl.rc_context(settings):
        yield


def is_dark(ax: Axes) -> bool:
    """Whether `ax` stands on a dark background, in a notebook's own theme as well as in ours."""
    red, green, blue = to_rgb(ax.get_facecolor())
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.4


def hue(ax: Axes, role: str) -> str:
    """The colour of a role ("fitted", "held out", "tokens", "good", "failed") that shows on ax's background."""
    return _HUES[role][is_dark(ax)]


def ramp(ax: Axes) -> Colormap:
    """An ordered colour scale without the end that would vanish in ax's background."""
    low, high = (0.25, 1.0) if is_dark(ax) else (0.0, 0.86)
    return ListedColormap(mpl.colormaps["viridis"](np.linspace(low, high, 256)), name="isoflop")


def ink(ax: Axes, alpha: float = 1.0) -> tuple[float, float, float, float]:
    """The text colour on ax, lightened by `alpha`."""
    light, dark = _PAPER["light"][1], _PAPER["dark"][1]
    return to_rgba(dark if is_dark(ax) else light, alpha)


def log_axis(ax: Axes, axis: Literal["x", "y"], kind: Literal["count", "flops", "loss"] = "count") -> None:
    """Make one axis logarithmic with labels such as 10k, 1M (counts), 1e13 (FLOPs) or 2.5 (losses), never offsets.

    Call it last: how many labels there are depends on the range of the data.
    """
    getattr(ax, f"set_{axis}scale")("log")
    low, high = getattr(ax, f"get_{axis}lim")()
    decades = np.log10(high / low)
    shown = getattr(ax, f"{axis}axis")
    if decades < 0.5:
        shown.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
        shown.set_minor_locator(NullLocator())
    else:
        shown.set_major_locator(LogLocator(base=10, subs=_steps(decades, kind), numticks=15))
        shown.set_minor_locator(LogLocator(base=10, subs=tuple(range(2, 10)), numticks=99))
    label = numbers.scientific if kind == "flops" else numbers.count
    shown.set_major_formatter(FuncFormatter(lambda value, _: label(value)))
    shown.set_minor_formatter(NullFormatter())


def _steps(decades: float, kind: str) -> tuple[float, ...]:
    """Which multiples of each power of ten are labelled, so that about four to eight labels fit."""
    if kind == "loss" and decades < 1.3:
        return (1, 1.5, 2, 2.5, 3, 4, 5, 7) if decades < 0.8 else (1, 1.5, 2, 3, 5)
    fine, coarse = (1.0, 2.5) if kind == "flops" else (1.7, 3.2)  # a FLOP label is twice as wide as a count
    return (1, 2, 5) if decades < fine else (1, 3) if decades < coarse else (1,)


def save(figure: Figure, file_format: Literal["png", "svg"], dpi: int = 170) -> bytes:
    """The picture as bytes that depend on the figure alone: no dates, no version strings, no random ids."""
    buffer = io.BytesIO()
    metadata = {"Software": None} if file_format == "png" else {"Date": None, "Creator": None}
    figure.savefig(buffer, format=file_format, dpi=dpi, metadata=metadata)
    return buffer.getvalue()
