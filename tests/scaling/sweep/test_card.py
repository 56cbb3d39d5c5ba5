"""Run cards: what a trial took, and an energy estimate that says what it assumes."""

from __future__ import annotations

import json

import pytest

from scaling.sweep.card import card, energy
from scaling.sweep.run import run_stack
from tests.scaling.sweep import tiny


def test_energy_follows_power_devices_and_time_and_says_so() -> None:
    found = energy("NVIDIA H100 80GB HBM3", 8, 1, 3600.0)
    assert found["kwh"] == pytest.approx(0.7 * 8 * 1.1, rel=1e-2)
    assert found["assumed"] == "700 W for each of 8 devices, at full load, times 1.1 for the data centre; not measured"
    assert energy("cpu", 1, 4, 3600.0)["kwh"] == pytest.approx(0.044)
    assert energy("TPU v4", 4, 1, 3600.0)["kwh"] == pytest.approx(0.192 * 4 * 1.1, rel=1e-2)
    assert energy("TPU v5p", 4, 1, 1.0) == {"kwh": None, "assumed": "no power is published for TPU v5p"}


def test_a_card_has_what_a_paper_asks_for() -> None:
    made = card({"a": 1}, device="cpu", devices=2, threads=1, wall_s=3.0, flops=1e9, tokens=100)
    assert (made["wall_s"], made["device_s"], made["flops"], made["tokens"]) == (3.0, 6.0, 1e9, 100)
    assert {"jax", "flax", "numpy", "python"} <= made["versions"].keys() and "commit" in made


@pytest.mark.slow
def test_every_trial_leaves_a_card(tmp_path) -> None:
    trials = [tiny.trial(tmp_path), tiny.trial(tmp_path, train__learning_rate=1e6)]
    run_stack(tiny.one_stack(trials), tmp_path / "run", "tiny")
    for trial in trials:
        made = json.loads((tmp_path / "run" / "trials" / trial.id / "card.json").read_text())
        row = tiny.rows(tmp_path / "run", [trial])[trial.id]
        whole = row["status"] == "done"
        assert made["tokens"] == (trial.train.tokens if whole else made["tokens"]) <= trial.train.tokens
        assert made["flops"] == pytest.approx(trial.flops * made["tokens"] / trial.train.tokens)
        assert made["config"]["model"]["d_model"] == 8 and made["energy"]["kwh"] >= 0
