"""train.evaluations: columns by step are what launch.evaluate finds, in a stack and after any stop."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from launch.estimate import _measured
from launch.measuring import measuring
from launch.preflight import bytes_needed, check_trials
from launch.snapshot import _trial
from models import counts
from models.errors import ConfigError
from models.presets import ladder
from scaling.data import DataConfig
from scaling.report.record import read
from scaling.report.sweep_sections import evaluations
from scaling.sweep.directory import RunDirectory
from scaling.sweep.results import Results
from scaling.sweep.run import run_stack
from scaling.sweep.trial import Trial
from scaling.tasks import CharTokenizer, task_by_name
from scaling.train.config import TrainConfig
from scaling.train.evaluations import Evaluations
from scaling.train.loop import Interrupted
from tests.launch.test_evaluate import run as evaluate
from tests.scaling.sweep import tiny

SUITES = ("choice.copy:items=4", "cloze.copy:items=3")
SHORT = {"steps": 6, "checkpoint_every": 3, "log_every": 10, "batch_size": 2, "seq_len": 16, "eval_sequences": 2}


def trials(root: Path, *suites: str, **more: Any) -> list[Trial]:
    """Two trials of one shape that copy, measured every other step."""
    data = DataConfig(
        source="task", path="copy:examples=40", tokenizer="characters", cache_dir=str(root / "cache"),
        heldout_fraction=0.2,
    )  # fmt: skip
    model = ladder(8, 1, vocab_size=CharTokenizer.of(task_by_name("copy")).vocab_size)
    wanted = Evaluations(suites, **{"every": 2, "keep": True} | more)
    return [
        Trial(model, data, TrainConfig(seed=seed, evaluations=wanted, **SHORT)).resolved()
        for seed in (0, 1)  # type: ignore[arg-type]
    ]


def test_columns_by_step_are_what_the_command_finds_whatever_stopped_the_stack(tmp_path: Path) -> None:
    pair = trials(tmp_path, *SUITES)
    whole, train = tmp_path / "whole", partial(tiny.run, trials=pair, measuring=measuring)
    train(whole)
    expected = tiny.outcome(whole, pair)
    for one in pair:
        folder, row = whole / "trials" / one.id, expected["rows"][one.id]
        out = tmp_path / one.id
        assert evaluate(folder, out, "--steps=all", tasks=",".join(SUITES)) == 0
        table = pd.read_csv(out / "summary.csv").set_index(["step", "task", "metric"])["value"]
        assert set(table.index.get_level_values("step")) == {2, 4, 6}
        found = {name: value for name, value in row.items() if "/" in name}
        assert len(found) == 3 * 7  # choice: 4 metrics; cloze: 3
        for name, value in found.items():
            suite, _, rest = name.partition("/")
            metric, _, step = rest.partition("@")
            assert value == table[int(step or 6), suite, metric], name
        spent = pd.read_parquet(out / "items.parquet")["flops"].sum()
        assert row["evaluation_flops"] == spent and row["flops"] == float(one.flops)
        lines = [line for line in tiny.metrics(whole, one) if "evaluation_flops" in line]
        assert [line["step"] for line in lines] == [2, 4, 6]
        assert all(line[f"{SUITES[0]}/accuracy"] == table[line["step"], SUITES[0], "accuracy"] for line in lines)
    # a reader sees them, too
    shown = _trial(RunDirectory(whole), pair[0], False, {"seed": "0"}).varied
    first = expected["rows"][pair[0].id]
    assert shown == {"seed": "0"} | {suite: f"{first[f'{suite}/accuracy']:.3f}" for suite in SUITES}
    Results(whole).write()
    section = evaluations(read(whole))
    assert section is not None
    line = ["", *(f"{first[f'{SUITES[0]}/brier{at}']:.3f}" for at in ("@2", "@4", "")), ""]
    assert "</td><td>".join(line)[5:-4] in str(section.body) and "<th>step 4</th><th>end</th>" in str(section.body)
    stop = iter([False, True, True])  # after step 3 and, in the second process, after step 4
    for _ in range(2):
        with pytest.raises(Interrupted):
            train(tmp_path / "stopped", stop_requested=lambda: next(stop))
    train(tmp_path / "stopped")
    assert tiny.outcome(tmp_path / "stopped", pair) == expected


@pytest.mark.slow
def test_generated_answers_are_the_commands_and_their_flops_are_counted(tmp_path: Path) -> None:
    suite = "generate.copy:items=4"
    (one, _) = trials(tmp_path, suite, max_tokens=8)
    row = tiny.run(tmp_path / "run", [one], measuring=measuring)[one.id]
    folder = tmp_path / "run" / "trials" / one.id
    assert evaluate(folder, tmp_path / "out", "--steps=all", "--max_tokens=8", tasks=suite) == 0
    table = pd.read_csv(tmp_path / "out" / "summary.csv").set_index(["step", "metric"])["value"]
    names = {2: f"{suite}/accuracy@2", 4: f"{suite}/accuracy@4", 6: f"{suite}/accuracy"}
    assert {step: row[name] for step, name in names.items()} == {step: table[step, "accuracy"] for step in names}
    read = pd.read_parquet(tmp_path / "out" / "items.parquet")["flops"].sum()  # contexts alone
    assert row["evaluation_flops"] > read


@pytest.mark.parametrize(
    ("suites", "words"),
    [
        (("choise.copy",), "train.evaluations.suites: 'choise.copy' is no suite: did you mean choice.copy?"),
        (("choice.copi",), "train.evaluations.suites: 'copi' is no task: did you mean 'copy'?"),
        (("choice.modular:items=2",), "is no character of"),
        (("missing.jsonl",), "missing.jsonl: no such file"),
    ],
)
def test_unknown_suites_are_named_before_a_trial_begins(tmp_path: Path, suites: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_trials(trials(tmp_path, *suites))
    assert words in str(caught.value)


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train.evaluations.keep: is set, but every is 0"):
        Evaluations(SUITES, keep=True)
    with pytest.raises(ConfigError, match=r"train.evaluations.suites: names \['a'\] twice"):
        Evaluations(("a", "a"))
    with pytest.raises(ConfigError, match=r"are measured by nobody here"):
        run_stack(tiny.one_stack(trials(tmp_path, *SUITES)), tmp_path / "run", "tiny")


def test_evaluations_make_another_trial_and_what_they_keep_takes_room(tmp_path: Path) -> None:
    one, _ = trials(tmp_path, *SUITES)
    plain = dataclasses.replace(one, train=dataclasses.replace(one.train, evaluations=Evaluations()))
    assert one.id != plain.id and one.flops == plain.flops
    assert (_measured(one), _measured(plain)) == (3, 0)
    assert bytes_needed([one], 1) - bytes_needed([plain], 1) == 3 * counts.param_bytes(one.model)
