"""A study of test-time compute from a config to a table, continued where it stopped."""

from __future__ import annotations

import dataclasses
import json
import operator
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from configs.search_quickstart import policies
from launch.distributed import SAVED
from launch.search import run_study
from launch.studying import Cells, cell_facts, help_with, set_aside_if_damaged
from models.errors import ConfigError
from scaling import tables
from scaling.sweep.lease import Presence, read_workers
from scaling.tasks import task_by_name
from search import saved, searcher, study
from search.existing import Existing
from search.policy import load_policy
from search.study import SearchSweepConfig, Study, StudyConfig
from search.verifiers.learned import Kind

TASK = "modular:modulus=5,operations=2"
STUDY = SearchSweepConfig(
    name="test",
    policies=policies((TASK,), (16,), steps=150, examples=2000),
    study=StudyConfig(
        tasks=(TASK,), strategies=("beam:samples=4,width=2",), problems=12, samples=16, width=4, max_tokens=24,
        max_steps=4, max_rounds=6, rows=32, head_problems=16,
    ),
    budgets=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study")
    assert run_study(STUDY, path) == 0
    return path


@pytest.mark.slow
def test_a_study_gives_rows_a_table_and_findings(done: Path) -> None:
    rows = pd.read_parquet(done / "results.parquet")
    assert {"policy", "params", "task", "strategy", "budget", "problem", "correct", "flops"} <= set(rows.columns)
    assert rows["correct"].between(0, 1).all()
    table = pd.read_csv(done / "table.csv")
    assert {"best_of_n", "majority", "coverage"} <= set(table["strategy"])
    assert (table["flops"] <= table["budget"]).all()
    assert "## Against the literature" in (done / "findings.md").read_text()
    drawn = {file.stem for file in (done / "figures").glob("*.png")}
    assert drawn >= {"policies", "strategies-1", "foretold", "training"}
    report = (done / "report.html").read_text()
    assert report.index('id="test-time"') < report.index('id="training"') and TASK in report


@pytest.mark.slow
def test_what_all_samples_show_is_foretold_from_the_first_ones_and_judged(done: Path) -> None:
    (told,) = (done / "cells").glob("*.foretold.json")
    foretold = json.loads(told.read_text())
    assert [row["what"] for row in foretold] == ["coverage", "best_of_n", "majority", "weighted_vote"]
    assert {(row["at"], row["given"]) for row in foretold} == {("16 samples", "4 samples")}
    cell = next((done / "cells").glob("*-samples.parquet"))
    assert told.stat().st_mtime_ns < cell.stat().st_mtime_ns
    judged, samples = pd.read_csv(done / "foretold.csv"), pd.read_parquet(cell)
    solved = samples.groupby("problem")["correct"].max().mean()
    assert judged.set_index("what").loc["coverage", "measured"] == pytest.approx(solved)
    assert not list((done / "cells").glob("*-first.parquet"))  # they are among all samples
    assert 'id="foretold"' in (done / "report.html").read_text()


@pytest.mark.slow
def test_recorded_samples_are_verified_by_the_task(done: Path) -> None:
    samples = pd.read_parquet(next((done / "cells").glob("*-samples.parquet")))
    assert len(samples) == 12 * 16
    exact = [_evaluated(problem.prompt) for problem in task_by_name(TASK).generate(0, 12, "test")]
    right = samples[samples["correct"] == 1]
    assert [int(answer) for answer in right["answer"]] == [exact[i] for i in right["problem"]]
    assert (samples[samples["correct"] == 1]["answer"].notna()).all()


def _evaluated(prompt: str) -> int:
    """The result of `5:3+2*4=`: from left to right, modulo the number before the colon."""
    modulus, _, text = prompt.rstrip("=").partition(":")
    value, *rest = re.split(r"([-+*])", text)
    result = int(value)
    for sign, operand in zip(rest[::2], rest[1::2]):
        result = {"+": operator.add, "-": operator.sub, "*": operator.mul}[sign](result, int(operand)) % int(modulus)
    return result


@pytest.mark.slow
def test_a_finished_study_is_left_as_it_is_and_another_is_refused(done: Path, capsys) -> None:
    before = {file: file.read_bytes() for file in (done / "cells").glob("*[!n]")}
    names = "*-samples.parquet", "*-verifier.safetensors", "*-beam*.parquet"
    (absent,), (fitted,), (cut,) = ((done / "cells").glob(name) for name in names)
    absent.unlink()  # as if it had been killed before this one
    for file in (cut, fitted):
        file.write_bytes(before[file][:-100])
    assert run_study(STUDY, done) == 0
    assert {file: file.read_bytes() for file in before} == before
    said = [line for line in capsys.readouterr().err.splitlines() if " is " in line and "made again" in line]
    assert len(said) == 2 and str(fitted) in said[0] and str(cut) in said[1] and cut.with_suffix(".damaged").exists()
    other = dataclasses.replace(STUDY, study=dataclasses.replace(STUDY.study, problems=13))
    with pytest.raises(ConfigError, match=r"holds another study \(study.problems was 12, now 13\)"):
        run_study(other, done)


@pytest.mark.slow
def test_processes_that_share_a_study_make_the_parts_that_one_makes(done: Path, tmp_path: Path) -> None:
    """Two more of them, for a third one would find nothing ready; and one by hand that comes when all is done."""
    config = dataclasses.replace(STUDY, policies=None, existing=(str(done / "policies"),))
    assert run_study(config, tmp_path / "study", workers=2) == 0
    made, there = ({f.name: f.read_bytes() for f in (at / "cells").iterdir()} for at in (tmp_path / "study", done))
    assert made == {name: content for name, content in there.items() if not name.endswith(".damaged")}
    assert (tmp_path / "study" / "table.csv").read_bytes() == (done / "table.csv").read_bytes()
    workers = {worker.name: worker for worker in read_workers(tmp_path / "study" / ".leases")}
    assert {"launcher", "0", "1"} <= set(workers) and all(worker.ended for worker in workers.values())
    assert help_with(tmp_path / "study", "2", lambda: False) == 0


def test_parts_are_taken_once_and_when_their_needs_are_there(tmp_path: Path) -> None:
    """Two policies: samples of the larger one wait for those of the smaller, by which they are foretold."""
    study = dataclasses.replace(STUDY.study, strategies=("beam:samples=2,width=1", "beam:samples=4,width=2"))
    small, large = (Existing(name, tmp_path, size, "", "") for name, size in (("a", 10), ("b", 20)))
    cells = Cells(dataclasses.replace(STUDY, study=study), tmp_path, (small, large))
    (tmp_path / "cells").mkdir()
    taken: list[tuple[str, str]] = []
    with Presence(tmp_path / ".leases", "0") as one, Presence(tmp_path / ".leases", "1") as other:
        while found := (cells.take(one), cells.take(other)):
            names = [(policy.name, part) for policy, part in filter(None, found)]
            if not names:
                break
            taken.append(tuple(names))  # type: ignore[arg-type]
            for cell in filter(None, found):
                cells.file(*cell).touch()
    first, second = study.strategies
    assert taken == [
        (("a", "verifier"), ("b", "verifier")), (("a", "first"),), (("a", "samples"),), (("a", first), ("b", "first")),
        (("a", second), ("b", "samples")), (("b", first),), (("b", second),),
    ]  # fmt: skip
    assert all(cells.has(*cell) for cell in cells.all())


@pytest.mark.slow
def test_a_process_that_is_asked_to_end_leaves_its_part_to_others(done: Path, tmp_path: Path) -> None:
    path = tmp_path / "study"
    shutil.copytree(done, path, ignore=shutil.ignore_patterns(".leases", "figures"))
    cell = next((path / "cells").glob("*-beam*.parquet"))
    before = cell.read_bytes()
    cell.unlink()
    asked = iter([False] * 4)  # before the part, and after some problems of it
    assert help_with(path, "1", lambda: next(asked, True)) == SAVED and not cell.exists()
    assert help_with(path, "2", lambda: False) == 0 and cell.read_bytes() == before


FRAME = pd.DataFrame({"task": ["a", "b"], "correct": [0.0, 1.0]})


def altered(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[bytes(content).index(np.float64(1.0).tobytes())] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "change",
    [
        altered,
        lambda file: file.write_bytes(file.read_bytes()[:-9]),
        lambda file: FRAME.to_parquet(file),
        lambda file: file.write_bytes(tables.parquet(FRAME, cell_facts(STUDY, "another", "samples"))),
        lambda file: file.write_bytes(tables.parquet(FRAME, cell_facts(STUDY, "policy", "beam"))),
        lambda file: pq.write_table(pq.read_table(file).slice(0, 1), file),
    ],
    ids=["a changed digit", "cut short", "of somebody else", "another policy's", "another part's", "a row dropped"],
)
def test_a_cell_that_is_not_what_was_written_there_is_set_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], object]
) -> None:
    file, facts = tmp_path / "cell.parquet", cell_facts(STUDY, "policy", "samples")
    file.write_bytes(tables.parquet(FRAME, facts))
    set_aside_if_damaged(file, facts)
    assert tables.read(file, facts).to_pandas().equals(FRAME)
    change(file)
    set_aside_if_damaged(file, facts)
    assert not file.exists() and file.with_suffix(".damaged").exists()
    assert f"{file} is " in capsys.readouterr().err


