"""The parts of the report, each a function from what was read to HTML; a part without data says why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from scaling.fitting.certificate import Certificate
from scaling.fitting.fit import Fit
from scaling.fitting.fitted import Interval
from scaling.fitting.objectives import Objective
from scaling.report import numbers
from scaling.report.figures import Picture
from scaling.report.frontier import IsoflopCurve, isoflop_curves, isoflop_frontier
from scaling.report.html import Html, Section, badge, code, element, join, paragraph, picture, table
from scaling.report.plots import usable
from scaling.report.record import RunRecord, failure, is_surface
from scaling.sweep.directory import RETRY

Pictures = Mapping[str, Picture]
LEVEL = 0.9  # of every interval in the report, predictions aside, which carry their own
INTERVAL = f"{numbers.level(LEVEL)} interval"
NO_FIT = "There is no fit.json in this directory: run python -m launch.fit --results DIR --law chinchilla --out DIR."


def absent(reason: object) -> Html:
    """Why a part of the report is missing."""
    return paragraph(reason, class_="absent")


def _no_surface(run: RunRecord) -> str | None:
    """Why the fitted surface cannot be drawn, or None when it can."""
    if run.fit is None:
        return NO_FIT
    if not is_surface(run.fit):
        return f"The fitted law takes {', '.join(run.fit.law.inputs)}: it is not a surface L(N, D)."
    return None if len(usable(run.of_role("fitted"))) else "No fitted run has a finite loss."


# -- headline -------------------------------------------------------------------------------------------------------


def headline(run: RunRecord, pictures: Pictures) -> Section:
    """What was trained, what was predicted, what was measured, and whether the interval held."""
    parts: list[object] = [paragraph(_trained(run), class_="headline")]
    parts += [paragraph(*words, class_="headline") for words in _held_out_prediction(run)]
    failed = len(run.of_role("failed"))
    if failed:
        link = element("a", "the list", href="#failed")
        parts.append(paragraph(f"{numbers.plural(failed, 'trial')} failed: see ", link, ".", class_="warning"))
    if run.fit is not None and run.fit.certificate.active_bounds:
        parts.append(paragraph(_on_bounds(run.fit), class_="warning"))
    parts.append(_tiles(run))
    parts += [paragraph(note, class_="warning") for note in run.notes]
    return Section("headline", "In short", join(parts))


def _on_bounds(fit: Fit) -> str:
    names = fit.certificate.active_bounds
    values = ", ".join(f"{name} = {numbers.significant(fit.params[name])}" for name in names if name in fit.params)
    return (
        f"{', '.join(names)} of the fitted law ended on {'its bound' if len(names) == 1 else 'their bounds'}"
        f"{f' ({values})' if values else ''}: these runs do not determine it, and the intervals do not show that."
    )


def _trained(run: RunRecord) -> str:
    fitted = usable(run.of_role("fitted"))
    if not len(fitted):
        return "No trial of this sweep has finished with a usable loss, so there is nothing to fit or predict yet."
    n, c = fitted["params"], fitted["budget"]
    kinds = fitted["budget"].nunique()
    sizes = numbers.count(n.min()) if n.min() == n.max() else f"{numbers.count(n.min())} to {numbers.count(n.max())}"
    low, high = numbers.scientific(c.min(), 2), numbers.scientific(c.max(), 2)
    cost = low if low == high else f"{low} to {high}"
    budgets = f"{numbers.plural(kinds, 'compute budget')} of {cost} FLOPs"
    return f"{numbers.plural(len(fitted), 'transformer')} of {sizes} parameters were trained at {budgets}."


def _held_out_prediction(run: RunRecord) -> list[list[object]]:
    if not len(run.predictions):
        return [["No held-out run was predicted."]] if run.plans_budgets else []
    said: list[list[object]] = []
    for row in run.predictions.itertuples():
        before = (
            f"Before a run of {numbers.ratio(row.factor)} the compute of the largest fitted one was started, the law "
            f"predicted {numbers.loss(row.mean)} nats/token, {_interval(row)}. "
        )
        if not np.isfinite(row.measured):
            said.append([before, "That run has failed." if row.status == "failed" else "It has not been measured yet."])
            continue
        off = f"{numbers.percent(abs(row.miss))} too {'high' if row.miss > 0 else 'low'}"
        verdict = _verdict(row.inside, "the interval held", "the interval did not hold")
        said.append([before, f"It measured {numbers.loss(row.measured)}: the prediction was {off}, and ", verdict, "."])
    if len(said) > 3:  # many held-out runs: say how often, and leave each one to its table
        tested = run.tested
        held, known = int((tested["inside"] == True).sum()), int(tested["inside"].notna().sum())  # noqa: E712
        worst = tested["miss"].abs().max()
        return [
            [
                f"{len(tested)} of {len(run.predictions)} held-out runs have been measured: ",
                badge(f"{held} of {known} intervals held", "good" if known and held >= 0.8 * known else "bad"),
                f"; the largest error was {numbers.percent(worst)}.",
            ]
        ]
    return said


def _tiles(run: RunRecord) -> Html:
    fitted, tested = run.of_role("fitted"), run.tested
    tiles = [
        (f"{len(fitted):,}", "runs fitted"),
        (f"{fitted['params'].nunique():,}", "sizes"),
        (f"{fitted['budget'].nunique():,}", "compute budgets"),
    ]
    if len(tested):
        largest = tested.iloc[-1]
        tiles.append((numbers.ratio(largest["factor"]), "compute extrapolated"))
        tiles.append((numbers.percent(abs(largest["miss"])), "error of that prediction"))
    tiles.append((numbers.scientific(run.runs["spent_flops"].sum()), "FLOPs in all"))
    tiles.append((numbers.duration(run.runs["wall_s"].sum()), "of training in all"))
    return element(
        "div", *(element("div", element("b", a), element("span", b), class_="tile") for a, b in tiles), class_="tiles"
    )


# -- what was measured ----------------------------------------------------------------------------------------------


def predictions(run: RunRecord, pictures: Pictures) -> Section:
    """Each held-out run: what was written down before it, and what came of it."""
    title = "Predicted against measured"
    if not len(run.predictions):
        why = absent("This sweep has no predictions.jsonl: no run was held out.")
        return Section("predictions", title, join([why, *_scaling(pictures)]))
    note = (
        "Error is predicted over measured loss, less one. Compute is relative to the largest fitted run. Losses are "
        "nats/token on the held-out files."
    )
    rows = [_prediction(row) for row in run.predictions.itertuples()]
    parts: list[object] = [table(rows, {"trial", "verdict", "written", "commit"}), paragraph(note, class_="note")]
    if "predictions" in pictures:
        caption = (
            "Left: the diagonal is a perfect prediction; bars are the intervals. Right: each interval around its "
            "prediction."
        )
        parts.append(picture(pictures["predictions"], caption))
    else:
        parts.append(absent("None of these runs has been measured yet, so there is no figure."))
    return Section("predictions", title, join([*parts, *_scaling(pictures)]))


def _interval(row: Any) -> str:
    """The interval of a prediction in words."""
    if not (np.isfinite(row.low) and np.isfinite(row.high)):
        return "without an interval, which its rows do not support"
    return f"with a {numbers.level(row.interval)} interval from {numbers.loss(row.low)} to {numbers.loss(row.high)}"


def _verdict(inside: object, good: str, bad: str) -> object:
    """What became of an interval, of which there may be none."""
    if inside is None or inside != inside:
        return badge("there was no interval", "bad")
    return badge(good, "good") if inside else badge(bad, "bad")


def _prediction(row: Any) -> dict[str, object]:
    verdict: object = row.status
    if row.status == "measured":
        verdict = _verdict(row.inside, "inside", "outside")
    return {
        "trial": code(row.trial),
        "N": numbers.count(row.params),
        "D": numbers.count(row.tokens),
        "FLOPs": numbers.scientific(row.flops),
        "compute": numbers.ratio(row.factor),
        "predicted": numbers.loss(row.mean),
        "interval": f"{numbers.loss(row.low)} to {numbers.loss(row.high)} ({numbers.level(row.interval)})"
        if np.isfinite(row.low) and np.isfinite(row.high)
        else "none",
        "measured": numbers.loss(row.measured),
        "error": numbers.percent(row.miss, signed=True),
        "verdict": verdict,
        "written": row.time,
        "commit": row.commit[:10],
    }


def _scaling(pictures: Pictures) -> list[Html]:
    caption = (
        f"The law at the best size for each compute, with its {numbers.level(LEVEL)} prediction interval. The "
        "shaded part is beyond every fitted run. A held-out run of another size than the best lies above the line."
    )
    return [picture(pictures["scaling"], caption)] if "scaling" in pictures else []


def isoflops(run: RunRecord, pictures: Pictures) -> Section:
    """IsoFLOP curves, their parabolas and minima."""
    title = "IsoFLOP curves"
    curves = isoflop_curves(usable(run.of_role("fitted")))
    if "isoflops" not in pictures:
        return Section("isoflops", title, absent("No compute budget has runs of two sizes, so there is no curve."))
    caption = (
        "Each curve holds compute fixed; the parabola is least squares in ln N. Stars are minima. A dashed curve with "
        "a cross has none to be trusted, and no frontier uses it."
    )
    parts: list[object] = [picture(pictures["isoflops"], caption), table([_minimum(c) for c in curves], {"minimum"})]
    if len(curves) == 1:
        parts.append(absent("One budget only: nothing can be said about how the optimum moves."))
    return Section("isoflops", title, join(parts))


def _minimum(curve: IsoflopCurve) -> dict[str, object]:
    return {
        "budget (FLOPs)": numbers.scientific(curve.budget, 2),
        "sizes": len(np.unique(curve.params)),
        "N*": numbers.count(curve.best),
        "D*": numbers.count(curve.best_tokens),
        "D*/N*": numbers.significant(curve.best_tokens / curve.best, 3),
        "loss at N*": numbers.loss(float(curve.at(curve.best))) if curve.used else numbers.MISSING,
        "minimum": curve.reason or "used",
    }


def frontier(run: RunRecord, pictures: Pictures) -> Section:
    """N*(C) and D*(C)."""
    title = "Compute-optimal size and data"
    if "frontier" not in pictures:
        why = "It takes two budgets with a minimum inside their sizes, or a fitted law L(N, D)."
        return Section("frontier", title, absent(f"There is no frontier. {why}"))
    caption = "The shaded part is beyond every fitted run. Compute per token follows the runs' exact counts, not 6 N."
    parts: list[object] = [picture(pictures["frontier"], caption)]
    minima = isoflop_frontier(usable(run.of_role("fitted")))
    if minima is not None:
        intervals = minima.interval(LEVEL)
        a, b = (f"C^{minima.params[name]:.3f}{_band(intervals[name])}" for name in ("a", "b"))
        used = int(minima.table["used"].sum())
        parts.append(paragraph(f"Through the {used} isoFLOP minima (approach 2): N* grows as {a} and D* as {b}."))
    if is_surface(run.fit):
        parts.append(paragraph("The solid lines minimise the fitted law (approach 3) at each compute."))
    return Section("frontier", title, join(parts))


def _band(interval: Interval) -> str:
    """The interval of an exponent in brackets, or nothing when there is none."""
    if not np.isfinite(interval.low):
        return ""
    return f" ({numbers.level(LEVEL)}: {interval.low:.3f} to {interval.high:.3f})"


def surface(run: RunRecord, pictures: Pictures) -> Section:
    """The fitted L(N, D) with the runs on it."""
    title = "Fitted surface"
    if "surface" not in pictures:
        return Section("surface", title, absent(_no_surface(run) or "It could not be drawn."))
    caption = "Contours and markers share one colour scale: a marker that stands out from its ground is a residual."
    return Section("surface", title, picture(pictures["surface"], caption))


def residuals(run: RunRecord, pictures: Pictures) -> Section:
    """What the fit leaves unexplained."""
    title = "Residuals"
    if "residuals" not in pictures:
        return Section("residuals", title, absent(_no_surface(run) or "They could not be drawn."))
    caption = (
        "Measured over fitted loss, less one. A trend in any panel means that the law is wrong there; points off the "
        "line in the last one are outliers."
    )
    return Section("residuals", title, picture(pictures["residuals"], caption))


def training(run: RunRecord, pictures: Pictures) -> Section:
    """Training curves of every trial."""
    title = "Training curves"
    if "training" not in pictures:
        return Section("training", title, absent("No trial has a metrics.jsonl with losses in it."))
    missing = len(run.runs) - len(run.metrics)
    caption = "Mean training loss between logged steps, one line per trial, by size."
    if missing:
        caption += f" {numbers.plural(missing, 'trial')} left no metrics."
    return Section("training", title, picture(pictures["training"], caption))


# -- the fit --------------------------------------------------------------------------------------------------------


def parameters(run: RunRecord, pictures: Pictures) -> Section:
    """Fit parameters with intervals, and the certificate in words."""
    title = "The fit"
    fit = run.fit
    if fit is None:
        return Section("fit", title, absent(NO_FIT))
    intervals = fit.interval(LEVEL)
    rows = []
    for name, value in {**fit.params, **fit.derived}.items():
        low, high = intervals[name]
        band = f"{numbers.significant(low)} to {numbers.significant(high)}" if np.isfinite(low) else numbers.MISSING
        value = numbers.significant(value, 5)
        rows.append({"parameter": element("b", name), "value": value, INTERVAL: band, "": _flag(fit, name)})
    kind = f"{len(fit.draws.z):,} {fit.draws.kind} resamples" if fit.draws is not None else "the asymptotic covariance"
    source = f" ({fit.law.source})" if fit.law.source else ""
    parts: list[object] = [
        paragraph(f"{fit.law.name}{source}: ", code(fit.law.formula)),
        table(rows, {"parameter", ""}),
        paragraph(
            f"Intervals are from {kind}. Coefficients and their exponents move together, so their own intervals "
            "are wide where the prediction's is not.",
            class_="note",
        ),
        element("h3", "How far this fit can be trusted"),
        certificate(fit.certificate, fit.objective),
    ]
    return Section("fit", title, join(parts))


def _flag(fit: Fit, name: str) -> str:
    if name in fit.fixed:
        return "held fixed"
    if name in fit.certificate.active_bounds:
        return "on its bound"
    if name in fit.certificate.not_identified:
        return "not determined by these runs"
    return "derived" if name in fit.derived else ""


def certificate(c: Certificate, objective: Objective) -> Html:
    """A Certificate in plain words, its warnings first."""
    flat = (
        f"{', '.join(c.not_identified)} could take other values and fit as well"
        if c.not_identified
        else ("every parameter is determined by the runs")
    )
    bounds = f"{', '.join(c.active_bounds)} ended on a bound" if c.active_bounds else "no parameter ended on a bound"
    words = [
        f"{100 * c.agreed:.0f} % of {c.starts:,} starts reached this optimum (objective {c.objective:.6g}, "
        f"{objective.kind} in {objective.space} space), and none a better one.",
        f"The scaled gradient there is {c.gradient_norm:.1e} of the objective; the condition number {c.condition:.2g}.",
        f"{numbers.plural(c.distinct_points, 'distinct run')} determine {numbers.plural(c.parameters, 'parameter')} "
        f"({c.points_per_parameter:.1f} each): {flat}; {bounds}.",
    ]
    flags = [paragraph(warning, class_="warning") for warning in c.warnings]
    return join([*flags, element("ul", *(element("li", sentence) for sentence in words))])


# -- the books ------------------------------------------------------------------------------------------------------


def cost(run: RunRecord, pictures: Pictures) -> Section:
    """FLOPs, tokens and seconds by budget and kind of trial."""
    title = "Cost"
    if not len(run.runs):
        return Section("cost", title, absent("No trial has finished."))
    runs = run.runs.assign(device_s=run.runs["wall_s"] * run.runs["devices"].fillna(1))
    groups = [(role, runs[runs["role"] == role]) for role in ("fitted", "held out", "failed")]
    groups = [(role, group) for role, group in groups if len(group)]
    rows = []
    for role, group in groups:
        for budget, part in group.groupby(group["budget"].fillna(0.0)):
            rows.append(_cost(role, numbers.scientific(budget, 2) if budget else numbers.MISSING, part))
    if len(groups) > 1:
        rows += [_cost(f"all {role}", "", group) for role, group in groups]
    rows.append(_cost("total", "", runs))
    devices = sorted({d for d in runs["device"] if d})
    note = (
        f"Devices: {', '.join(devices) or 'not recorded'}. Times are as measured by each run; trials of one stack "
        "share theirs by FLOPs. A failed trial counts what it had spent at its last logged step."
    )
    return Section("cost", title, join([table(rows, {"trials"}, total=True), paragraph(note, class_="note")]))


def _cost(trials: str, budget: str, group: pd.DataFrame) -> dict[str, object]:
    flops, device_s = group["spent_flops"].sum(), group["device_s"].sum()
    return {
        "trials": trials,
        "budget (FLOPs)": budget,
        "runs": len(group),
        "FLOPs": numbers.scientific(flops),
        "tokens": numbers.count(group["spent_tokens"].sum()),
        "wall time": numbers.duration(group["wall_s"].sum()),
        "device time": numbers.duration(device_s),
        "FLOP/s per device": numbers.scientific(flops / device_s, 2) if device_s > 0 else numbers.MISSING,
    }


def failed(run: RunRecord, pictures: Pictures) -> Section:
    """Trials that stopped, with step and reason."""
    title = "Failed trials"
    trials = run.of_role("failed")
    if not len(trials):
        return Section("failed", title, paragraph("None." if len(run.runs) else "No trial has finished."))
    rows = [_failed(row) for row in trials.itertuples()]
    return Section("failed", title, join([table(rows, {"trial", "reason"}), paragraph(f"{RETRY}.", class_="note")]))


def _failed(row: Any) -> dict[str, object]:
    step, reason = failure(row.error if row.status == "failed" else "done, but without a finite loss")
    return {
        "trial": code(row.trial),
        "N": numbers.count(row.params),
        "D planned": numbers.count(row.tokens),
        "FLOPs planned": numbers.scientific(row.flops),
        "seed": row.seed,
        "step": step,
        "reason": element("div", reason, class_="long"),
    }


def reproduce(run: RunRecord, pictures: Pictures) -> Section:
    """Every row with the command that trains it again, and the sweep's own config."""
    parts: list[object] = []
    if len(run.runs):
        rows = [_run(run, row) for row in run.runs.itertuples()]
        hint = "Run a command from the directory that this report was made from. One click on it selects it whole."
        parts += [table(rows, {"trial", "kind", "command"}), paragraph(hint, class_="note")]
    else:
        parts.append(absent("No trial has finished."))
    if run.config:
        settings = json.dumps(run.config, indent=2, sort_keys=True, ensure_ascii=False)
        summary = element("summary", "The sweep's config (config.json)")
        parts.append(element("details", summary, element("pre", settings)))
    return Section("runs", "Every run, and how to repeat it", join(parts))


def _run(run: RunRecord, row: Any) -> dict[str, object]:
    return {
        "trial": code(row.trial),
        "kind": row.role,
        "seed": row.seed,
        "N": numbers.count(row.params),
        "D": numbers.count(row.tokens),
        "FLOPs": numbers.scientific(row.flops),
        "loss": numbers.loss(row.loss),
        "bits/byte": numbers.loss(row.bpb),
        "time": numbers.duration(row.wall_s),
        "command": code(run.command(row.trial)),
    }


ALL = (headline, predictions, isoflops, frontier, surface, residuals, training, parameters, cost, failed, reproduce)
