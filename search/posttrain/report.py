"""The table and the report of a directory of post-training runs: accuracy against all the FLOPs that it took."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from models.errors import require
from scaling import tables
from scaling.kept import write_atomically
from scaling.report import Part, numbers, total_compute
from scaling.report.figures import Drawing, Picture
from scaling.report.html import Section, code, element, join, paragraph, picture, table
from scaling.sweep.results import Results
from scaling.train.metrics import read_rows

NAME = "accuracy.parquet"
FIGURE = "total_compute"


def is_posttraining(directory: Path) -> bool:
    """Whether post-training runs were made in this directory."""
    return any(directory.glob("trials/*/posttrain.json"))


def accuracy_table(directory: Path) -> pd.DataFrame:
    """One row for each measurement of a finished run and number k of samples that vote.

    Columns: trial, policy, params, stage, step, samples, accuracy, low, high; and in FLOPs pretrain, posttrain (with
    rollouts and reference passes), inference (of the problems that are served), total, their sum.
    """
    rows: list[dict[str, Any]] = []
    for trial in Results(directory).frame().to_dict("records"):
        path = directory / "trials" / trial["trial"]
        served = json.loads(trial["config"])["measure"]["served"]
        for _, row in read_rows(path / "metrics.jsonl"):
            for k in sorted(int(name.removeprefix("vote@")) for name in row if name.removeprefix("vote@").isdigit()):
                spent = {
                    "pretrain": trial["pretrain_flops"], "posttrain": row["flops"],
                    "inference": row[f"inference@{k}"] * served,
                }  # fmt: skip
                rows.append({
                    "trial": trial["trial"], "policy": trial["policy"], "params": trial["params"], "step": row["step"],
                    "stage": "post-trained" if row["step"] else "pre-trained", "samples": k,
                    "accuracy": row[f"vote@{k}"], "low": row[f"vote@{k}_low"], "high": row[f"vote@{k}_high"],
                    **spent, "total": sum(spent.values()),
                })  # fmt: skip
    found = pd.DataFrame(rows)
    require(len(found) > 0, str(directory), "has no finished post-training run", "run launch.posttrain again")
    return found.sort_values(["total", "params", "samples", "trial"], kind="stable", ignore_index=True)


def write_table(directory: Path) -> pd.DataFrame:
    """Write results.parquet and accuracy.parquet; the latter is returned."""
    Results(directory).write()
    found = accuracy_table(directory)
    write_atomically(directory / NAME, tables.parquet(found))
    return found


def posttraining_part(directory: Path) -> Part:
    """The runs in this directory as a report; ConfigError when none has ended."""
    found, runs = write_table(directory), Results(directory).frame()
    size = total_compute.SIZE
    drawing = Drawing(FIGURE, total_compute.ALT, size, lambda figure: total_compute.plot(found, figure.subplots()))
    files = (directory / NAME, Path(__file__))
    return Part(files, {FIGURE: drawing}, lambda pictures: sections(found, runs, pictures))


def sections(found: pd.DataFrame, runs: pd.DataFrame, pictures: Mapping[str, Picture]) -> list[Section]:
    """The figure, the frontier in numbers, and every run's ledger."""
    served = json.loads(runs["config"].iloc[0])["measure"]["served"]
    caption = (
        f"Every point is a policy, before or after it practised, whose answer is the majority of k samples. Total: "
        f"pre-training, post-training with its rollouts, and the inference of {served:,} problems. Line: the best "
        "accuracy that the measured points reach for so many FLOPs. Bars: 90 % intervals over problems."
    )
    best = total_compute.frontier(found)
    points: list[dict[str, object]] = [
        {"total FLOPs": numbers.scientific(r.total), "accuracy": _interval(r.accuracy, r.low, r.high),
         "parameters": numbers.count(r.params), "stage": r.stage, "update": f"{r.step:,}", "samples": r.samples,
         "pre-training": numbers.scientific(r.pretrain), "post-training": numbers.scientific(r.posttrain),
         "inference": numbers.scientific(r.inference)}
        for r in best.itertuples()
    ]  # fmt: skip
    ledger: list[dict[str, object]] = [
        {"trial": code(r.trial), "parameters": numbers.count(r.params), "before": f"{100 * r.accuracy_before:.1f} %",
         "after": _interval(r.accuracy, r.accuracy_low, r.accuracy_high),
         f"pass@{r.coverage_samples}": f"{100 * r.coverage_before:.1f} to {100 * r.coverage:.1f} %",
         "pre-training": numbers.scientific(r.pretrain_flops), "rollouts": numbers.scientific(r.rollout_flops),
         "reference": numbers.scientific(r.reference_flops), "updates": numbers.scientific(r.update_flops),
         "largest gap": f"{r.sampler_gap:.1e} nats" if r.sampler_gap == r.sampler_gap else numbers.MISSING,
         "policy": element("div", r.policy, class_="long")}
        for r in runs.itertuples()
    ]  # fmt: skip
    note = paragraph(
        "Gap: mean absolute difference of a token's log-probability between sampler and trainer, of the worst update.",
        class_="note",
    )
    return [
        Section("total", "Accuracy against total compute", join([picture(pictures[FIGURE], caption)])),
        Section("best", "The frontier", table(points, {"stage"})),
        Section("runs", "Every run and its ledger in FLOPs", join([table(ledger, {"trial", "policy"}), note])),
    ]


def _interval(mean: float, low: float, high: float) -> str:
    return f"{100 * mean:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
