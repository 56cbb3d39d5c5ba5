"""Registered predictions: coverage and interval score against plain loops, and no prediction after the fact."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from launch import foretold
from launch.gallery import Entry
from launch.workspace import Directory
from models.errors import ConfigError
from scaling import finding, registered
from scaling.finding import Finding
from scaling.registered import Registered
from scaling.reproduction import Measured, Reproduction
from scaling.sweep import heldout
from scaling.sweep.directory import RunDirectory
from scaling.sweep.results import COLUMNS

TOLD = (
    Registered("small", 2.0, 1.8, 2.2, 2.1),
    Registered("wide", 4.0, 2.0, 6.0, 1.5),
    Registered("narrow", 1.0, 0.9, 1.1, 1.3),
)


def winkler(one: Registered) -> float:
    """Gneiting and Raftery 2007, equation 43, by the prediction."""
    miss = 2 / (1 - one.level)
    score = one.high - one.low
    if one.measured < one.low:
        score += miss * (one.low - one.measured)
    if one.measured > one.high:
        score += miss * (one.measured - one.high)
    return score / one.predicted


def test_coverage_width_and_score_of_predictions_are_those_of_a_loop() -> None:
    rows = registered.table(TOLD)
    assert rows["inside"].tolist() == [True, False, False] == [one.inside for one in TOLD]
    assert rows["score"].tolist() == pytest.approx([winkler(one) for one in TOLD])
    row = foretold.of_predictions("all", TOLD)
    assert (row.count, row.held) == (3, 1) and row.width == pytest.approx((0.2 + 1.0 + 0.2) / 3)
    assert row.score == pytest.approx(np.mean([winkler(one) for one in TOLD]))


def test_sums_count_every_prediction_once() -> None:
    rows = [foretold.Row("a", 10, 9.0, 0.1, 0.2), foretold.Row("b", 30, 21.0, 0.3, 0.6)]
    assert foretold.together("both", rows) == foretold.Row("both", 40, 30.0, 0.25, 0.5)
    assert str(foretold.together("both", rows)) == "| both | 40 | 75% | 0.250 | 0.500 |"


def test_the_table_names_what_lies_outside_of_the_range(tmp_path: Path) -> None:
    one = Finding("coin", (), "c", "s", 0.7, (0.6, 0.8), 0.5, "share", predictions=TOLD)
    coin = Reproduction("coin", (), "c", "s", 0.5, "share", 1, "n", True, lambda work: None)  # type: ignore[arg-type,return-value]
    text = foretold.summary([Entry(coin, (one,))])
    assert "| [coin](reproductions.md#coin) | 3 | 33% |" in text and "the gallery: too few to say, 3" in text
    many = foretold.summary([Entry(coin, (replace(one, predictions=TOLD * 7),))])
    assert "- the gallery: too narrow\n- laws on published runs: as they should be\n- all: as they should be" in many
    page = tmp_path / "laws.md"
    page.write_text(
        "<!-- calibration -->\n| runs | cuts | tested on | covered | width | score |\n|---|---|---|---|---|---|\n"
        "| marin | 4 | 200 | 89% / 14% | 0.075 / 0.018 | 0.087 / 0.254 |\n<!-- /calibration -->\n"
    )
    assert foretold.published(page) == [foretold.Row("marin", 200, 178.0, 0.075, 0.087)]


def test_predictions_are_kept_with_the_finding_and_the_measurement(tmp_path: Path) -> None:
    one = Finding("coin", (), "c", "s", 0.7, (0.6, 0.8), 0.5, "share", predictions=TOLD)
    finding.write(tmp_path / "one.json", [one])
    assert finding.read(tmp_path / "one.json") == [one]
    work = Directory("coin", tmp_path, False)
    work.write_measured(Measured(0.7, (0.6, 0.8), 0.0, {}, TOLD))
    again = work.measured()
    assert again is not None and again.predictions == TOLD


@pytest.mark.parametrize("wrong", [(float("nan"), 0, 1, 0.5), (0.5, 1, 0, 0.5)])
def test_a_prediction_that_says_nothing_is_refused(wrong: tuple) -> None:
    with pytest.raises(ConfigError):
        Registered("coin", *wrong)


def test_a_sweep_counts_what_it_foretold_of_runs_that_were_trained_afterwards(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "dense")
    directory.path.mkdir()
    line = {"inputs": {"flops": 2e12}, "mean": 1.5, "low": 1.4, "high": 1.6, "interval": 0.9, "fitted_on": 9}
    rows = {"before": ("done", 1.55), "late": ("done", 1.5), "failed": ("failed", None)}
    told = [line | {"trial": name} | ({"late": True} if name == "late" else {}) for name in (*rows, "waiting")]
    text = "".join(json.dumps(one) + "\n" for one in told)
    (directory.path / "predictions.jsonl").write_text(text)
    for name, (status, loss) in rows.items():
        row = {"trial": name, "status": status, "loss": loss, "seed": 0, "params": 1, "flops": 2e12}
        directory.results.add(dict.fromkeys(COLUMNS) | row)
    assert heldout.registered(directory) == [Registered("dense, 2e+12 FLOPs", 1.5, 1.4, 1.6, 1.55)]


def test_nothing_is_foretold_of_what_is_there(tmp_path: Path) -> None:
    work = Directory("coin", tmp_path, False)
    assert work.foretell("tosses", lambda: 0.5) == 0.5
    assert work.keep("tosses", lambda: 0.7) == 0.7
    assert work.foretell("tosses", lambda: 0.9) == 0.5  # what was said before stays
    work.keep("throws", lambda: 1)
    (tmp_path / "sweeps" / "ladder").mkdir(parents=True)
    for name in ("throws", "ladder"):
        with pytest.raises(ConfigError, match="is there already, so that nothing can be foretold of it"):
            work.foretell(name, lambda: 0.5)
