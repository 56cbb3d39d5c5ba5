"""Run a study of test-time compute: train a ladder of small policies, search with each, put all at equal FLOPs.

    python -m launch.search --config configs/search_quickstart.py --workdir runs/search

Running it again continues where it stopped; a finished directory is left as it is.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import cli

if TYPE_CHECKING:
    import pandas as pd

    from search.study import SearchSweepConfig

FLAGS = cli.new_flags(config=True)
cli.DEFINE_string("workdir", None, "run directory: made, or continued", flag_values=FLAGS, required=True)


def kinds() -> tuple[type, ...]:
    from search.study import SearchSweepConfig

    return (SearchSweepConfig,)


def main(config: SearchSweepConfig, workdir: str, **_: Any) -> int:
    return run_study(config, Path(workdir))


def run_study(config: SearchSweepConfig, path: Path) -> int:
    """Policies, searches, table and findings in one directory; 0, or 1 when a policy failed to train."""
    from launch.sweep import run_sweep
    from models.serialize import to_json
    from scaling.sweep.results import write_atomically
    from search.findings import find

    path.mkdir(parents=True, exist_ok=True)
    _claim(path / "study.json", to_json(config))
    failed = run_sweep(config.policies, path / "policies")
    samples, searches = _search_all(config, path)
    rows, table, findings = find(samples, searches, config.budgets, config.budget_factor)
    _write(rows, path / "results.parquet")
    write_atomically(path / "table.csv", table.to_csv(index=False))
    text = findings.markdown()
    write_atomically(path / "findings.md", text)
    findings.plot(path / "figures")
    print(text)
    print(f"\n{path / 'table.csv'}: {len(table)} rows; {path / 'results.parquet'}: {len(rows)} rows")
    return failed


def _claim(file: Path, resolved: Any) -> None:
    """Write the resolved study, or refuse a directory that holds another one."""
    import json

    from models.errors import require
    from scaling.sweep.results import write_atomically

    text = json.dumps(resolved, indent=2, sort_keys=True)
    if file.exists():
        same = file.read_text(encoding="utf-8") == text
        require(same, str(file.parent), "holds another study", "give another --workdir")
        return
    write_atomically(file, text)


def _search_all(config: SearchSweepConfig, path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every policy's samples and searches, each part read where it is already there."""
    import pandas as pd

    from scaling.sweep.directory import RunDirectory
    from search.policy import load_policy
    from search.study import Study

    results = RunDirectory(path / "policies").results.frame()
    done = results[results["status"] == "done"].sort_values("params")
    samples: list[pd.DataFrame] = []
    searches: list[pd.DataFrame] = []
    for trial, params in zip(done["trial"], done["params"], strict=True):
        parts = ["samples", *config.study.strategies]
        files = {part: path / "cells" / f"{trial}-{_safe(part)}.parquet" for part in parts}
        study = None
        for part, file in files.items():
            if not file.exists():
                policy = load_policy(path / "policies" / "trials" / trial)
                study = study or Study(policy, config.study, _Printer(f"policy of {params:,} parameters"))
                state = file.with_suffix(".state")  # of a part that a kill may interrupt
                _write(study.samples(state) if part == "samples" else study.search(part, state), file)
                state.unlink(missing_ok=True)
            found = pd.read_parquet(file).assign(policy=trial, params=params)
            (samples if part == "samples" else searches).append(found)
    return pd.concat(samples, ignore_index=True), pd.concat(searches, ignore_index=True)


def _write(table: pd.DataFrame, file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    table.to_parquet(partial)
    os.replace(partial, file)


def _safe(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text)


class _Printer:
    """One line per part of a policy's study, with problems done and an ETA."""

    def __init__(self, title: str):
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TaskID,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )  # fmt: skip

        self._title = title
        self._task = TaskID(0)
        self._shown = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(),
            disable=not os.isatty(2),
        )  # fmt: skip
        self._shown.start()

    def __call__(self, what: str, done: int, total: int) -> None:
        if done == 0:
            self._task = self._shown.add_task(f"{self._title}: {what}", total=total)
        else:
            self._shown.update(self._task, completed=done)


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__, kinds)
