"""The figures of one run directory, each drawn once per theme."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from scaling.fitting.fit import Fit
from scaling.report import plots, style
from scaling.report.frontier import isoflop_curves, isoflop_frontier
from scaling.report.record import RunRecord, is_surface

WIDE = (8.0, 4.6)  # inches


@dataclass(frozen=True)
class Picture:
    """One figure: the light one as PNG and SVG, the dark one as SVG, and its description for who cannot see it."""

    name: str
    alt: str
    png: bytes
    light: bytes
    dark: bytes


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn for this run directory."""

    name: str
    alt: str
    size: tuple[float, float]  # inches
    draw: Callable[[Figure], object]

    def render(self) -> Picture:
        """Draw it in both themes."""
        with style.theme("light"):
            figure = self._figure()
            png = style.save(figure, "png")
            figure.set_layout_engine("none")  # the layout stands; finding it again would take half of the time
            light = style.save(figure, "svg")
        places = [ax.get_position(original=True) for ax in figure.axes]
        with style.theme("dark"):
            figure = self._figure()
            figure.set_layout_engine("none")
            for ax, place in zip(figure.axes, places):
                ax.set_position(place)
            dark = style.save(figure, "svg")
        return Picture(self.name, self.alt, png, light, dark)

    def png(self) -> bytes:
        """The light one alone."""
        with style.theme("light"):
            return style.save(self._figure(), "png")

    def _figure(self) -> Figure:
        figure = Figure(figsize=self.size, layout="constrained")
        self.draw(figure)
        return figure


def drawings(run: RunRecord) -> dict[str, Drawing]:
    """Every figure that this directory has the data for, by name; the report says why the others are absent."""
    fitted, fit, runs = plots.usable(run.of_role("fitted")), run.fit, run.runs
    law = fit if is_surface(fit) and len(fitted) else None
    found: dict[str, Drawing] = {}

    def add(name: str, size: tuple[float, float], draw: Callable[[Figure], object], alt: str) -> None:
        found[name] = Drawing(name, alt, size, draw)

    curves = isoflop_curves(fitted)
    if curves:
        alt = "Held-out loss against parameters, one parabola per compute budget."
        add("isoflops", WIDE, lambda f: plots.plot_isoflops(runs, f.subplots()), alt)
    if law is not None or isoflop_frontier(fitted) is not None:
        alt = "Compute-optimal parameters and tokens against compute, both logarithmic."
        add("frontier", WIDE, lambda f: plots.plot_frontier(runs, law, f.subplots()), alt)
    if law is not None:
        alt = "Loss against compute: the law with its interval, fitted and held-out runs."
        add("scaling", WIDE, lambda f: plots.plot_scaling(law, runs, run.predictions, f.subplots()), alt)
        alt = "Contours of the fitted loss over parameters and tokens, and the runs."
        add("surface", (8.0, 5.2), lambda f: plots.plot_surface(law, runs, f.subplots()), alt)
        alt = "Residuals of the fit against parameters, tokens and compute, and their quantiles."
        add("residuals", (8.6, 6.0), lambda f: plots.plot_residuals(law, runs, f.subplots(2, 2)), alt)
    if len(run.tested):
        alt = "Predicted against measured loss of the held-out runs, with intervals."
        add("predictions", (9.2, 4.2), lambda f: _predictions(run, law, f), alt)
    if run.metrics:
        alt = "Training loss against compute spent, one line per trial."
        add("training", WIDE, lambda f: plots.plot_training(run.metrics, runs, f.subplots()), alt)
    return found


def _predictions(run: RunRecord, law: Fit | None, figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    plots.plot_predictions(run.predictions, run.runs, law, left)
    plots.plot_intervals(run.predictions, right)


def overview(run: RunRecord) -> Drawing | None:
    """One wide figure: isoFLOP curves, and the frontier with what was predicted and measured; None without a fit."""
    available = drawings(run)
    fit = run.fit
    if fit is None or "isoflops" not in available or "scaling" not in available:
        return None

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        plots.plot_isoflops(run.runs, left)
        left.set_title("Equal compute: which size is best")
        plots.plot_scaling(fit, run.runs, run.predictions, right)
        right.set_title("More compute: predicted, then measured")

    return Drawing("overview", "isoFLOP curves with their minima; predicted and measured loss.", (12.6, 4.5), draw)
