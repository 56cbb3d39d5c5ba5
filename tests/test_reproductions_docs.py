"""docs/reproductions.md is what the kept findings say, and every reproduction resolves, is priced and has a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch import foretold, gallery
from launch.estimate import estimate
from launch.executors.choice import Options
from launch.reproduce import reproduce
from models.serialize import canonical
from scaling.sweep.config import SweepConfig

PAGE = gallery.KEPT.parent / "reproductions.md"
REFRESH = "to write it again: python -m tests.test_reproductions_docs"
GAPS = {69, 112, 122, 146, 151, 194, 197, 211, 218, 233, 239, 246, 254, 259, 263, 265}
METHODS = set(range(270)) - GAPS  # numbers of the published methods


def test_the_page_of_reproductions_is_what_the_kept_findings_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == gallery.page(gallery.entries()), REFRESH


def test_the_front_page_of_the_docs_says_how_often_kept_predictions_held() -> None:
    block = foretold.BLOCK.search(foretold.PAGE.read_text(encoding="utf-8"))
    assert block is not None and block[0] == foretold.summary(gallery.entries()), REFRESH


def test_the_training_gallery_takes_one_night() -> None:
    assert sum(entry.minutes for entry in gallery.members("training")) <= 600


def test_every_reproduction_has_a_line_and_every_kept_finding_a_reproduction() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in gallery.names() if f"| [{name}](#{name}) |" not in page] == []
    kept = {path.stem for path in gallery.KEPT.glob("*.json")}
    assert kept <= set(gallery.names())
    for name in kept:
        for found in gallery.kept_findings(name):
            assert found.name == name and found.command == gallery.command(name), name


def test_every_reproduction_resolves_and_names_no_method_that_is_not_listed() -> None:
    """A claim may belong to none of the numbered methods; what it names is among them."""
    for name in gallery.names():
        found = gallery.load(name)
        assert set(found.methods) <= METHODS and found.minutes > 0, name


def test_every_sweep_of_a_reproduction_has_trials_and_a_price(tmp_path: Path) -> None:
    """Each sweep once, though several reproductions may train it; one of them through the estimate of --dry_run."""
    found = [gallery.load(name) for name in gallery.names()]
    plans = [config for one in found for quick in (True, False) for config in one.planned(quick)]
    distinct = {canonical(config): config for config in plans}
    assert all(isinstance(config, SweepConfig) for config in plans)
    costs = {text: sum(trial.flops for trial in config.trials()) for text, config in distinct.items()}
    assert all(cost > 0 for cost in costs.values())
    cheapest = distinct[min(costs, key=lambda text: costs[text])]
    assert estimate(cheapest, tmp_path, Options()).worker_s > 0


@pytest.mark.parametrize("name", ["pruning_switch", "pruning_power_law"])
def test_a_reproduction_without_training_runs_quickly_to_a_finding(name: str, tmp_path: Path) -> None:
    found = reproduce(gallery.load(name), gallery.path_of(name), tmp_path, quick=True, where=Options())
    low, high = found.interval
    assert found.name == name and low <= found.effect <= high
    assert found.command.endswith("--quick") and (tmp_path / "finding.html").is_file()


if __name__ == "__main__":
    found = gallery.entries()
    PAGE.write_text(gallery.page(found), encoding="utf-8")
    front = foretold.BLOCK.sub(lambda _: foretold.summary(found), foretold.PAGE.read_text(encoding="utf-8"))
    foretold.PAGE.write_text(front, encoding="utf-8")