@pytest.mark.parametrize("content", ["null", "[]", "1", "{}", "[" * 100_000, '{"name": 1, "study": {}}'])
def test_a_study_of_another_structure_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(ConfigError, match=r"study\.json: is damaged"):
        run_study(STUDY, tmp_path)


@pytest.mark.slow
def test_a_study_that_was_killed_inside_of_a_search_goes_on_from_there(done: Path, monkeypatch) -> None:
    cell = next((done / "cells").glob("*-beam*.parquet"))
    before = cell.read_bytes()
    cell.unlink()
    written, opened = [], []

    def write(path: Path, *arguments: Any) -> None:
        saved.write(path, *arguments)
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt

    def read(path: Path, *arguments: Any) -> Any:
        opened.append(path)
        return saved.read(path, *arguments)

    monkeypatch.setattr(study, "Keep", lambda path: saved.Keep(path, seconds=0, rounds=1))
    monkeypatch.setattr(searcher, "write", write)
    monkeypatch.setattr(searcher, "read", read)
    with pytest.raises(KeyboardInterrupt):
        run_study(STUDY, done)
    state = cell.with_suffix(".state")
    assert state.exists() and not cell.exists()
    assert run_study(STUDY, done) == 0
    assert cell.read_bytes() == before and opened == [state] and not state.exists()


