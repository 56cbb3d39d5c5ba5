"""Objectives through a whole run: frozen models are loaded, counted and part of what a resumed run must find again."""

from __future__ import annotations

from pathlib import Path

import pytest

from models import counts
from models.config import ModelConfig
from models.errors import ConfigError
from scaling.sweep.run import trial_directory
from scaling.train.metrics import read_rows
from scaling.train.objectives import Coverage, Distillation, NextToken, PolicyGradient
from scaling.train.objectives.frozen import frozen_configs
from tests.scaling.sweep import tiny


@pytest.mark.slow  # two programs of the whole train step are compiled
def test_a_student_learns_from_the_trial_of_another(tmp_path: Path) -> None:
    """The teacher's passes are on the ledger, its divergence is in the rows, and its weights are those on disk."""
    teacher = tiny.trial(tmp_path, model__d_model=16).resolved()
    tiny.run(tmp_path, [teacher])
    folder = str(trial_directory(tmp_path, teacher))
    objective = Distillation(teacher=folder, share=0.5)
    student = tiny.trial(tmp_path, train__objective=objective).resolved()
    plain = tiny.trial(tmp_path, train__objective=NextToken()).resolved()
    assert student.id != plain.id == tiny.trial(tmp_path).resolved().id
    row = tiny.run(tmp_path, [student])[student.id]
    passes = student.train.tokens // student.train.seq_len
    assert row["flops"] == plain.flops + passes * counts.forward_flops(teacher.model, 16)
    rows = [row for _, row in read_rows(trial_directory(tmp_path, student) / "metrics.jsonl")]
    assert rows[-1]["flops"] == row["flops"] and 0 < rows[-1]["divergence"] < rows[0]["divergence"]
    assert frozen_configs(objective, student.model)["teacher"] == teacher.model


def test_what_a_run_cannot_read_is_said_before_it_begins(tmp_path: Path) -> None:
    missing = tiny.trial(tmp_path, train__objective=Distillation(teacher=str(tmp_path / "nothing")))
    with pytest.raises(ConfigError, match=r"train\.objective\.teacher: .*nothing has no config\.json"):
        _ = missing.flops
    with pytest.raises(ConfigError, match=r"train\.objective: \(Coverage\) needs weights .*, which holds tokens"):
        tiny.run(tmp_path, [tiny.trial(tmp_path, train__objective=Coverage()).resolved()])
    with pytest.raises(ConfigError, match=r"needs tokens \[batch, 8, seq \+ 1\] int32 in a batch"):
        tiny.run(tmp_path, [tiny.trial(tmp_path, train__objective=PolicyGradient()).resolved()])
    other = ModelConfig(d_model=8, n_layers=1, n_heads=2, vocab_size=300)
    with pytest.raises(ConfigError, match=r"teacher: has 256 tokens and the trained model 300"):
        Distillation(teacher="x").check(other, {"teacher": tiny.MODEL})
