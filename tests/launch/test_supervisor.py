"""The supervisor: all processes or none; what is restarted, what is final, and what it says. No jax in here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from launch import supervisor
from launch.distributed import DISK_FULL, SAVED
from launch.supervisor import Supervisor, newest_steps, resolve
from models.errors import ConfigError
from tests.launch import commands


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "BACK_OFF_S", (0.02, 0.03))
    monkeypatch.setattr(supervisor, "SETTLE_S", 0.3)
    monkeypatch.setattr(supervisor, "LINGER_S", 2.0)


def make(tmp_path: Path, script: str, processes: int = 2, **options: Any) -> Supervisor:
    """Of a Python script that knows `rank`, its `start` (0, 1, ...) and `sleep`, in place of a command."""
    head = f"""
        import os, signal, sys, time
        from pathlib import Path
        rank = int(os.environ["JAX_PROCESS_ID"])
        mark = Path({str(tmp_path)!r}) / f"starts-{{rank}}"
        start = len(mark.read_text()) if mark.exists() else 0
        mark.write_text("x" * (start + 1))
        sleep = lambda: time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(script)]
    return Supervisor(command, processes, tmp_path / "logs", **{"say": lambda line: None} | options)


def starts(tmp_path: Path) -> list[int]:
    return [len(path.read_text()) for path in sorted(tmp_path.glob("starts-*"))]


def test_all_are_started_again_when_one_dies_and_none_is_left(tmp_path):
    said: list[str] = []
    boss = make(
        tmp_path,
        """
        if start == 0 and rank == 1: os.kill(os.getpid(), signal.SIGKILL)
        if start == 1 and rank == 0: sys.exit(70)
        if start < 2: sleep()
        """,
        say=said.append,
        saved=lambda: "step 7",
    )
    assert boss.run() == 0
    assert starts(tmp_path) == [3, 3]
    assert said == [
        "process 1 of 2 died by SIGKILL: restart 1 of 3 of all processes, from step 7",
        "process 0 of 2 ended with 70: restart 2 of 3 of all processes, from step 7",
    ]
    assert all(rank.process.returncode == 0 for rank in boss.ranks)


def test_a_run_that_keeps_dying_ends_with_its_log_named(tmp_path):
    boss = make(tmp_path, "os.abort() if rank == 0 else sleep()", restarts=2)
    with pytest.raises(RuntimeError, match=r"process 0 of 2 died by SIGABRT after 2 restarts: see .*/logs/rank-0.log"):
        boss.run()
    assert starts(tmp_path) == [3, 3]
    assert [rank.process.returncode for rank in boss.ranks] == [-signal.SIGABRT, -signal.SIGKILL]


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("sys.exit(1)", 1),  # a run failed, in all processes alike: it would fail again
        ("sys.exit(75)", SAVED),
        ("sys.exit(74) if rank == 1 else sleep()", DISK_FULL),
        ("sys.exit(74) if rank == 1 else os.abort()", DISK_FULL),  # what the others die of says less
        ("sys.exit(75 if rank else 0)", SAVED),
    ],
)
def test_endings_that_another_start_would_repeat_are_final(tmp_path, script, code):
    assert make(tmp_path, script).run() == code
    assert starts(tmp_path) == [1, 1]


def test_bad_input_of_any_process_is_raised_in_its_own_words(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "rank-1.log").write_text("error: old: of an earlier start: ignore it\n")
    script = """
        if rank == 0: os.abort()
        print("noise\\nerror: train.batch_size: is 3: use a multiple of 2", file=sys.stderr)
        sys.exit(2)
    """
    with pytest.raises(ConfigError) as caught:
        make(tmp_path, script).run()
    assert str(caught.value) == "train.batch_size: is 3: use a multiple of 2"
    with pytest.raises(ConfigError, match=r"process 1: refused its input: see .*rank-1.log"):
        make(tmp_path, "sys.exit(2) if rank else sleep()").run()


def test_a_process_that_outlives_the_others_counts_as_dead(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "LINGER_S", 0.5)
    assert make(tmp_path, "sleep() if rank == 1 and start == 0 else None").run() == 0
    assert starts(tmp_path) == [2, 2]


