"""What a study of test-time compute adds to the report of a run directory."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from models.errors import ConfigError, require
from scaling import kept
from scaling.report import Part, numbers
from scaling.report.claim import VERDICTS
from scaling.report.figures import Picture
from scaling.report.html import Html, Section, badge, code, element, join, paragraph, picture, table
from search import plots
from search.comparisons import COMPARED
from search.findings import Direction, Findings, from_json
from search.foretold import JUDGED, said_of

FILES = ("table.csv", "findings.json")
APART = "verifier.csv"  # what the scores tell apart, by policy and task
NUMBERS = ("params", "budget", "accuracy", "low", "high")
PREDICTED = ("params", "predicted", "low", "high", "measured", "score")
AGAIN = "run the study's command again: it is made anew"


def is_study(directory: Path) -> bool:
    """Whether a study was started in this directory."""
    return (directory / "study.json").is_file()


def study_part(directory: Path) -> Part:
    """The study in this directory as a part of a report; ConfigError when it has not ended."""
    files = tuple(directory / name for name in FILES)
    for file in files:
        if not file.is_file():
            fix = f"run python -m launch.search --workdir {directory} with its config again: it goes on"
            raise ConfigError(str(directory), f"has no {file.name} yet", fix)
    rows = _read_table(files[0])
    findings = from_json(kept.read_bytes(files[1]), rows)
    drawings, judged = plots.drawings(rows), directory / JUDGED
    foretold = _read_judged(judged) if judged.is_file() else None
    if foretold is not None:
        drawings |= {"foretold": plots.foretold(foretold)}
        files = (*files, judged)
    pairs = directory / COMPARED
    compared = _read_compared(pairs) if pairs.is_file() else None
    if compared is not None:
        drawings |= {"comparisons": plots.comparisons(compared)}
        files = (*files, pairs)
    apart = _read_csv(directory / APART) if (directory / APART).is_file() else None
    if apart is not None:
        files = (*files, directory / APART)
    made_of = (*files, Path(__file__), Path(plots.__file__))
    return Part(made_of, drawings, lambda pictures: _sections(findings, foretold, apart, compared, pictures))


def _read_judged(file: Path) -> pd.DataFrame | None:
    """foretold.csv, None without a prediction; ConfigError when it is not as a study writes it."""
    rows = _read_columns(file, PREDICTED, {"what", "policy", "task", "at", "given", "inside"})
    return rows if len(rows) else None


def _read_compared(file: Path) -> pd.DataFrame | None:
    """comparisons.csv, None without a pair; ConfigError when it is not as a study writes it."""
    rows = _read_columns(file, ("params", "difference", "low", "high"), {"first", "second", "policy", "task"})
    return rows if len(rows) else None


def _read_columns(file: Path, counted: Sequence[str], words: set[str]) -> pd.DataFrame:
    """A table with these columns, the `counted` ones numeric; ConfigError for another."""
    rows = _read_csv(file)
    numeric = {name for name in counted if name in rows and pd.api.types.is_numeric_dtype(rows[name])}
    missing = sorted((words - set(rows.columns)) | (set(counted) - numeric))
    require(not missing, str(file), f"is damaged (its {missing and missing[0]} is missing or no number)", AGAIN)
    return rows


def _read_csv(file: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(io.BytesIO(kept.read_bytes(file, AGAIN)))
    except (ValueError, OverflowError) as error:
        raise ConfigError(str(file), f"is damaged ({str(error).splitlines()[0]})", AGAIN) from None


def _read_table(file: Path) -> pd.DataFrame:
    """table.csv; ConfigError when it is not as a study writes it."""
    return _read_columns(file, NUMBERS, {"policy", "task", "strategy"})


def _sections(
    findings: Findings, foretold: pd.DataFrame | None, apart: pd.DataFrame | None, compared: pd.DataFrame | None,
    pictures: Mapping[str, Picture],
) -> list[Section]:  # fmt: skip
    rows = findings.table
    tasks = list(dict.fromkeys(rows["task"]))
    policies = paragraph(
        f"{numbers.plural(rows['policy'].nunique(), 'policy', 'policies')}, {numbers.plural(len(tasks), 'task')}, "
        f"{numbers.plural(rows['strategy'].nunique(), 'strategy', 'strategies')}, "
        f"{numbers.plural(rows['budget'].nunique(), 'budget')} from {numbers.scientific(rows['budget'].min(), 2)} to "
        f"{numbers.scientific(rows['budget'].max(), 2)} FLOPs per problem, what a search threw away included."
    )
    caption = (
        "Solid: the best strategy of each policy at each budget, with its interval over problems. Dashed: coverage, "
        "which a verifier that never errs would reach."
    )
    each = [
        join([element("h3", task), picture(pictures[f"strategies-{i}"], "One panel per policy."), _best(rows, task)])
        for i, task in enumerate(tasks, 1)
    ]
    first = join([policies, picture(pictures["policies"], caption), _apart(apart)])
    return [
        Section("test-time", "Test-time compute", first),
        Section("strategies", "Strategies at equal FLOPs", join(each)),
        *([] if compared is None else [Section("compared", "Compared", _compared(compared, pictures["comparisons"]))]),
        *([] if foretold is None else [Section("foretold", "Foretold", _foretold(foretold, pictures["foretold"]))]),
        Section("literature", "Against the literature", join(map(_direction, findings.found))),
    ]


def _apart(rows: pd.DataFrame | None) -> Html:
    """How well the scores tell right samples from wrong ones."""
    if rows is None:
        return join([])
    lines = [{str(name): _cell(row[name]) for name in rows if name != "policy"} for _, row in rows.iterrows()]
    said = (
        "Area under the curve between right and wrong samples: over all problems, and within problems, which is what "
        "picking one of a problem's samples needs; 0.5 tells nothing."
    )
    summary = element("summary", "What the scores tell apart")
    return element("details", summary, paragraph(said), table(lines, words=("task",)))


def _foretold(judged: pd.DataFrame, drawn: Picture) -> Html:
    """The predictions of the study: what share of the intervals holds, the figure, and every one."""
    caption = (
        "Written down before the measurement. A vertical bar that crosses the dotted line is an interval that holds."
    )
    shown = ["what", "task", "params", "at", "given", "predicted", "low", "high", "measured", "inside", "score"]
    lines = [{name: _cell(row[name]) for name in shown} for _, row in judged.iterrows()]
    every = element(
        "details", element("summary", "Every prediction"), table(lines, words=("what", "task", "at", "given"))
    )
    score = f"Their interval score, lower being better, is {judged['score'].mean():.3g} on average."
    return join([paragraph(said_of(judged), ". ", score), picture(drawn, caption), every])


def _compared(compared: pd.DataFrame, drawn: Picture) -> Html:
    """The pairs that are most asked about: the figure, and every one by policy and task."""
    caption = (
        "Pairs on the same problems at equal FLOPs. Diamonds: over all policies and tasks, with 90 % intervals over "
        "problems; dots: each policy's mean over tasks."
    )
    lines = [{str(name): _cell(row[name]) for name in compared if name != "policy"} for _, row in compared.iterrows()]
    words = ("first", "second", "task", "first_size", "second_size")
    return join([
        picture(drawn, caption), element("details", element("summary", "Every pair"), table(lines, words=words))
    ])  # fmt: skip


def _best(rows: pd.DataFrame, task: str) -> Html:
    """Which strategy leads at each budget, per policy."""
    mine = rows[(rows["task"] == task) & (rows["strategy"] != "coverage")]
    lines = []
    for budget, group in mine.groupby("budget"):
        best = group.loc[group.groupby("params")["accuracy"].idxmax()]
        line: dict[str, object] = {"FLOPs per problem": numbers.scientific(budget, 2)}
        for params in sorted(rows["params"].unique()):
            found = best[best["params"] == params]
            line[f"{numbers.count(params)} parameters"] = (
                numbers.MISSING if found.empty else f"{found['accuracy'].iloc[0]:.2f} {found['strategy'].iloc[0]}"
            )
        lines.append(line)
    return element(
        "details", element("summary", "The leading strategy at each budget"), table(lines, words=list(lines[0])[1:])
    )


def _direction(direction: Direction) -> Html:
    marked = [code(part) if i % 2 else part for i, part in enumerate(direction.text.split("`"))]
    verdict = direction.finding.verdict
    said = paragraph(*marked, " Here: ", badge(f"{direction.share}: {verdict}", VERDICTS[verdict]), ".")
    parts: list[object] = [element("h3", direction.title), said]
    if not len(direction.seen):
        parts.append(paragraph("This study has no such case.", class_="note"))
    else:
        seen = direction.seen
        words = [name for name in seen if seen[name].dtype == object or str(seen[name].dtype).startswith("str")]
        lines = [{str(name): _cell(row[name]) for name in seen} for _, row in seen.iterrows()]
        parts.append(element("details", element("summary", "The numbers"), table(lines, words=words)))
    return join(parts)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return numbers.MISSING if np.isnan(value) else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, (int, np.integer)) else str(value)
