"""Run cards: what a trial took, and an energy estimate that says what it assumes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from launch import cards as command
from models.errors import ConfigError
from scaling.sweep.card import CARBON, FIELDS, card, completeness, emissions, energy, faults
from scaling.sweep.run import run_stack
from scaling.train import checkpoint
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


def complete() -> dict[str, Any]:
    made = card({"a": 1}, device="cpu", devices=1, threads=2, wall_s=3600.0, flops=1e9, tokens=100, seeds=(3,),
                artifacts={"checkpoint": "ab" * 32})  # fmt: skip
    return made | {"commit": "c0ffee"}


def test_emissions_follow_the_energy_and_say_what_is_assumed() -> None:
    found = emissions(2.0)
    assert found["kg"] == pytest.approx(2 * CARBON) and "kg/kWh" in found["assumed"]
    assert emissions(None)["kg"] is None
    made = complete()
    assert made["device_hours"] == 1.0 and made["co2e"]["kg"] == pytest.approx(0.022 * CARBON, rel=1e-2)


def test_the_linter_passes_a_complete_card_and_names_every_field_that_one_lacks() -> None:
    assert faults(complete()) == []
    for field in FIELDS:
        lacking = {name: value for name, value in complete().items() if name != field}
        assert faults(lacking) == [f"{field} is missing"]
    unknown = complete() | {"energy": {"kwh": None, "assumed": "no power is published for TPU v5p"}}
    assert faults(unknown) == ["energy.kwh is null, not a number"]
    assert faults(complete() | {"seeds": [], "artifacts": {"x": "1"}}) == ["seeds is empty", "artifacts.x is no sha256"]


def test_completeness_is_the_share_of_cards_that_have_a_field() -> None:
    poor = {name: value for name, value in complete().items() if name not in ("co2e", "commit")}
    found = completeness([complete(), complete(), complete(), poor | {"seeds": []}])
    assert (found["co2e"], found["commit"], found["device"], found["all"]) == (0.75, 0.75, 1.0, 0.75)
    with pytest.raises(ConfigError, match="are none"):
        completeness([])


def test_the_command_fails_on_an_incomplete_card_and_names_it(tmp_path, capsys) -> None:
    for name, made in (("a", complete()), ("b", complete() | {"seeds": []})):
        (tmp_path / "trials" / name).mkdir(parents=True)
        (tmp_path / "trials" / name / "card.json").write_text(json.dumps(made))
    assert command.main(str(tmp_path)) == 1
    out = capsys.readouterr().out
    assert f"{tmp_path}/trials/b/card.json: seeds is empty" in out and "2 cards, 50% of them complete" in out
    (tmp_path / "trials" / "b" / "card.json").unlink()
    assert command.main(str(tmp_path)) == 0


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
        folder = tmp_path / "run" / "trials" / trial.id
        assert made["seeds"] == [trial.train.seed] and made["co2e"]["kg"] >= 0
        assert made["artifacts"]["metrics.jsonl"] == hashlib.sha256((folder / "metrics.jsonl").read_bytes()).hexdigest()
        assert whole == ("checkpoint" in made["artifacts"])
        if whole:
            assert made["artifacts"]["checkpoint"] == checkpoint.digest(folder / "checkpoints", trial.train.steps)
