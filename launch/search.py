"""Run a study of test-time compute: train a ladder of small policies, search with each, put all at equal FLOPs.

    python -m launch.search --config configs/search_quickstart.py --workdir runs/search

Running it again continues where it stopped; what is finished is kept, and only the tables are made again. Policies that
exist, such as a ladder that another study trained, are searched as they are:

    ... --config.policies=none --config.existing=runs/search/policies,models/mine

--workers=2 shares the searches between two processes. --dry_run says which policies exist, which will be trained, and
what that would cost.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import cli

if TYPE_CHECKING:
    from launch.progress import StudyDisplay
    from launch.snapshot import SearchPulse
    from launch.studying import Cells
    from search.existing import Existing
    from search.study import SearchSweepConfig

PER_SEARCH = 150_000  # parameters whose work takes as long as what a search costs beside them, on a CPU
FLAGS = cli.new_flags(config=True)
cli.DEFINE_string("workdir", None, "run directory: made, or continued", flag_values=FLAGS, required=True)
words = "processes of this machine that share the searches; more may join: launch.worker --workdir"
cli.DEFINE_integer("workers", 1, words, flag_values=FLAGS)
cli.DEFINE_bool("dry_run", False, "Say which policies exist, what the others would cost, and end.", flag_values=FLAGS)


def kinds() -> tuple[type, ...]:
    from search.study import SearchSweepConfig

    return (SearchSweepConfig,)


def main(config: SearchSweepConfig, workdir: str, dry_run: bool, workers: int) -> int:
    from models.errors import require

    require(workers >= 1, "--workers", f"is {workers}", "give 1 or more")
    return rehearse(config, Path(workdir)) if dry_run else run_study(config, Path(workdir), workers)


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


def run_study(config: SearchSweepConfig, path: Path, workers: int = 1) -> int:
    """Policies, searches, table and findings in one directory; 0, or 1 when a policy failed to train."""
    import pandas as pd

    from launch.report import write_report
    from launch.studying import STUDY, Cells
    from launch.sweep import run_sweep
    from models.serialize import to_json
    from scaling import tables
    from scaling.kept import write_atomically
    from scaling.sweep.directory import RunDirectory
    from search import comparisons, foretold
    from search.comparisons import COMPARED, compare
    from search.existing import MANIFEST, describe, finished, hold, in_order
    from search.findings import find, scores_section
    from search.foretold import JUDGED, judge, said_of
    from search.metrics.verification import told_apart
    from search.report import APART

    config.check()
    given = given_policies(config, path)
    (path / "policies").mkdir(parents=True, exist_ok=True)
    _claim(path / STUDY, to_json(config))
    with RunDirectory(path).locked():
        hold(path / MANIFEST, given)
        failed = run_sweep(config.policies, path / "policies") if config.policies else 0
        trained = finished(RunDirectory(path / "policies")) if config.policies else []
        policies = in_order([*given, *(describe(folder, config.study.tasks) for folder in trained)])
        hold(path / MANIFEST, policies)
        cells = Cells(config, path, policies)
        _search_all(cells, workers)
    samples, searches = cells.tables()
    rows, table, findings = find(samples, searches, config.budgets, config.budget_factor)
    apart = pd.DataFrame([
        dict(zip(("policy", "params", "task"), key, strict=True)) | told_apart(group)
        for key, group in samples.groupby(["policy", "params", "task"], sort=False)
    ])  # fmt: skip
    write_atomically(path / APART, apart.to_csv(index=False))
    judged = judge(cells.foretold(), samples, searches)
    if len(judged):
        write_atomically(path / JUDGED, judged.to_csv(index=False))
    compared = compare(samples, searches)
    if len(compared):
        write_atomically(path / COMPARED, compared.to_csv(index=False))
    write_atomically(path / "results.parquet", tables.parquet(rows))
    write_atomically(path / "table.csv", table.to_csv(index=False))
    sections = [scores_section(apart), comparisons.section(compared), foretold.section(judged)]
    write_atomically(path / "findings.md", findings.markdown(sections))
    write_atomically(path / "findings.json", findings.to_json())
    print(findings.summary())
    print(said_of(judged))
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


class Shown:
    """What a person sees while a study searches, and what `launch.status` reads."""

    def __init__(self, cells: Cells, display: StudyDisplay, pulse: SearchPulse):
        self.cells, self.display, self.pulse = cells, display, pulse
        self.todo = [cell for cell in cells.all() if not cells.has(*cell)]

    def begin(self, policy: Existing | None, part: str) -> None:
        """A part begins here; None: this process waits for the others."""
        made = [(p.name, one) for p, one in self.todo if self.cells.has(p, one)]
        cell = (policy.name, part) if policy else None
        label = f"{part}, policy of {policy.params:,} parameters" if policy else "the last parts, elsewhere"
        self.display.start(cell, label, made)
        self.pulse.done = self.cells.searched()

    def tell(self, fraction: float) -> None:
        """How much of it is done."""
        self.display.update(fraction)
        self.pulse.tell(fraction)


def _search_all(cells: Cells, workers: int) -> None:
    """Make all parts of the study, with so many processes together."""
    from launch import environment
    from launch.progress import StudyDisplay
    from launch.snapshot import SearchPulse
    from launch.studying import helped, share
    from scaling.sweep.directory import RunDirectory

    cells.set_aside_damaged()
    todo = {(p.name, part): p.params + PER_SEARCH for p, part in cells.all() if not cells.has(p, part)}
    if not todo:
        return
    threads = max(1, len(environment.available_cpus()) // workers)
    if workers > 1:
        environment.limit_threads(threads)
    with contextlib.ExitStack() as held:
        presence = held.enter_context(RunDirectory(cells.path).presence("0"))
        held.enter_context(helped(cells.path, workers - 1, threads))
        display = held.enter_context(StudyDisplay(todo))
        pulse = held.enter_context(SearchPulse(cells.path, cells.searched()))
        share(cells, presence, Shown(cells, display, pulse))


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__, kinds)