def test_a_request_to_stop_reaches_all_and_is_not_followed_by_a_start(tmp_path):
    boss = make(
        tmp_path,
        """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        (mark.parent / f"ready-{rank}").touch()
        sleep()
        """,
    )

    def stop() -> None:
        while len(list(tmp_path.glob("ready-*"))) < 2:
            time.sleep(0.01)
        boss.stop(signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    assert boss.run() == SAVED
    thread.join()
    assert starts(tmp_path) == [1, 1] and [rank.process.returncode for rank in boss.ranks] == [SAVED, SAVED]


def test_a_process_stopped_before_it_can_catch_the_signal_loses_nothing(tmp_path):
    boss = make(tmp_path, "sleep()")
    boss.stop(signal.SIGTERM)
    assert boss.run() == SAVED


def test_every_process_is_told_who_it_is_and_which_devices_are_its_own(tmp_path, monkeypatch):
    boss = make(tmp_path, "", processes=3, devices_per_process=2, heartbeat_s=7, base={"XLA_FLAGS": "--xla_a=1"})
    made = boss.rank_environment(2, "127.0.0.1:9")
    assert made.items() >= {
        "JAX_COORDINATOR_ADDRESS": "127.0.0.1:9", "JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "2",
        "ISOFLOP_HEARTBEAT_S": "7", "ISOFLOP_LAUNCHER": str(os.getpid()), "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
    }.items()  # fmt: skip
    assert made["XLA_FLAGS"].endswith(" --xla_a=1")
    monkeypatch.setattr(supervisor.environment, "accelerators", lambda environment: True)
    assert boss.rank_environment(2, "a:9")["CUDA_VISIBLE_DEVICES"] == "4,5"
    boss.base = {"CUDA_VISIBLE_DEVICES": "7,6,5,4,3,2"}
    made = boss.rank_environment(1, "a:9")
    assert made["CUDA_VISIBLE_DEVICES"] == "5,4" and "JAX_PLATFORMS" not in made
    boss.devices_per_process = 0
    assert boss.rank_environment(1, "a:9")["CUDA_VISIBLE_DEVICES"] == "7,6,5,4,3,2"


def test_the_command_behind_the_dashes_is_found(tmp_path):
    run = [sys.executable, "-m"]
    assert resolve(["--config", "a.py", "--workdir", "w"]) == (
        [*run, "launch.train", "--config", "a.py", "--workdir", "w"],
        Path("w"),
    )
    assert resolve(["worker", "--workdir=w"]) == ([*run, "launch.worker", "--workdir=w"], Path("w"))
    for words, message in (
        ([], "--: nothing stands after it"),
        (["trian", "--workdir=w"], "--: 'trian' is no command that several processes run: did you mean train?"),
        (["train", "--config=a.py"], "--workdir: is required by launch.train"),
    ):
        with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
            resolve(words)


def test_the_newest_step_of_every_stack_is_told(tmp_path):
    assert newest_steps(tmp_path) == "the start"
    for name in ("a/8", "a/12", "a/16.saving", "a/20.corrupt"):
        (tmp_path / "stacks" / name).mkdir(parents=True)
    assert newest_steps(tmp_path) == "step 12"
    (tmp_path / "stacks" / "b" / "4").mkdir(parents=True)
    assert newest_steps(tmp_path) == "step 12 of stack a, step 4 of stack b"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--processes=0"], "error: --processes: is 0: give 1 or more"),
        (["--processes=2", "--devices_per_process=-1"], "error: --devices_per_process: is -1: give 0 or more"),
        (["--processes=2", "--restarts=-1"], "error: --restarts: is -1: give 0 or more"),
        (["--processes=two"], "error: --processes: 'two' is not an integer"),
        ([], "error: --processes: is required"),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_2(tmp_path, flags, words):
    done = commands.run("supervisor", *flags, "--", "train", "--config=c.py", f"--workdir={tmp_path}/run")
    assert done.returncode == 2 and done.stderr.startswith(words) and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_bad_input_to_the_processes_is_one_line_and_leaves_none_behind(tmp_path):
    commands.write_config(tmp_path, "one", "return Trial(MODEL, DATA, TRAIN)")
    behind = ["--", f"--config={tmp_path}/one.py", f"--workdir={tmp_path}/run"]
    done = commands.run("supervisor", "--processes=3", "--devices_per_process=1", *behind, "--config.mesh.data=-1")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: train.batch_size: ") and "3" in done.stderr
    done = commands.run("supervisor", "--processes=2", "--devices_per_process=1", *behind, "--config.mesh.data=4")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert subprocess.run(["pgrep", "-f", f"{tmp_path}/run"], capture_output=True).stdout == b""
