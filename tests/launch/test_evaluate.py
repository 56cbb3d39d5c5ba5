"""launch.evaluate: every item exactly once whatever is killed, any checkpoint, and bad input in one line."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from flax.traverse_util import unflatten_dict

from launch import cli, evaluate
from launch.evaluations import Evaluation
from models import transformer
from models.serialize import to_json
from models.weight import walk
from scaling.data import DataConfig
from scaling.evaluate.suites import suite
from scaling.sweep.trial import Trial
from scaling.tasks import CharTokenizer, task_by_name
from scaling.train.checkpoint import Checkpoints
from scaling.train.config import TrainConfig
from tests.launch import commands

TASKS = ("copy", "recall")
SUITES = "choice.copy:items=6,cloze.copy:items=4,trap.recall:items=5"
LINE = '{"prompt": "abc>", "format": "choice", "choices": ["abc.", "acb."], "gold": [0]}\n'


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trial's directory with two checkpoints of random parameters."""
    from models.presets import ladder
    from scaling.data import Source

    path = tmp_path_factory.mktemp("trial")
    vocabulary = CharTokenizer.of(*map(task_by_name, TASKS)).vocab_size
    data = DataConfig(mixture=tuple(Source(source="task", path=task) for task in TASKS), tokenizer="characters")
    config = Trial(ladder(8, 1, vocab_size=vocabulary), data, TrainConfig(steps=20, batch_size=2, seq_len=16))
    (path / "config.json").write_text(json.dumps(to_json(config.resolved())))
    with Checkpoints(path / "checkpoints", keep=5) as checkpoints:
        for step in (10, 20):
            rng = np.random.default_rng(step)
            shapes = {path: weight.shape for path, weight in walk(transformer.weights(config.model.resolved()))}
            params = unflatten_dict({path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()})
            checkpoints.save(step, {"params": params}, {"config": to_json(config.resolved())})
    return path


def run(trial: Path, out: Path, *arguments: object, tasks: str = SUITES) -> int:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        line = [f"--checkpoint={trial}", f"--tasks={tasks}", f"--out={out}", *map(str, arguments)]
        return cli.execute(evaluate.main, evaluate.FLAGS, evaluate.__doc__, line)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_every_item_of_every_step_has_one_row_and_every_mean_an_interval(trial: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert run(trial, out, "--steps=all") == 0
    rows = pd.read_parquet(out / "items.parquet")
    names = SUITES.replace(",cloze", " cloze").replace(",trap", " trap").split()
    expected = [(step, name, item.id) for step in (10, 20) for name in names for item in suite(name)]
    assert list(zip(rows["step"], rows["task"], rows["problem"], strict=True)) == expected
    assert rows["tokens"].tolist() == [step * 32 for step, _, _ in expected] and rows["params"].nunique() == 1
    table = pd.read_csv(out / "summary.csv")
    one = table[(table["step"] == 20) & (table["task"] == names[0]) & (table["metric"] == "accuracy_byte")].iloc[0]
    values = rows[(rows["step"] == 20) & (rows["task"] == names[0])]["correct_byte"].astype(float)
    assert one["value"] == pytest.approx(values.mean()) and one["low"] <= one["value"] <= one["high"]
    shown = capsys.readouterr().out
    assert f"step 20  {names[2]}  accuracy " in shown and "30 items" in shown
    # again: nothing changes
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.is_file()}
    assert run(trial, out, "--steps=20,10") == 0
    assert before == {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.is_file()}
    whole = (out / "items.parquet").read_bytes()
    (out / "items.parquet").write_bytes(whole[:-1])
    assert run(trial, out, "--steps=all") == 2
    assert "items.parquet: is not what the evaluation wrote: restore it" in capsys.readouterr().err


