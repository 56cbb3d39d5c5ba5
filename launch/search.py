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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import cli

if TYPE_CHECKING:
    import pandas as pd

    from search.existing import Existing
    from search.foretold import Foretold, Register
    from search.study import SearchSweepConfig, Study

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
    import pandas as pd

    from launch.report import write_report
    from launch.sweep import run_sweep
    from models.serialize import to_json
    from scaling import tables
    from scaling.kept import write_atomically
    from scaling.sweep.directory import RunDirectory
    from search.existing import MANIFEST, describe, finished, hold
    from search.findings import find, scores_section
    from search.foretold import JUDGED, Register, judge, said_of, section
    from search.metrics.verification import told_apart
    from search.report import APART

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
        register = Register(path)
        samples, searches = _search_all(config, path, policies, register)
    rows, table, findings = find(samples, searches, config.budgets, config.budget_factor)
    apart = pd.DataFrame([
        dict(zip(("policy", "params", "task"), key, strict=True)) | told_apart(group)
        for key, group in samples.groupby(["policy", "params", "task"], sort=False)
    ])  # fmt: skip
    write_atomically(path / APART, apart.to_csv(index=False))
    judged = judge(register.all, samples, searches)
    if len(judged):
        write_atomically(path / JUDGED, judged.to_csv(index=False))
    write_atomically(path / "results.parquet", tables.parquet(rows))
    write_atomically(path / "table.csv", table.to_csv(index=False))
    write_atomically(path / "findings.md", findings.markdown([scores_section(apart), section(judged)]))
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


@dataclass(frozen=True)
class Cells:
    """The parts of a study, each in a file of its own."""

    config: SearchSweepConfig
    path: Path

    def file(self, policy: Existing, part: str) -> Path:
        return self.path / "cells" / f"{policy.name}-{_safe(part)}.parquet"

    def has(self, policy: Existing, part: str) -> bool:
        """Whether it has been made; the first samples also when all of them have been."""
        from search.study import FIRST, SAMPLES

        return self.file(policy, part).exists() or (part == FIRST and self.file(policy, SAMPLES).exists())

    def read(self, policy: Existing, part: str) -> pd.DataFrame:
        from scaling import tables

        facts = cell_facts(self.config, policy.name, part)
        return tables.read(self.file(policy, part), facts).to_pandas().assign(policy=policy.name, params=policy.params)

    def write(self, policy: Existing, part: str, made: pd.DataFrame) -> None:
        from scaling import tables
        from scaling.kept import write_atomically

        write_atomically(self.file(policy, part), tables.parquet(made, cell_facts(self.config, policy.name, part)))

    def make(self, study: Study, policy: Existing, part: str) -> None:
        """Search this part, going on where a kill interrupted it."""
        from search.study import FIRST, SAMPLES

        state, wanted = self.file(policy, part).with_suffix(".state"), self.config.study
        if part == FIRST:
            made = study.samples(state, wanted.first)
        elif part == SAMPLES:
            drawn = self.read(policy, FIRST) if self.file(policy, FIRST).exists() else None
            made = study.samples(state, first=None if drawn is None else drawn.drop(columns=["policy", "params"]))
        else:
            made = study.search(part, state)
        self.write(policy, part, made)
        state.unlink(missing_ok=True)
        if part == SAMPLES:
            self.file(policy, FIRST).unlink(missing_ok=True)  # they are among them

    def foretell(self, policies: Sequence[Existing], policy: Existing, part: str) -> list[Foretold]:
        """What the parts that have been made say of this one."""
        import pandas as pd

        from search import foretold
        from search.study import FIRST, SAMPLES

        study = self.config.study
        found = []
        if part == (FIRST if study.first else SAMPLES):
            smaller = [self.read(other, SAMPLES) for other in policies if other.params < policy.params]
            found += foretold.of_sizes(pd.concat(smaller), policy.name, policy.params) if smaller else []
        if part == SAMPLES and self.file(policy, FIRST).exists():
            found += foretold.of_samples(self.read(policy, FIRST), study.samples)
        smaller_sizes = study.smaller(part) if part in study.strategies else ()
        if smaller_sizes:
            searched = pd.concat([self.read(policy, size) for size in smaller_sizes])
            found += foretold.of_budgets(searched, part, smaller_sizes)
        return found


def _search_all(
    config: SearchSweepConfig, path: Path, policies: Sequence[Existing], register: Register
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every policy's samples and searches, each part read where it is already there, else foretold and then made."""
    import pandas as pd

    from launch.progress import StudyDisplay
    from launch.snapshot import SearchPulse
    from search.study import FIRST, SAMPLES, Study

    cells, parts = Cells(config, path), config.study.parts()
    for policy in policies:
        for part in parts:
            set_aside_if_damaged(cells.file(policy, part), cell_facts(config, policy.name, part))
    todo = {(p.name, part): p.params + PER_SEARCH for p in policies for part in parts if not cells.has(p, part)}
    done = sum(cells.has(policy, part) for policy in policies for part in parts if part != FIRST)
    with StudyDisplay(todo) as display, SearchPulse(path, done) as pulse:

        def progress(what: str, done: int, total: int) -> None:
            display.update(done / total)
            pulse.tell(done / total)

        for policy in policies:
            mine = [part for part in parts if (policy.name, part) in todo]
            study = Study(policy.load(), config.study, progress) if mine else None
            for part in mine:
                assert study is not None
                register.add(cells.foretell(policies, policy, part))
                display.start((policy.name, part), f"{part}, policy of {policy.params:,} parameters")
                cells.make(study, policy, part)
                pulse.done += part != FIRST
    samples = [cells.read(policy, SAMPLES) for policy in policies]
    searches = [cells.read(policy, part) for policy in policies for part in config.study.strategies]
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