@pytest.mark.slow
def test_a_policy_of_other_characters_is_refused(done: Path) -> None:
    policy = load_policy(next((done / "policies" / "trials").iterdir()))
    with pytest.raises(ConfigError, match="does not know the characters"):
        Study(policy, dataclasses.replace(STUDY.study, tasks=("countdown",)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["value", "process", "outcome"])
def test_other_verifiers_can_be_trained_for_the_same_policy(done: Path, kind: Kind) -> None:
    """Scores lie in (0, 1); a model of its own reads tokens, which are charged, a value head reads none."""
    (trial,) = (done / "policies" / "trials").iterdir()
    config = dataclasses.replace(STUDY.study, verifier=kind, problems=4, head_problems=8)
    rows = Study(load_policy(trial), config).search("beam:samples=4,width=2")
    assert rows["score"].between(0, 1, inclusive="neither").all()
    assert (rows["verifier_tokens"] > 0).all() == (kind != "value")


def test_bad_studies_are_refused_before_anything_runs(tmp_path: Path) -> None:
    few = dataclasses.replace(STUDY, study=dataclasses.replace(STUDY.study, problems=10**5))
    other = dataclasses.replace(STUDY, study=dataclasses.replace(STUDY.study, tasks=("countdown",)))
    none = dataclasses.replace(STUDY, study=dataclasses.replace(STUDY.study, strategies=()))
    for config, problem in ((few, "study.problems: .*has only"), (other, "study.tasks: 'countdown' has characters"),
                            (none, "study.strategies: is empty")):  # fmt: skip
        with pytest.raises(ConfigError, match=problem):
            run_study(config, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    with pytest.raises(ConfigError, match=r"study.verifier: 'proces' is not one of .*: did you mean process\?"):
        StudyConfig(verifier="proces")  # type: ignore[arg-type]
    for change, message in (
        (dict(tasks=("countdwn",)), "did you mean 'countdown'"),
        (dict(strategies=("baem:samples=4",)), "did you mean 'beam'"),
        (dict(samples=10, width=4), "does not divide the 10 samples"),
        (dict(problems=0), "give a positive"),
    ):
        with pytest.raises(ConfigError, match=message):
            dataclasses.replace(STUDY.study, **change)
