"""What a person sees of a run: the table, and a page that serves nothing else, tells only who may know, and is text."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from launch.jobs import Job, JobConfig
from launch.page import Page
from launch.prompts import PromptFile
from launch.snapshot import SearchPulse, snapshot
from launch.status import text
from models.errors import ConfigError
from scaling.sweep.combinators import grid
from scaling.sweep.config import SweepConfig
from scaling.sweep.directory import RunDirectory
from scaling.sweep.results import COLUMNS
from scaling.sweep.trial import Trial
from tests.scaling.sweep import tiny

HOSTILE = "<script>document.title='owned'</script>\x1b[31m<img src=x onerror=alert(1)>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunDirectory]:
    """A sweep of 13 trials in its middle: 9 done at three budgets, one failed, one at work, two waiting."""
    one_step = {width: Trial(dataclasses.replace(tiny.MODEL, d_model=width)).flops / 1000 for width in (8, 16, 32)}
    sizes = [(width, round(budget / flops)) for budget in (3e10, 6e10, 1.2e11) for width, flops in one_step.items()]
    points = [{"train.steps": steps, "model.d_model": width} for width, steps in sizes]
    points += grid({"train.seed": [1, 2, 3, 4]})
    sweep = SweepConfig("middle <b>of</b> it", tiny.MODEL, points=tuple(points), stack_size=1)
    directory = RunDirectory(tmp_path / "run")
    directory.claim(sweep, {})
    directory.plan(sweep.trials(), 1, {})
    for i, trial in enumerate(sweep.trials()[:11]):
        finished(directory, trial, float(trial.flops), failed=i == 9, unfinished=i == 10)
    with directory.presence("0") as presence:
        (stack,) = [s for s in directory.stacks() if s.trials[0].id == sweep.trials()[10].id]
        assert presence.claim(stack.id)
        progress = {"stack": stack.id, "time": 0.0, "fraction": 0.5, "loss": 3.0, "step": 50, "tokens": 5000}
        progress |= {"flops": 2e9, "seconds": 2.0, "peak_flops": 1e10, "device": "cpu", "devices": 1}
        directory.write_progress("0", progress)
        yield directory


def finished(directory: RunDirectory, trial: Trial, flops: float, failed: bool, unfinished: bool) -> None:
    """What a trial leaves behind."""
    folder = directory.path / "trials" / trial.id
    folder.mkdir(parents=True)
    optimum = np.log(trial.model.d_model / 16) ** 2 / 8 - 0.1 * np.log2(flops / 3e10)
    rows = [{"step": s, "tokens": s, "flops": flops * s / 100, "loss": 3 + 2 / s + optimum} for s in range(10, 101, 10)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    row = dict.fromkeys(COLUMNS) | {"trial": trial.id, "status": "done", "seed": 0, "params": trial.model.d_model,
                                    "tokens": 100, "flops": flops, "loss": 3 + optimum, "wall_s": 2.0}  # fmt: skip
    if failed:
        row |= {"status": "failed", "loss": None, "error": HOSTILE}
    if not unfinished:
        directory.results.add(row)


@pytest.fixture
def page(running: RunDirectory) -> Iterator[Page]:
    yield from serving(Page(running.path, "127.0.0.1", 0, ""))


def serving(page: Page) -> Iterator[Page]:
    thread = threading.Thread(target=page.serve_forever, daemon=True)
    thread.start()
    yield page
    page.server.shutdown()
    thread.join()


def get(address: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_table_says_what_is_done_who_works_and_what_failed(running: RunDirectory) -> None:
    found = snapshot(running.path)
    assert found.counts == {"done": 9, "running": 1, "waiting": 2, "stopped": 0, "failed": 1}
    assert found.rate == 1e9 and 0 < found.done < found.work and not found.finished
    (worker,) = found.workers
    assert (worker.state, worker.speed, worker.use) == ("working", 2500, 0.1)
    shown = text(found)
    assert "9 done, 1 running, 2 waiting, 1 failed" in shown and "<script>" in shown and "\x1b" not in shown
    assert "delete its trials/ID/result.json" in shown
    states = [line.split()[1] for line in shown.split("\n\n")[1].splitlines()[1:14]]
    assert states == ["running", "failed"] + ["done"] * 9 + ["waiting"] * 2
    rows = [line.split() for line in shown.splitlines() if " done " in line]
    assert [float(row[5]) for row in rows] == sorted(float(row[5]) for row in rows)  # the best first
    assert {tuple(word.split("=")[0] for word in row[6:]) for row in rows} == {("steps", "d_model", "seed")}
    assert len({tuple(row[6:]) for row in rows}) == 9  # told apart by what the sweep varies


def test_a_worker_that_ended_or_died_is_shown_as_such(running: RunDirectory) -> None:
    with running.presence("1"):
        assert [w.state for w in snapshot(running.path).workers] == ["working", "waiting"]
    assert [w.state for w in snapshot(running.path).workers] == ["working", "ended"]


def test_a_job_is_shown_in_samples(tmp_path: Path) -> None:
    prompts = tmp_path / "p.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"p{i}"}) + "\n" for i in range(5)))
    job = Job.open(tmp_path / "out", JobConfig(shard_size=2, samples=3), PromptFile(prompts), "model")
    job.shard_path(0).parent.mkdir()
    job.shard_path(0).write_text("")
    found = snapshot(job.path)
    assert (found.kind, found.unit, found.work, found.done, found.trials) == ("job", "samples", 15, 6, ())
    with pytest.raises(ConfigError, match="holds no sweep, job, study or post-training"):
        snapshot(tmp_path)


def test_a_study_is_shown_in_searches_with_its_policies(running: RunDirectory, tmp_path: Path) -> None:
    study = tmp_path / "study"
    (study / "cells").mkdir(parents=True)
    (study / "policies").symlink_to(running.path)
    (study / "study.json").write_text(json.dumps({"name": "mine", "study": {"strategies": ["beam", "mcts"]}}))
    for name in ("a.parquet", "b.parquet"):
        (study / "cells" / name).write_text("")
    found = snapshot(study)
    assert (found.kind, found.unit, found.work, found.done, found.rate) == ("study", "searches", 3 * 13, 2, 0)
    assert len(found.trials) == 13 and not found.finished
    with SearchPulse(study, 2) as pulse:
        pulse.told = pulse.began = time.monotonic() - 10
        pulse.tell(0.5)
        found = snapshot(study)
        assert found.done == 2.5 and 0.04 < found.rate <= 0.05
        os.utime(study / SearchPulse.NAME, (time.time() - 1000,) * 2)
        assert snapshot(study).rate == 0
    assert not (study / SearchPulse.NAME).exists()


def test_the_page_shows_the_run_and_what_trials_wrote_stays_text(page: Page) -> None:
    code, html = get(page.address)
    assert code == 200 and 'http-equiv="refresh"' in html
    assert "<script" not in html and "<img src=x" not in html and "&lt;script&gt;" in html
    assert "<b>of</b>" not in html and "middle &lt;b&gt;of&lt;/b&gt; it" in html
    for title in ("Trials", "Workers and devices", "Loss curves", "IsoFLOP curves", "Failures"):
        assert f">{title}</h2>" in html
    code, content = get(page.address + "status.json")
    assert code == 200 and len(json.loads(content)["trials"]) == 13


def test_the_page_loads_and_runs_nothing(page: Page) -> None:
    with urllib.request.urlopen(page.address) as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")


@pytest.mark.parametrize(
    "path", ["config.json", "trials/", "../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "//etc/passwd"]
)
def test_no_file_is_served(page: Page, path: str) -> None:
    host, port = page.server.server_address[:2]
    with socket.create_connection((str(host), int(port))) as connection:
        connection.sendall(f"GET /{path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        answer = connection.makefile().read()
    assert " 404 " in answer.splitlines()[0] and "root:" not in answer and "d_model" not in answer


def test_without_a_token_only_this_machine_is_answered(page: Page) -> None:
    assert get(page.address, Host="evil.example:8017")[0] == 403
    assert page.server.server_address[0] == "127.0.0.1"
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0 is not this machine alone: give a --token"):
        Page(page.directory, "0.0.0.0", 0, "")
    with pytest.raises(ConfigError, match="cannot be used"):
        Page(page.directory, "127.0.0.1", int(page.server.server_address[1]), "")


def test_with_a_token_only_who_knows_it_is_answered(running: RunDirectory) -> None:
    for page in serving(Page(running.path, "0.0.0.0", 0, "secret")):
        port = page.server.server_address[1]
        address = f"http://127.0.0.1:{port}/status.json"
        assert [get(address)[0], get(address + "?token=wrong")[0], get(address + "?token=secret")[0]] == [403, 403, 200]


SHAPES = [
    "",
    "{",
    "{}",
    "[]",
    "null",
    "1",
    '"x"',
    "[" * 100_000,
    "\udcff",
    '{"step": "1", "fraction": "x"}',
    "9" * 5000,
]
FILES = ["result", "metrics", "stacks", "config", "progress", "worker", "predictions"]


def damaged(directory: RunDirectory, name: str) -> Path:
    """One file of each kind that a sweep leaves."""
    done = directory.path / "trials" / directory.stacks()[0].trials[0].id
    (worker,) = (directory.path / ".leases" / "workers").iterdir()
    top = {f"{kind}": directory.path / f"{kind}.json" for kind in ("stacks", "config")}
    return {"result": done / "result.json", "metrics": done / "metrics.jsonl", "worker": worker,
            "progress": directory.path / "progress" / "0.json", "predictions": directory.path / "predictions.jsonl",
            **top}[name]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_structure_costs_its_trial_or_is_named_and_the_page_goes_on(
    running: RunDirectory, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.page.draw", lambda found: {})
    path, served = damaged(running, name), Page(running.path, "127.0.0.1", 0, "")
    whole = path.read_bytes() if path.exists() else b""
    for shape in SHAPES:
        path.write_bytes(shape.encode(errors="surrogateescape"))
        code, html = served.answer("html")
        assert code in (200, 503) and 'http-equiv="refresh"' in html, (shape, html)
        assert code == 200 or f"{name}.json: is damaged" in html, (shape, html)
        assert code == 200 or name in ("stacks", "config"), shape
        assert served.answer("json")[0] == code
    path.write_bytes(whole)
    assert served.answer("html")[0] == 200
    served.server.server_close()


@pytest.mark.parametrize("name", ["job", "study", "searching"])
def test_the_page_of_a_job_or_a_study_names_what_is_damaged(tmp_path: Path, name: str) -> None:
    (tmp_path / "study.json").write_text(json.dumps({"name": "mine", "study": {"strategies": ["beam"]}}))
    for shape in SHAPES:
        (tmp_path / f"{name}.json").write_bytes(shape.encode(errors="surrogateescape"))
        if name == "searching":
            assert snapshot(tmp_path).rate == 0
        else:
            with pytest.raises(ConfigError, match=rf"{name}\.json: is damaged"):
                snapshot(tmp_path)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_numbers_that_nobody_can_draw_cost_their_figure(running: RunDirectory) -> None:
    trial = running.stacks()[0].trials[0].id
    path = running.path / "trials" / trial / "metrics.jsonl"
    rows = [{"step": 2**62, "tokens": -1, "flops": value, "loss": 1e308} for value in (1e308, -1e308, float("nan"))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    bare = {"trial": trial, "status": "done", "seed": 0, "params": 1, "flops": 1e308, "loss": 1e308}
    (path.parent / "result.json").write_text(json.dumps(bare))
    served = Page(running.path, "127.0.0.1", 0, "")
    assert served.answer("html")[0] == served.answer("json")[0] == 200
    served.server.server_close()


def test_a_job_whose_reports_are_damaged_is_shown(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "p"}\n')
    job = Job.open(tmp_path / "out", JobConfig(samples=3), PromptFile(tmp_path / "p.jsonl"), "model")
    with job.presence("0") as presence:
        assert presence.claim("000000")
        for report, rate in (('{"samples": 4, "seconds": 2}', 2), ('{"samples": "4", "seconds": 2}', 0), ("[]", 0)):
            (job.path / "progress").mkdir(exist_ok=True)
            (job.path / "progress" / "0.json").write_text(report)
            found = snapshot(job.path)
            assert (found.rate, found.workers[0].speed) == (rate, 0) and text(found)


def test_an_error_of_ours_is_one_line_and_an_answer(page: Page, monkeypatch, capsys) -> None:
    def fail(path: Path) -> None:
        raise KeyError("<b>")

    with monkeypatch.context() as patched:
        patched.setattr("launch.page.snapshot", fail)
        answers = [get(page.address) for _ in range(3)]
        assert get(page.address + "status.json") == (500, json.dumps({"error": "internal error: KeyError: '<b>'"}))
    assert [code for code, _ in answers] == [500] * 3 and "KeyError" in answers[0][1] and "<b>" not in answers[0][1]
    assert capsys.readouterr().err == "error: internal error: KeyError: '<b>'\n"
    assert get(page.address)[0] == 200


def test_a_reader_who_leaves_early_leaves_nothing_in_the_log(page: Page, capsys) -> None:
    host, port = page.server.server_address[:2]
    for request in (b"", b"GET / HTTP/1.0\r\n", f"GET / HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()):
        with socket.create_connection((str(host), int(port))) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close with a reset
            connection.sendall(request)
    assert get(page.address)[0] == 200
    assert capsys.readouterr().err == ""


def test_many_readers_at_once_are_all_answered_by_few_looks_at_the_directory(page: Page, monkeypatch) -> None:
    looks: list[Path] = []
    monkeypatch.setattr("launch.page.snapshot", lambda path: looks.append(path) or snapshot(path))
    host, port = page.server.server_address[:2]
    ask = f"GET /status.json HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    with page.lock:  # while the first is being made
        readers = [socket.create_connection((str(host), int(port))) for _ in range(300)]
        for reader in readers:
            reader.sendall(ask)
        while len(page.server.reading) or page.server.free._value > 512 - 300:
            time.sleep(0.01)
    answers = [reader.makefile("rb").read() for reader in readers]
    assert all(answer.startswith(b"HTTP/1.0 200") for answer in answers) and 1 <= len(looks) < 150
    for reader in readers:
        reader.close()


def test_bytes_that_trickle_do_not_hold_a_connection(page: Page, monkeypatch) -> None:
    host, port = page.server.server_address[:2]
    with socket.create_connection((str(host), int(port))) as connection:
        connection.sendall(b"GET / HTT")
        while not page.server.reading:
            time.sleep(0.01)
        monkeypatch.setattr("launch.page.READ_S", 0.0)  # its time is over
        assert connection.recv(1000) == b""


def test_the_usual_port_is_answered_as_browsers_ask_for_it(page: Page, monkeypatch) -> None:
    port = int(page.server.server_address[1])
    assert not page.admits("localhost", "") and page.admits(f"LocalHost:{port}", "")
    monkeypatch.setattr("launch.page.PLAIN_PORT", port)
    monkeypatch.setattr("launch.page._Server", lambda address, handler: page.server)
    usual = Page(page.directory, "127.0.0.1", port, "")
    assert usual.admits("localhost", "") and usual.admits(f"127.0.0.1:{port}", "") and not usual.admits("evil", "")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian's package: chromium)")
def test_a_browser_shows_the_page_and_runs_nothing_of_what_trials_wrote(page: Page, tmp_path: Path) -> None:
    shot = tmp_path / "page.png"
    switches = (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "hide-scrollbars",
        "no-first-run",
        "disable-background-networking",
        "disable-dev-shm-usage",
        f"user-data-dir={tmp_path}/browser",
    )
    base = [str(CHROMIUM), *(f"--{switch}" for switch in switches)]
    options = {"check": True, "capture_output": True, "timeout": 600}
    subprocess.run([*base, "--window-size=1100,2600", f"--screenshot={shot}", page.address], **options)
    pixels = matplotlib.image.imread(shot)[:, :, :3]
    assert pixels.shape[:2] == (2600, 1100)
    rows = pixels.reshape(2600, -1).std(axis=1) > 0.01
    assert rows.mean() > 0.4  # filled with content, not an empty or an error page
    colours = {tuple(np.round(colour, 1)) for colour in pixels[::5, ::5].reshape(-1, 3)}
    assert len(colours) > 20  # the figures are there
    done = subprocess.run([*base, "--dump-dom", page.address], text=True, **options)
    assert "<title>middle &lt;b&gt;of&lt;/b&gt; it: isoflop status</title>" in done.stdout  # the script did not run
