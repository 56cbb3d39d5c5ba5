"""Two processes of four devices each: signals, deaths, damage and a full disk cost at most one checkpoint interval."""

from __future__ import annotations

import logging
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from launch.distributed import DISK_FULL, SAVED
from scaling.sweep.trial import Trial
from scaling.train.loop import Interrupted
from tests.scaling.sweep import tiny
from tests.scaling.train import ranks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def parent(root: Path) -> Path:
    """A trained trial, whose parameters the others start from."""
    trained = ranks.trial(root, train__steps=2, mesh__data=1, mesh__fsdp=1)
    tiny.run(root / "parent", [trained])
    return root / "parent" / "trials" / trained.id


@pytest.fixture(scope="module")
def one(root: Path, parent: Path) -> Trial:
    return ranks.trial(root, train__init_from=str(parent))


@pytest.fixture(scope="module")
def expected(root: Path, one: Trial) -> dict[str, Any]:
    """What two processes give when nobody disturbs them."""
    ranks.complete(ranks.planned(root / "whole", one))
    return tiny.outcome(root / "whole", [one])


@pytest.fixture(scope="module")
def stopped(root: Path, one: Trial) -> Path:
    """A run of which process 1 alone got SIGTERM before its end; both have saved and ended."""
    workdir = ranks.planned(root / "stopped", one)
    boss = ranks.supervisor(workdir)
    with ranks.running(boss) as finish:
        ranks.wait(boss, lambda: ranks.last_step(workdir, one))
        boss.ranks[1].process.send_signal(signal.SIGTERM)
        assert finish() == SAVED, ranks.logs(boss)
    assert [rank.process.returncode for rank in boss.ranks] == [SAVED, SAVED]
    return workdir


def copy(stopped: Path, target: Path) -> Path:
    shutil.copytree(stopped, target)
    return target


def test_sigterm_to_one_process_saves_at_an_agreed_step_and_resumes_to_the_same_bits(stopped, tmp_path, one, expected):
    newest = ranks.saved_steps(stopped)[-1]
    assert 0 < newest < ranks.STEPS and ranks.last_step(stopped, one) <= newest
    ranks.complete(copy(stopped, tmp_path / "run"))
    assert f"resuming {tmp_path}/run" in (log := (tmp_path / "run" / "logs" / "rank-0.log").read_text())
    assert f" at step {newest}\n" in log
    assert tiny.outcome(tmp_path / "run", [one]) == expected
    assert not list((tmp_path / "run").glob("stacks/*"))


def test_sigkill_of_either_process_restarts_both_and_loses_at_most_one_interval(tmp_path, one, expected):
    workdir, said, lost = ranks.planned(tmp_path, one), [], []
    boss = ranks.supervisor(workdir, say=said.append)
    with ranks.running(boss) as finish:
        for victim in (1, 0):
            known = ranks.saved_steps(workdir)
            ranks.wait(boss, lambda known=known: set(ranks.saved_steps(workdir)) - set(known))
            process = boss.ranks[victim].process
            process.kill()
            process.wait()
            under_way = bool(list(workdir.glob("stacks/*/*.saving*")))
            lost.append((ranks.last_step(workdir, one), ranks.INTERVAL * (2 if under_way else 1)))
            ranks.wait(boss, lambda victim=victim: len(said) == 2 - victim)
        assert finish() == 0, ranks.logs(boss)
    for line, victim, (reached, most) in zip(said, (1, 0), lost, strict=True):
        words = rf"process {victim} of 2 died by SIGKILL: restart {2 - victim} of 3 of all processes, from step (\d+)"
        assert 0 <= reached - int(re.fullmatch(words, line)[1]) <= most
    assert tiny.outcome(workdir, [one]) == expected


def agrees_to_rounding(workdir: Path, one: Trial, expected: dict[str, Any]) -> None:
    """Equal rows; losses that other data would change in the second digit agree in the fifth."""
    found = tiny.metrics(workdir, one)
    assert [row["step"] for row in found] == [row["step"] for row in expected["metrics"][one.id]]
    for row, other in zip(found, expected["metrics"][one.id], strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
    whole = tiny.rows(workdir, [one])[one.id]["loss"]
    assert whole == pytest.approx(expected["rows"][one.id]["loss"], rel=1e-5)


@pytest.mark.parametrize("devices", [8, 4])
def test_one_process_goes_on_with_the_same_data_on_other_devices(
    devices, stopped, tmp_path, one, expected, monkeypatch
):
    workdir = copy(stopped, tmp_path / "run")
    ranks.complete_here(workdir, devices, monkeypatch)
    agrees_to_rounding(workdir, one, expected)


def test_a_start_from_given_parameters_is_that_of_one_process(tmp_path, one, expected, monkeypatch):
    """The parameters came sharded into each of two processes, and here into eight devices."""
    workdir = ranks.planned(tmp_path, one)
    ranks.complete_here(workdir, 8, monkeypatch)
    agrees_to_rounding(workdir, one, expected)


def damage(step: Path, kind: str) -> None:
    """Harm the largest file of a step."""
    victim = max((path for path in step.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    if kind == "removed":
        victim.unlink()
        return
    if kind == "flipped":
        content[len(content) // 2] ^= 1
    victim.write_bytes(content[: len(content) // 2] if kind == "truncated" else content)


def test_two_processes_of_two_devices_agree_on_an_older_step_when_the_newest_is_damaged(
    stopped, tmp_path, one, expected
):
    workdir = copy(stopped, tmp_path / "run")
    *_, older, newest = [0, *ranks.saved_steps(workdir)]
    (path,) = workdir.glob(f"stacks/*/{newest}")
    damage(path, "flipped")
    ranks.complete(workdir, devices=2)
    log = (workdir / "logs" / "rank-0.log").read_text()
    assert not older or f"step {newest} was renamed {newest}.corrupt, using step {older} instead" in log
    agrees_to_rounding(workdir, one, expected)


@pytest.mark.parametrize("kind", ["flipped", "truncated", "removed"])
def test_a_damaged_step_on_a_mesh_is_passed_over_and_the_step_used_is_named(kind, root, tmp_path, caplog):
    one = ranks.trial(root, train__steps=13, train__checkpoint_every=4)
    asked = iter([False, False, False, True])
    with pytest.raises(Interrupted):
        tiny.run(tmp_path, [one], stop_requested=lambda: next(asked))
    *_, older, newest = ranks.saved_steps(tmp_path)
    (path,) = tmp_path.glob(f"stacks/*/{newest}")
    damage(path, kind)
    with caplog.at_level(logging.INFO):
        tiny.run(tmp_path, [one])
    assert f"step {newest} was renamed {newest}.corrupt, using step {older} instead" in caplog.text
    assert tiny.metrics(tmp_path, one)[-1]["step"] == 13


def test_a_disk_that_is_full_for_one_process_ends_all_and_with_room_again_they_go_on(
    tmp_path, one, expected, monkeypatch
):
    workdir, said = ranks.planned(tmp_path, one), []
    limit = 'if [ "$JAX_PROCESS_ID" = 1 ]; then ulimit -f 16; fi'  # KiB of any file; its part of a step has more
    boss = ranks.supervisor(workdir, limit=limit, say=said.append)
    with ranks.running(boss) as finish:
        assert finish() == DISK_FULL, ranks.logs(boss)
    assert said == []
    line = boss.ranks[1].error_line()
    assert re.search(r"disk full: step \d+ needs .*; (no step is saved yet|step \d+ is safe): free some space", line)
    ranks.complete_here(workdir, 8, monkeypatch)
    agrees_to_rounding(workdir, one, expected)