def test_what_a_kill_left_is_measured_again_and_what_was_done_is_not(
    trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet, out = tmp_path / "quiet", tmp_path / "out"
    assert run(trial, quiet) == 0
    measured: list[int] = []

    class Killed(BaseException):
        """As good as a SIGKILL for what is on the disk."""

    def interrupted(evaluation: Evaluation, index: int, *rest: object) -> None:
        measured.append(index)
        if measured == [0, 1]:
            raise Killed
        evaluate_measure(evaluation, index, *rest)

    evaluate_measure = evaluate.measure
    monkeypatch.setattr(evaluate, "measure", interrupted)
    with pytest.raises(Killed):
        run(trial, out)
    assert not (out / "manifest.json").exists() and len(list((out / "cells").glob("*.parquet"))) == 1
    (out / "cells" / "000000.parquet").write_bytes(b"PAR1 cut short")
    assert run(trial, out) == 0
    assert measured == [0, 1, 0, 1, 2]  # the first was damaged, else it would not be there twice
    assert (out / "items.parquet").read_bytes() == (quiet / "items.parquet").read_bytes()
    assert (out / "summary.csv").read_bytes() == (quiet / "summary.csv").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tasks=choise.copy"], "error: --tasks: 'choise.copy' is no suite: did you mean choice.copy?"),
        (["--tasks=choice.copi"], "error: task: 'copi' is no task: did you mean 'copy'?"),
        (["--tasks=missing.jsonl"], "error: missing.jsonl: no such file"),
        (["--steps=15"], "has no step 15: choose from 10, 20"),
        (["--steps=ten"], "error: --steps: is 'ten': give 100,200 or all"),
        (["--chat"], "which has no chat template: leave it out"),
        (["--checkpoint=/nowhere"], "error: --checkpoint: /nowhere is no directory"),
        (["--interval=90"], "error: --interval: 90.0 is not a probability"),
        (["--tasks=choice.modular:items=2"], "':' is no character of"),
    ],
)
def test_bad_input_is_one_line(trial: Path, tmp_path: Path, arguments: list[str], words: str, capsys) -> None:
    assert run(trial, tmp_path / "out", *arguments) == 2
    said = capsys.readouterr().err
    assert words in said and said.startswith("error: ") and said.count("\n") == 1


def test_a_directory_of_another_evaluation_is_refused(trial: Path, tmp_path: Path, capsys) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(LINE)
    out = tmp_path / "out"
    assert run(trial, out, tasks=str(file)) == 0
    assert run(trial, out, tasks="choice.copy:items=6") == 2
    assert "belongs to another evaluation (changed: items)" in capsys.readouterr().err
    file.write_text(LINE.replace("[0]", "[1]"))
    assert run(trial, out, tasks=str(file)) == 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert run(trial, tmp_path / "full", tasks="choice.copy:items=6") == 2
    assert "is not empty (notes.txt) and holds no evaluation" in capsys.readouterr().err


@pytest.mark.slow
def test_greedy_answers_are_the_likeliest_token_again_and_again(trial: Path, tmp_path: Path) -> None:
    """The engine against a loop that takes the likeliest token of the whole text so far."""
    out = tmp_path / "out"
    assert run(trial, out, "--max_tokens=8", tasks="generate.copy:items=20,ordering.copy:order=sorted,items=4") == 0
    rows = pd.read_parquet(out / "items.parquet")
    answers = rows[rows["task"].str.startswith("generate")]["text"]
    from scaling.evaluate.trials import trial_subject

    subject, _ = trial_subject(trial)
    context = subject.reader.question(suite("generate.copy:items=20")[0])[0]
    tokens, made = list(context), []
    for _ in range(8):
        logits = transformer.apply(subject.model, subject.params, np.asarray([tokens], np.int32))[0, -1]
        made.append(int(np.argmax(logits)))
        tokens.append(made[-1])
        if made[-1] == 0:
            break
    vocabulary = CharTokenizer.of(*map(task_by_name, TASKS))
    assert answers.iloc[0] == vocabulary.decode(made)
    assert set(rows[rows["task"].str.startswith("ordering")]["fault"]) <= {"", "parse", "wrong", "permutation"}


@pytest.mark.slow
def test_the_command_runs_in_a_process_of_its_own(trial: Path, tmp_path: Path) -> None:
    done = commands.run("evaluate", f"--checkpoint={trial}", "--tasks=trap.recall:items=4", f"--out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "4 items" in done.stdout
