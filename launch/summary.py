"""The last lines of a sweep: how many trials, where the table and the report are, and whether the prediction held."""

from __future__ import annotations

import json

import pandas as pd

from launch.cli import printable
from models.serialize import to_json
from scaling.sweep.directory import CORRUPT, RETRY, RunDirectory
from scaling.sweep.varied import values, varied

BEST = 3  # trials that are named

def print_summary(directory: RunDirectory) -> int:
    """Print the essence of a run directory; returns 1 when trials failed, else 0."""
    frame = directory.results.frame()
    failed = frame[frame["status"] == "failed"]
    stopped = frame[frame["status"] == "stopped"]
    counted = f"{len(frame) - len(failed) - len(stopped)} trials done, {len(failed)} failed"
    early = f", {len(stopped)} stopped early" if len(stopped) else ""
    _say(f"{counted}{early}: {directory.path / 'results.parquet'}")
    for line in best(directory, frame):
        _say(f"  {line}")
    for _, trial in failed.iterrows():
        _say(f"  failed {trial['trial']}: {trial['error']}")
    if len(failed):
        _say(f"  {RETRY}")
    for line in damaged(directory):
        _say(f"  {line}")
    for prediction in directory.predictions():
        if prediction.get("late"):
            _say(f"{prediction['trial']}, the best shape by the law, was trained before: no run is left to test it")
            continue
        measured = directory.results.get(prediction["trial"])
        if measured is None or measured["loss"] is None:
            _say(f"prediction for {prediction['trial']}: not measured")
            continue
        loss, mean, low, high = measured["loss"], prediction["mean"], prediction["low"], prediction["high"]
        factor = prediction["inputs"]["flops"] / frame.loc[frame["split"] == "fit", "flops"].max()
        verdict = "inside" if low <= loss <= high else "outside"
        _say(
            f"held-out run at {factor:.1f}x the largest fitted compute: predicted {mean:.4f} "
            f"[{low:.4f}, {high:.4f}] nats/token, measured {loss:.4f}: error {mean / loss - 1:+.2%}, "
            f"{verdict} the {prediction['interval']:.0%} interval"
        )
    _say(f"report: {directory.path / 'report.html'}")
    return 1 if len(failed) else 0


def best(directory: RunDirectory, frame: pd.DataFrame) -> list[str]:
    """The best trials with what tells them from the others; nothing where nothing varies, or an isoFLOP plan does."""
    config = directory.config()
    configs = {row.trial: json.loads(row.config) for row in frame.itertuples() if isinstance(row.config, str)}
    fields = varied(to_json(config), list(configs.values()))
    done = frame[frame["status"] == "done"].sort_values("loss", kind="stable")
    if not fields or config.isoflop is not None:
        return []
    lines = []
    for row in done.head(BEST).itertuples():
        about = " ".join(f"{name}={value}" for name, value in values(configs[row.trial], fields).items())
        lines.append(f"loss {row.loss:.4f} {row.trial} {about}")
    return lines


def damaged(directory: RunDirectory) -> list[str]:
    """What is to be said of checkpoints that failed their checks."""
    found = sorted(path.name for path in (directory.path / CORRUPT).glob("*"))
    if not found:
        return []
    where = directory.path / CORRUPT
    return [f"{len(found)} damaged checkpoint(s) were set aside, and their steps trained again: {where}"]


def _say(line: str) -> None:
    print(printable(line))
