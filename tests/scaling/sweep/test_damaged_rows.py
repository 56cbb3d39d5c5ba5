"""A damaged row costs its trial alone: training it again gives the row that was there, whoever shares its program."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaling.sweep.results import Results
from tests.scaling.sweep import tiny

pytestmark = pytest.mark.slow  # compiles a training step
WSD = {"train__schedule": "wsd", "train__decay_fraction": 0.25}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    """(directory, trials, their rows): a WSD trunk with its branch, and a trial of another learning rate."""
    root = tmp_path_factory.mktemp("rows")
    trials = [tiny.trial(root, train__steps=steps, **WSD) for steps in (24, 12)]
    trials.append(tiny.trial(root, train__learning_rate=0.02, **WSD))
    return root / "run", trials, tiny.run(root / "run", trials)


@pytest.mark.parametrize("damaged", [(0,), (1,), (0, 2)], ids=["trunk", "branch", "two"])
def test_a_damaged_row_is_trained_again_to_the_same_values(trained, damaged: tuple[int, ...]) -> None:
    directory, trials, before = trained
    for i in damaged:
        path: Path = directory / "trials" / trials[i].id / "result.json"
        path.write_text(path.read_text().replace('"loss": ', '"loss": 1', 1))
        assert Results(directory).get(trials[i].id) is None
    others = {t.id: (directory / "trials" / t.id / "result.json").stat().st_mtime_ns
              for i, t in enumerate(trials) if i not in damaged}  # fmt: skip
    assert tiny.run(directory, trials) == before
    kept = {name: (directory / "trials" / name / "result.json").stat().st_mtime_ns for name in others}
    assert kept == others
