"""Leases: one holder at a time, whoever dies, hangs or is cut off; and no clock is believed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scaling.sweep import lease
from scaling.sweep.lease import LOST, Presence, Watch, holders, read_workers

REPOSITORY = Path(__file__).resolve().parents[3]
HOLD = """
    import sys, time
    from pathlib import Path
    from scaling.sweep.lease import Presence
    with Presence(Path(sys.argv[1]), "other") as presence:
        print(presence.claim("x"), flush=True)
        time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process that holds "x" of tmp_path."""
    started = []

    def start(**environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(HOLD), str(tmp_path)], stdout=subprocess.PIPE, text=True,
            stderr=subprocess.PIPE, env=os.environ | environment | {"PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "True\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on this process believes that it runs on another machine."""
    monkeypatch.setattr(lease, "_kernel", lambda: "another")


def test_a_name_has_one_holder_and_passes_on_when_released(tmp_path: Path) -> None:
    with Presence(tmp_path, "a") as a, Presence(tmp_path, "b") as b:
        assert (a.claim("x"), b.claim("x"), a.claim("x"), b.claim("y")) == (True, False, False, True)
        assert holders(tmp_path) == {"x": a.id, "y": b.id}
        assert b.holder("x") == f"process {os.getpid()} on {os.uname().nodename}"
        a.release("x")
        assert holders(tmp_path) == {"y": b.id}
        assert (b.claim("x"), a.claim("x")) == (True, False)
    with Presence(tmp_path, "c") as c:
        assert c.claim("x") and c.claim("y")
    assert [(w.name, w.ended) for w in read_workers(tmp_path)] == [("a", True), ("b", True), ("c", True)]


def race(directory: Path, start: multiprocessing.Event, queue: multiprocessing.Queue) -> None:
    with Presence(directory, "r") as presence:
        start.wait()
        queue.put([name for name in map(str, range(200)) if presence.claim(name)])
        start.clear()
        time.sleep(1)  # what was claimed stays held until all are through


def test_of_many_claimants_each_name_goes_to_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, queue = context.Event(), context.Queue()
    processes = [context.Process(target=race, args=(tmp_path, start, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    while len(read_workers(tmp_path)) < 3:
        time.sleep(0.01)
    start.set()
    won = sorted(int(name) for _ in processes for name in queue.get())
    for process in processes:
        process.join()
    assert won == list(range(200))


def test_on_one_machine_a_death_is_known_at_once(tmp_path: Path, holder) -> None:
    process = holder()
    with Presence(tmp_path, "me") as me:
        assert not me.claim("x")
        process.kill()
        process.wait()
        assert me.claim("x")


def test_a_death_on_another_machine_is_known_by_silence(tmp_path: Path, holder, monkeypatch) -> None:
    process = holder()
    elsewhere(monkeypatch)
    monkeypatch.setattr(lease, "SILENCE_S", 0.5)
    with Presence(tmp_path, "me") as me:
        process.kill()
        process.wait()
        assert not me.claim("x")  # first seen; it may have beaten a moment ago
        begin = time.monotonic()
        assert me.settled("x", poll_s=0.05)
        assert time.monotonic() - begin >= 0.4


def test_a_live_holder_on_another_machine_keeps_its_name(tmp_path: Path, holder, monkeypatch) -> None:
    holder(ISOFLOP_LEASE_S="0.6")  # beats every 0.1 s
    elsewhere(monkeypatch)
    monkeypatch.setattr(lease, "SILENCE_S", 0.6)
    with Presence(tmp_path, "me") as me:
        for _ in range(15):
            assert not me.claim("x")
            time.sleep(0.1)
        assert not me.settled("x")


def test_who_was_stopped_and_replaced_ends_when_it_wakes(tmp_path: Path, holder, monkeypatch) -> None:
    process = holder(ISOFLOP_LEASE_S="0.6")
    monkeypatch.setattr(lease, "SILENCE_S", 0.6)
    with Presence(tmp_path, "me") as me:
        process.send_signal(signal.SIGSTOP)
        while not me.claim("x"):
            time.sleep(0.05)
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=20)
        assert process.returncode == LOST and "another took over" in err
        assert holders(tmp_path) == {"x": me.id}


def test_clocks_that_jump_change_nothing(tmp_path: Path, holder, monkeypatch) -> None:
    holder()
    elsewhere(monkeypatch)
    with Presence(tmp_path, "me") as me:
        assert not me.claim("x")
        for jump in (1e6, -1e6):
            now = time.time() + jump
            monkeypatch.setattr(time, "time", lambda now=now: now)
            for path in (tmp_path / "workers").iterdir():
                os.utime(path, (now, now))
            assert not me.claim("x")


def test_an_observer_that_slept_does_not_count_its_sleep_as_silence(monkeypatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watch = Watch()
    assert watch.look("7") == 0
    now = 1000.0
    assert watch.look("7") <= lease.BEAT_S
    now = 1001.0
    assert watch.look("8") == 0 and watch.moved


def test_without_hard_links_it_works_as_well(tmp_path: Path, monkeypatch) -> None:
    def refuse(*paths: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    with Presence(tmp_path, "a") as a, Presence(tmp_path, "b") as b:
        assert (a.claim("x"), b.claim("x")) == (True, False)


def test_a_process_that_does_nothing_ends_and_one_that_works_does_not(tmp_path: Path, monkeypatch) -> None:
    clock, cpu, ended = [0.0], [0.0], []
    monkeypatch.setattr(lease, "_awake", lambda: clock[0])
    monkeypatch.setattr(lease.time, "process_time", lambda: cpu[0])
    monkeypatch.setattr(lease.os, "_exit", ended.append)
    presence = Presence(tmp_path, "a", stall_s=100.0)
    for now, used in ((90.0, 0.5), (150.0, 2.0), (240.0, 2.1)):  # 2.0: it computes
        clock[0], cpu[0] = now, used
        presence._check_stall()
    assert not ended
    presence.progressed()
    clock[0] = 335.0
    presence._check_stall()
    assert not ended
    clock[0] = 341.0
    presence._check_stall()
    assert ended == [lease.STALLED]
    idle = Presence(tmp_path, "launcher")
    clock[0] = 1e6
    idle._check_stall()
    assert len(ended) == 1
