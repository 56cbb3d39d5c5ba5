"""Run a study of test-time compute: train a ladder of small policies, search with each, put all at equal FLOPs.

    python -m launch.search --config configs/search_quickstart.py --workdir runs/search

Running it again continues where it stopped; what is finished is kept, and only the tables are made again. Policies that
exist, such as a ladder that another study trained, are searched as they are:

    ... --config.policies=none --config.existing=runs/search/policies,models/mine

--dry_run says which policies exist, which will be trained, and what that would cost.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import cli

if TYPE_CHECKING:
    import pandas as pd

    from search.existing import Existing
    from search.study import SearchSweepConfig

PER_SEARCH = 150_000  # parameters whose work takes as long as what a search costs beside them, on a CPU
FLAGS = cli.new_flags(config=True)
cli.DEFINE_string("workdir", None, "run directory: made, or continued", flag_values=FLAGS, required=True)
cli.DEFINE_bool("dry_run", False, "Say which policies exist, what the others would cost, and end.", flag_values=FLAGS)


def kinds() -> tuple[type, ...]:
    from search.study import SearchSweepConfig

    return (SearchSweepConfig,)


def main(config: SearchSweepConfig, workdir: str, dry_run: bool) -> int:
    return rehearse(config, Path(workdir)) if dry_run else run_study(config, Path(workdir))


def rehearse(config: SearchSweepConfig, path: Path) -> int:
    """Print which policies exist and which will be trained, and what the training would cost; writes nothing but the
    cache of tokens."""
    from launch import environment, sweep
    from launch.executors.choice import Options
    from models import counts
    from models.errors import printable
    from scaling.sweep.directory import RunDirectory

    config.check()
    for policy in given_policies(config, path):
        print(printable(f"exists        {policy.name}  {policy.params:>13,} parameters  {policy.folder}"))
    if config.policies is None:
        return 0
    trained, results = config.policies.anchored(Path.cwd()), RunDirectory(path / "policies").results
    for trial in trained.trials():
        state = "exists" if results.has(trial.id) else "to be trained"
        print(printable(f"{state:<14}{trial.id}  {counts.params(trial.model):>13,} parameters  {path / 'policies'}"))
    environment.limit_threads(trained.threads)
    return sweep.rehearse(config.policies, path / "policies", Options())


def given_policies(config: SearchSweepConfig, path: Path) -> list[Existing]:
    """The policies that exist before the study, none of which it would train again, nor changed since it began."""
    from models.errors import require
    from search.existing import FIELD, MANIFEST, existing_policies, hold

    found = existing_policies(config.existing, config.study.tasks)
    trained = config.policies.anchored(Path.cwd()).trials() if config.policies else []
    twice = {trial.id for trial in trained} & {policy.name for policy in found}
    problem = f"has policy {min(twice, default='')}, which policies would train again"
    require(not twice, FIELD, problem, "leave it out of one of the two")
    hold(path / MANIFEST, found, write=False)
    return found


def run_study(config: SearchSweepConfig, path: Path) -> int:
    """Policies, searches, table and findings in one directory; 0, or 1 when a policy failed to train."""
    from launch.report import write_report
    from launch.sweep import run_sweep
    from models.serialize import to_json
    from scaling import tables
    from scaling.kept import write_atomically
    from scaling.sweep.directory import RunDirectory
    from search.existing import MANIFEST, describe, finished, hold
    from search.findings import find

    config.check()
    given = given_policies(config, path)
    (path / "policies").mkdir(parents=True, exist_ok=True)
    _claim(path / "study.json", to_json(config))
    with RunDirectory(path).locked():
        hold(path / MANIFEST, given)
        failed = run_sweep(config.policies, path / "policies") if config.policies else 0
        trained = [describe(folder, config.study.tasks) for folder in finished(RunDirectory(path / "policies"))]
        policies = sorted([*given, *trained], key=lambda policy: (policy.params, policy.name))
        hold(path / MANIFEST, policies)
        samples, searches = _search_all(config, path, policies)
    rows, table, findings = find(samples, searches, config.budgets, config.budget_factor)
    write_atomically(path / "results.parquet", tables.parquet(rows))
    write_atomically(path / "table.csv", table.to_csv(index=False))
    write_atomically(path / "findings.md", findings.markdown())
    write_atomically(path / "findings.json", findings.to_json())
    print(findings.summary())
    print(f"\n{path / 'table.csv'}: {len(table)} rows; {path / 'results.parquet'}: {len(rows)} rows")
    print(write_report(path))
    if path.name == "search" and (path.parent / "results.parquet").is_file():  # in the directory of a sweep
        print(write_report(path.parent))
    return failed


def _claim(file: Path, resolved: Any) -> None:
    """Write the resolved study, or refuse a directory that holds another one; of two that start at once, one writes."""
    import json

    from models.errors import require
    from scaling import kept
    from scaling.sweep.directory import differences

    text = json.dumps(resolved, indent=2, sort_keys=True)
    kept.create(file, text)
    before, now = kept.read(file, {"name": str, "study": dict}), json.loads(text)
    for written in (before, now):
        written.pop("existing", None)  # where policies lie; the manifest says which they are
    changed = differences(before, now)
    problem = f"holds another study ({'; '.join(changed[:3])})"
    require(not changed, str(file.parent), problem, "give another --workdir, or what it was started with")


def _search_all(
    config: SearchSweepConfig, path: Path, policies: Sequence[Existing]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every policy's samples and searches, each part read where it is already there."""
    import pandas as pd

    from launch.progress import StudyDisplay
    from launch.snapshot import SearchPulse
    from scaling import tables
    from scaling.kept import write_atomically
    from search.study import Study

    parts = ["samples", *config.study.strategies]
    cells = {
        (policy.name, policy.params, part): path / "cells" / f"{policy.name}-{_safe(part)}.parquet"
        for policy in policies
        for part in parts
    }
    facts = {cell: cell_facts(config, cell[0], cell[2]) for cell in cells}
    for cell, file in cells.items():
        set_aside_if_damaged(file, facts[cell])
    costs = {cell: cell[1] + PER_SEARCH for cell, file in cells.items() if not file.exists()}
    with StudyDisplay(costs) as display, SearchPulse(path, len(cells) - len(costs)) as pulse:

        def progress(what: str, done: int, total: int) -> None:
            display.update(done / total)
            pulse.tell(done / total)

        for policy in policies:
            todo = {cell: file for cell, file in cells.items() if cell[0] == policy.name and not file.exists()}
            if not todo:
                continue
            study = Study(policy.load(), config.study, progress)
            for cell, file in todo.items():
                part = cell[2]
                display.start(cell, f"{part}, policy of {policy.params:,} parameters")
                state = file.with_suffix(".state")  # of a part that a kill may interrupt
                found = study.samples(state) if part == "samples" else study.search(part, state)
                write_atomically(file, tables.parquet(found, facts[cell]))
                state.unlink(missing_ok=True)
                pulse.done += 1
    frames = {
        cell: tables.read(file, facts[cell]).to_pandas().assign(policy=cell[0], params=cell[1])
        for cell, file in cells.items()
    }
    samples = [frame for (_, _, part), frame in frames.items() if part == "samples"]
    searches = [frame for (_, _, part), frame in frames.items() if part != "samples"]
    return pd.concat(samples, ignore_index=True), pd.concat(searches, ignore_index=True)


def cell_facts(config: SearchSweepConfig, trial: str, part: str) -> dict[str, str]:
    """What a cell's file says of itself, so that no other policy's, part's or study's is taken for it."""
    from models.serialize import digest

    return {"study": digest(config.study), "policy": trial, "part": part}


def set_aside_if_damaged(file: Path, facts: dict[str, str]) -> None:
    """Rename a cell that is not what was written there, so that its part is searched again, and say so."""
    import sys

    from models.errors import ConfigError, printable
    from scaling import tables

    if not file.exists():
        return
    try:
        tables.read(file, facts)
    except ConfigError as error:
        os.replace(file, file.with_suffix(".damaged"))
        print(printable(f"{file} {error.problem}: its part is searched again"), file=sys.stderr)


def _safe(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text)


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__, kinds)
