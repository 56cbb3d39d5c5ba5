"""A study takes policies that exist as they are: each once, by the digest of its weights, and never trains them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import tokenizers
from flax.traverse_util import unflatten_dict

from launch import cli, search
from launch.snapshot import snapshot
from models import counts, transformer
from models.config import ModelConfig
from models.errors import ConfigError
from models.huggingface import export_model
from models.presets import ladder
from models.serialize import to_json
from models.weight import walk
from scaling.data import DataConfig, Source
from scaling.sweep.directory import RunDirectory
from scaling.sweep.trial import Trial
from scaling.tasks import CharTokenizer, task_by_name
from scaling.train.checkpoint import Checkpoints
from scaling.train.config import TrainConfig
from search.existing import existing_policies
from search.saved import check_fitted, write_fitted
from search.study import SearchSweepConfig, StudyConfig

TASK = "modular:modulus=5,operations=2"
STUDY = StudyConfig(
    tasks=(TASK,), strategies=("beam:samples=2,width=1",), problems=5, samples=4, width=4, max_tokens=16, max_steps=3,
    max_rounds=4, rows=8, head_problems=2,
)  # fmt: skip
VOCABULARY = CharTokenizer.of(task_by_name(TASK))


def trial_of(width: int, seed: int = 0) -> Trial:
    data = DataConfig(mixture=(Source(source="task", path=TASK),), tokenizer="characters")
    train = TrainConfig(steps=20, batch_size=2, seq_len=16, seed=seed)
    return Trial(ladder(width, 1, vocab_size=VOCABULARY.vocab_size), data, train).resolved()


def weights(model: ModelConfig, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shapes = {path: weight.shape for path, weight in walk(transformer.weights(model.resolved()))}
    return unflatten_dict({path: rng.normal(0, 0.1, shape).astype(np.float32) for path, shape in shapes.items()})


def write(folder: Path, trial: Trial, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_json(trial)))
    with Checkpoints(folder / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(20, {"params": weights(trial.model, seed)}, {"config": to_json(trial)})
    return folder


def write_ladder(path: Path, trials: list[Trial], status: str = "done") -> Path:
    directory = RunDirectory(path)
    directory.plan(trials, 1, {})
    for trial in trials:
        write(path / "trials" / trial.id, trial)
        size = counts.params(trial.model)
        directory.results.add(dict(trial=trial.id, status=status, seed=0, params=size, flops=1.0, loss=1.0))
    return path


def write_model(folder: Path, joined: bool = True) -> Path:
    """A Hugging Face folder with one token a character; joined: whether its decoder puts no blanks between them."""
    model = ModelConfig(vocab_size=len(VOCABULARY.alphabet) + 2, d_model=8, n_layers=1, n_heads=1, max_seq_len=64)
    export_model(folder, model, weights(model, 7))
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({c: i for i, c in enumerate(["<unk>", "</s>", *VOCABULARY.alphabet])}, "<unk>")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    if joined:
        made.decoder = tokenizers.decoders.Fuse()
    made.add_special_tokens(["<unk>", "</s>"])
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    return folder


def files(path: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ladder: two sizes; lone: another seed of the smaller one; model: a Hugging Face folder."""
    path = tmp_path_factory.mktemp("policies")
    write_ladder(path / "ladder", [trial_of(16), trial_of(8)])
    write(path / "lone", trial_of(8, seed=1), seed=1)
    write_model(path / "model")
    return path


