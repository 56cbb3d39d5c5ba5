"""Which parts a sweep's report has, and those about the sweep itself: its best trials, and its data."""

from __future__ import annotations

import json
import math
from typing import Any

from scaling.data.summary import describe, warnings
from scaling.report import numbers, sections
from scaling.report.html import Section, code, element, join, paragraph, table
from scaling.report.record import RunRecord
from scaling.report.sections import Pictures
from scaling.sweep.varied import values, varied

SHOWN = 50  # trials in the table of the best
MEASURED, STEPS = 100, 8  # lines and steps in the table of evaluations
END = 2**31  # comes after every step


def sections_of(run: RunRecord, pictures: Pictures) -> list[Section]:
    """The parts of a report. A sweep that plans no budgets and predicts nothing has none of what follows from them."""
    empty = () if run.plans_budgets else _empty(run, pictures)
    made = [part(run, pictures) for part in sections.ALL if part not in empty]
    extra = [part for part in (best(run), evaluations(run), data(run)) if part is not None]
    return [*made[:1], *extra, *made[1:]]


def _empty(run: RunRecord, pictures: Pictures) -> tuple[Any, ...]:
    """The parts about budgets, a law and its test that have nothing to show."""
    shown = {
        sections.predictions: bool(len(run.predictions)) or "scaling" in pictures,
        sections.isoflops: "isoflops" in pictures,
        sections.frontier: "frontier" in pictures,
        sections.surface: "surface" in pictures,
        sections.residuals: "residuals" in pictures,
        sections.parameters: run.fit is not None,
    }
    return tuple(part for part, there in shown.items() if not there)


def best(run: RunRecord) -> Section | None:
    """The finished trials with the fields that tell them apart, best first; None where none are told apart."""
    done = run.runs[run.runs["role"] != "failed"].sort_values("loss", kind="stable")
    configs = {row.trial: _config(row.config) for row in run.runs.itertuples()}
    fields = varied(run.config, list(configs.values()))
    if not fields or not len(done):
        return None
    rows: list[dict[str, object]] = []
    for row in done.head(SHOWN).itertuples():
        given = values(configs[row.trial], fields)
        losses = {"loss": numbers.loss(row.loss), "bits/byte": numbers.loss(row.bpb)}
        rows.append({"trial": code(row.trial), **losses, **given})
    more = f" The other {len(done) - SHOWN:,} are in the list of every run." if len(done) > SHOWN else ""
    note = paragraph(f"Held-out loss in nats/token, and the fields that the sweep varies.{more}", class_="note")
    return Section("best", "Trials, best first", join([table(rows, {"trial"}), note]))


def evaluations(run: RunRecord) -> Section | None:
    """What suites said of the trials on the way; None where nobody asked."""
    lines: list[tuple[str, str, str, dict[int, float]]] = []  # trial, suite, metric, values by step
    for row in run.runs.to_dict("records"):
        found: dict[tuple[str, str], dict[int, float]] = {}
        for name, value in row.items():
            suite, slash, rest = str(name).rpartition("/")
            metric, _, step = rest.partition("@")
            if slash and isinstance(value, float) and math.isfinite(value) and (step.isdecimal() or not step):
                found.setdefault((suite, metric), {})[int(step or END)] = value
        lines += [(row["trial"], *key, by_step) for key, by_step in found.items()]
    if not lines:
        return None
    steps = sorted({step for *_, by_step in lines for step in by_step})
    shown = [steps[i * (len(steps) - 1) // (STEPS - 1)] for i in range(STEPS)] if len(steps) > STEPS else steps
    names = {step: "end" if step == END else f"step {step:,}" for step in shown}
    rows: list[dict[str, object]] = []
    for trial, suite, metric, by_step in lines[:MEASURED]:
        numbered = {name: f"{by_step[step]:.3f}" if step in by_step else "" for step, name in names.items()}
        rows.append({"trial": code(trial), "suite": suite, "metric": metric, **numbered})
    more = f" {len(lines) - MEASURED:,} more lines are in results.parquet." if len(lines) > MEASURED else ""
    note = paragraph(f"Means over the items of each suite, during training and at its end.{more}", class_="note")
    return Section("evaluations", "Evaluations", join([table(rows, {"trial", "suite", "metric"}), note]))


def _config(text: Any) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def data(run: RunRecord) -> Section | None:
    """How much text there was, what was left out, and how often it was read; None where nothing was written down."""
    if not run.data:
        return None
    lines = dict.fromkeys(line for record in run.data.values() for line in describe(record))
    epochs = max(float(record.get("epochs", 0.0)) for record in run.data.values())
    worry = dict.fromkeys(w for record in run.data.values() for w in warnings(record, record.get("epochs", 0.0)))
    parts = [paragraph(line, class_="warning") for line in worry]
    parts.append(element("ul", *(element("li", line) for line in lines)))
    parts.append(paragraph(f"The longest trial reads its training text {epochs:.3g} times.", class_="note"))
    return Section("data", "Data", join(parts))
