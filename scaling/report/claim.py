"""The page of a reproduction: the claim, the verdict, and what was measured, drawn where there are curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from models.errors import require
from scaling import kept
from scaling.finding import Finding
from scaling.report import numbers, style
from scaling.report.figures import Drawing
from scaling.report.html import Html, Section, badge, code, element, join, page, paragraph, picture, table

CURVES = "curves"  # the field of the details that is drawn
TABLES = "tables"  # and the one whose tables are shown
MARKERS = "os^Dv"  # in turn, since the colours of many lines lie close
VERDICTS = {"holds": "good", "does not hold": "bad", "cannot tell": "plain"}  # the badge of each
_NUMBER = (float, int)
_PANELS: kept.Shape = [{
    "x": str, "y": str, "log?": str,
    "lines": {str: {"x": [_NUMBER], "y": [_NUMBER], "low?": [_NUMBER], "high?": [_NUMBER]}},
}]  # fmt: skip
_TABLES: kept.Shape = [{"title": str, "rows": [{str: str}]}]


def write_page(path: Path, finding: Finding, details: Mapping[str, Any]) -> Path:
    """Write the page of one finding to `path`, and its figure beside it; returns `path`.

    details: `Measured.details`. ConfigError where its curves or tables are not of the form that `Measured` describes.
    """
    sections = [Section("verdict", "What was seen", _verdict(finding))]
    panels = details.get(CURVES)
    if panels:
        drawing = _drawing(finding.name, panels).render()
        kept.write_atomically(path.parent / "figures" / f"{finding.name}.png", drawing.png)
        sections.append(Section("figure", "Measurements", picture(drawing, finding.claim)))
    tables = details.get(TABLES, [])
    fault = kept.misshapen(tables, _TABLES, TABLES)
    fault = fault or next((f"{TABLES}: {one['title']!r} has no rows" for one in tables if not one["rows"]), "")
    require(not fault, "details", fault, "give the form that Measured describes")
    for number, one in enumerate(tables):
        sections.append(Section(f"table{number}", one["title"], table(one["rows"], words=[*one["rows"][0]][:1])))
    rest = {name: value for name, value in details.items() if name not in (CURVES, TABLES)}
    if rest:
        lines = [{"": name, "value": element("span", _short(value), class_="long")} for name, value in rest.items()]
        sections.append(Section("details", "Numbers", table(lines, words=("", "value"))))
    text = page(finding.name, f"{finding.claim} ({finding.source})", sections, kept.digest(finding.to_json()))
    kept.write_atomically(path, text)
    return path


def _verdict(finding: Finding) -> Html:
    first = paragraph(badge(finding.verdict, VERDICTS[finding.verdict]), f" {finding.seen()}", class_="headline")
    asked = f"More than {finding.smallest_effect:g} was asked, settled before the run."
    took = "" if finding.minutes is None else f" It took {finding.minutes:.2g} minutes on {finding.machine}."
    kind = " Simulated: nothing was trained for it." if finding.simulated else ""
    left = paragraph(f"Not covered: {finding.not_covered}", class_="note")
    return join([first, paragraph(asked, took, kind), left, paragraph(code(finding.command))])


def _short(value: Any) -> str:
    if isinstance(value, float):
        return numbers.significant(value)
    text = str(value)
    return text if len(text) <= 2000 else text[:1997] + "..."


def _drawing(name: str, panels: Sequence[Mapping[str, Any]]) -> Drawing:
    fault = kept.misshapen(panels, _PANELS, CURVES)
    require(not fault, "details", fault, "give the form that Measured describes")
    alt = "; ".join(f"{panel['y']} against {panel['x']}" for panel in panels)
    return Drawing(name, alt, (4.2 * len(panels) if len(panels) > 1 else 6.5, 4.2), partial(_draw, panels))


def _draw(panels: Sequence[Mapping[str, Any]], figure: Figure) -> None:
    same = len({frozenset(panel["lines"]) for panel in panels}) == 1  # then a name has one colour, and one legend tells
    order: list[str] = []
    for i, panel in enumerate(panels, 1):
        ax = figure.add_subplot(1, len(panels), i)
        many = len(panel["lines"])
        if not (same and order):
            order = [*panel["lines"]]
            if many > 4:  # named in the order in which they end
                ends = {name: line["y"][-1] if line["y"] else 0.0 for name, line in panel["lines"].items()}
                order.sort(key=ends.__getitem__, reverse=True)
        lines = [(name, panel["lines"][name]) for name in order]
        for j, (name, line) in enumerate(lines):
            colour = style.ramp(ax)(j / max(1, many - 1))
            ax.plot(line["x"], line["y"], marker=MARKERS[j % len(MARKERS)], markersize=4, label=name, color=colour)
            if "low" in line and "high" in line:
                ax.fill_between(line["x"], line["low"], line["high"], color=colour, alpha=0.2, linewidth=0)
        ax.set_xlabel(panel["x"])
        ax.set_ylabel(panel["y"])
        if 1 < many <= 4 or (many > 1 and (i == len(panels) or not same)):
            ax.legend(**({} if many <= 4 else {"loc": "center left", "bbox_to_anchor": (1, 0.5)}))
        for axis in panel.get("log", ""):
            style.log_axis(ax, axis, "flops" if "FLOP" in panel[axis] else "count")