class Drawn:
    """Stands for `search.study.Study`: samples and searches of no model, and which weights were asked for."""

    asked: ClassVar[list[str]] = []
    share = 0.5  # of the samples, that are right

    def __init__(self, policy: Any, config: StudyConfig, progress: Any):
        self.asked.append(policy.digest)
        self.right = np.random.default_rng(len(policy.source)).random((config.problems, config.samples)) < self.share

    def samples(self, keep: Path | None = None, count: int | None = None, first: Any = None) -> pd.DataFrame:
        problem, sample = np.indices(self.right.shape).reshape(2, -1)
        right = self.right.ravel().astype(float)
        answers = [str(int(value)) for value in right]
        return pd.DataFrame(dict(task=TASK, problem=problem, sample=sample, correct=right, score=0.5, answer=answers,
                                 generated_tokens=3, flops=10.0))  # fmt: skip

    def keep_verifier(self, file: Path, facts: dict[str, str]) -> None:
        write_fitted(file, facts, np.zeros(1))

    def read_verifier(self, file: Path, facts: dict[str, str]) -> None:
        check_fitted(file, facts)

    def search(self, strategy: str, keep: Path) -> pd.DataFrame:
        problems = np.arange(len(self.right))
        right = self.right[:, 0].astype(float)
        return pd.DataFrame(
            dict(task=TASK, problem=problems, strategy="beam", size=strategy, correct=right, flops=20.0)
        )


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No model is asked and no picture drawn; the digests of the policies that were to be searched."""
    monkeypatch.setattr("search.study.Study", Drawn)
    monkeypatch.setattr("launch.report.write_report", lambda path: path)
    monkeypatch.setattr(Drawn, "asked", [])
    return Drawn.asked


def test_one_ladder_serves_two_studies_and_stays_as_it_is(here: Path, tmp_path: Path, drawn: list[str]) -> None:
    """Named as a whole and once more by a trial, beside another seed of one size and a model of others."""
    ladder_, small = here / "ladder", trial_of(8)
    before = files(here)
    given = (str(ladder_), str(ladder_ / "trials" / small.id), str(here / "lone"), str(here / "model"))
    config = SearchSweepConfig(policies=None, existing=given, study=STUDY, budgets=2)
    tables = []
    for name in ("first", "second"):
        assert search.run_study(config, tmp_path / name) == 0
        tables.append((tmp_path / name / "table.csv").read_bytes())
    assert files(here) == before and tables[0] == tables[1]
    found = {policy.name: policy for policy in existing_policies(given, (TASK,))}
    assert sorted(drawn) == sorted([policy.checkpoint for policy in found.values()] * 2) and len(found) == 4
    table = pd.read_csv(tmp_path / "first" / "table.csv", dtype={"policy": str})
    assert set(table["policy"]) == set(found) and table["params"].nunique() == 3
    said = (tmp_path / "first" / "findings.md").read_text()
    assert f"parameters ({small.id}) |" in said and f"parameters ({trial_of(8, seed=1).id}) |" in said
    manifest = json.loads((tmp_path / "first" / "policies.json").read_text())
    for name, policy in found.items():
        written = manifest[name]
        assert (written["config"], written["checkpoint"]) == (policy.config, policy.checkpoint)
    seen = snapshot(tmp_path / "first")
    assert seen.finished and seen.work == seen.done == 4 * 2
    assert search.run_study(config, tmp_path / "first") == 0 and len(drawn) == 8  # nothing is searched again


@pytest.mark.usefixtures("drawn")
def test_a_policy_that_changed_is_refused_by_name(here: Path, tmp_path: Path) -> None:
    lone, trial = tmp_path / "lone", trial_of(8, seed=1)
    shutil.copytree(here / "lone", lone)
    config = SearchSweepConfig(policies=None, existing=(str(lone),), study=STUDY, budgets=2)
    assert search.run_study(config, tmp_path / "study") == 0
    moved = dataclasses.replace(config, existing=(str(lone.rename(tmp_path / "moved")),))
    assert search.run_study(moved, tmp_path / "study") == 0  # what it is counts, not where it lies
    (described,) = existing_policies(moved.existing, (TASK,))
    shutil.rmtree(tmp_path / "moved")
    write(tmp_path / "moved", trial, seed=2)
    message = rf"policy {trial.id} changed since this study began \(its checkpoint was {described.checkpoint[:12]}, now"
    for act in (search.run_study, search.rehearse):
        with pytest.raises(ConfigError, match=message):
            act(moved, tmp_path / "study")
    with pytest.raises(ConfigError, match=message):
        described.load()  # between the check and the search
    with pytest.raises(ConfigError, match=rf"existing: .* hold two checkpoints of one policy, {trial.id}"):
        existing_policies((str(here / "lone"), str(tmp_path / "moved")), (TASK,))


def test_what_cannot_be_searched_is_one_line(here: Path, tmp_path: Path) -> None:
    study = tmp_path / "unfinished"
    RunDirectory(study).plan([trial_of(8), trial_of(16)], 1, {})
    failed = write_ladder(tmp_path / "failed", [trial_of(8)], status="failed")
    spaced = write_model(tmp_path / "spaced", joined=False)
    (tmp_path / "empty").mkdir()
    for entry, tasks, problem in (
        (here / "laddr", (TASK,), r"existing: .*laddr is no directory: did you mean .*ladder\?"),
        (study, (TASK,), r"existing: .* is not finished \(0 of 2 trials\): run its command again"),
        (failed, (TASK,), "existing: all 1 trials of .* failed"),
        (tmp_path / "empty", (TASK,), "existing: .* has no config.json"),
        (here / "lone", ("countdown",), r"tasks: .*lone does not know the characters of 'countdown' \("),
        (here / "model", ("countdown",), r"tasks: .*model does not know the characters of 'countdown' \("),
        (spaced, (TASK,), "tasks: .*spaced does not give back the texts of 'modular"),
    ):
        with pytest.raises(ConfigError, match=problem):
            existing_policies((str(entry),), tasks)
    with pytest.raises(ConfigError, match="policies: is none, and none exist"):
        SearchSweepConfig(policies=None)


def test_the_command_line_says_which_exist_and_which_will_be_trained(
    here: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("launch.sweep.rehearse", lambda config, path, where: print("what it costs") or 0)
    new, config = trial_of(24), tmp_path / "study.py"
    config.write_text(
        "from scaling.sweep.config import SweepConfig\nfrom search.study import SearchSweepConfig\n"
        "from tests.launch.test_study_policies import STUDY, trial_of\n\n\ndef config():\n"
        "    t = trial_of(24)\n"
        "    return SearchSweepConfig(policies=SweepConfig(model=t.model, data=t.data, train=t.train), study=STUDY)\n"
    )

    def run(*arguments: str) -> tuple[int, str, str]:
        line = [f"--config={config}", f"--workdir={tmp_path / 'run'}", *arguments]
        code = cli.execute(search.main, search.FLAGS, search.__doc__, line, search.kinds)
        said = capsys.readouterr()
        return code, said.out, said.err

    ladder_ = here / "ladder"
    code, out, _ = run("--dry_run", f"--config.existing={ladder_},{here / 'model'}")
    lines = out.splitlines()
    assert code == 0 and [line.split()[0] for line in lines[:4]] == ["exists", "exists", "exists", "to"]
    assert [trial_of(16).id in lines[0], trial_of(8).id in lines[1], new.id in lines[3]] == [True] * 3
    assert lines[4:] == ["what it costs"] and not (tmp_path / "run").exists()
    code, out, _ = run("--dry_run", "--config.policies=none", f'--config.existing=["{ladder_}"]')
    assert code == 0 and len(out.splitlines()) == 2
    write(tmp_path / "again", new)
    code, _, err = run(f"--config.existing={tmp_path / 'again'}")
    assert code == 2 and err.count("\n") == 1 and f"has policy {new.id}, which policies would train again" in err


def test_a_policy_that_is_never_right_gives_a_table_too(here: Path, tmp_path: Path, drawn, monkeypatch) -> None:
    monkeypatch.setattr(Drawn, "share", 0.0)
    config = SearchSweepConfig(policies=None, existing=(str(here / "lone"),), study=STUDY, budgets=2)
    assert search.run_study(config, tmp_path / "study") == 0 and len(drawn) == 1
    assert (pd.read_csv(tmp_path / "study" / "table.csv")["accuracy"] == 0).all()


@pytest.mark.slow
def test_a_model_of_others_is_searched_with_its_own_tokens(here: Path, tmp_path: Path) -> None:
    """On a task that mixes difficulties: every row says its problem's."""
    mixed = "modular:modulus=5,operations=1/2"
    config = SearchSweepConfig(
        policies=None, existing=(str(here / "model"),), study=dataclasses.replace(STUDY, tasks=(mixed,)), budgets=2
    )
    assert search.run_study(config, tmp_path / "study") == 0
    rows = pd.read_parquet(tmp_path / "study" / "results.parquet")
    assert rows["policy"].nunique() == 1 and (rows["flops"] > 0).all()
    task = task_by_name(mixed)
    levels = [task.level(problem) for problem in task.generate(0, 5, "test")]
    assert set(levels) == {1.0, 2.0} and rows["level"].tolist() == [levels[problem] for problem in rows["problem"]]
    assert mixed in (tmp_path / "study" / "report.html").read_text()
