"""benchmarks/accelerator.py, rehearsed on a CPU at toy sizes: its lines, and what it does when a stage goes wrong."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launch.choose_mesh import read_device_table
from models.devices import DEVICES

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPT = REPOSITORY / "benchmarks" / "accelerator.py"
WRONG = {"fails": "failed", "exhausts": "out of memory", "dies": "died of SIGKILL", "hangs": "timed out"}


def rehearse(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--toy", "--out", str(out), *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=out.parent)


def lines(out: Path, stage: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (out / "lines.jsonl").read_text().splitlines()]
    return [line for line in found if line["stage"] == stage]


def left_over(out: Path) -> list[str]:
    """Processes that still have this run's folder in their command."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(out) in command and int(folder.name) != os.getpid():
            found.append(command)
    return found


def test_stages_that_fail_exhaust_memory_die_or_hang_cost_that_case_alone(tmp_path: Path) -> None:
    done = rehearse(tmp_path / "out", f"--only={','.join(WRONG)}", "--minutes=2")
    assert done.returncode == 1, done.stderr
    for stage, status in WRONG.items():
        found = {line["case"]: line["status"] for line in lines(tmp_path / "out", stage)}
        assert found == {"before": "done", stage: status, "after": "done"}
    assert "this stage is made to fail" in lines(tmp_path / "out", "fails")[1]["error"]
    assert "RESOURCE_EXHAUSTED" in lines(tmp_path / "out", "exhausts")[1]["error"]
    assert not left_over(tmp_path / "out")


def test_a_run_ends_in_its_minutes_and_says_which_stages_had_no_time(tmp_path: Path) -> None:
    began = time.monotonic()
    done = rehearse(tmp_path / "out", "--only=hangs,truth", "--minutes=0.02")
    said = [json.loads(line) for line in (tmp_path / "out" / "stages.jsonl").read_text().splitlines()]
    assert done.returncode == 1 and {line["stage"]: line["status"] for line in said}["truth"] == "no time left"
    assert time.monotonic() - began < 30  # 1.2 s of stages; what Python takes to start and end is not counted


def test_an_unknown_stage_is_refused_by_name(tmp_path: Path) -> None:
    done = rehearse(tmp_path / "out", "--only=truth,decod")
    assert done.returncode == 2 and done.stderr.startswith("error: --only: decod is no stage; use fails, exhausts")
    assert "Traceback" not in done.stderr


@pytest.mark.slow  # every stage compiles its own programs: 35 s of CPU time
def test_every_stage_is_rehearsed_on_a_cpu_and_leaves_its_lines(tmp_path: Path) -> None:
    out = tmp_path / "out"
    stages = "fails,truth,train_350m,train_350m_torch,train_1b,train_1b_torch,decode,decode_transformers,many,kernels"
    done = rehearse(out, f"--only={stages},hangs,table", "--minutes=10")
    problems = [line for stage in stages.split(",")[1:] for line in lines(out, stage) if line["status"] != "done"]
    wanted = {"torch"} if importlib.util.find_spec("torch") is None else set()
    wanted |= {"transformers"} if importlib.util.find_spec("transformers") is None else set()
    absent = {line["stage"] for line in problems if line["status"] == "absent" and line["stage"] != "kernels"}
    peers = {"train_350m_torch", "train_1b_torch", "decode_transformers"}
    assert absent == (peers if "torch" in wanted else {"decode_transformers"} if wanted else set())
    assert not [line for line in problems if line["status"] != "absent"], problems
    summary = json.loads((out / "summary.json").read_text())
    assert done.returncode == 1 and summary["stages"]["table"] == summary["stages"]["fails"] == "done"
    assert summary["truth"] == {"float32": "done"} and summary["train_350m"]["tokens_per_s"] > 0
    assert ("ratio" in summary["train_1b"]) == ("torch" not in wanted)
    table = read_device_table(out / "device_table.json", DEVICES["h200"])
    assert table.memory == DEVICES["h200"].memory and 0 < table.bandwidth < DEVICES["h200"].bandwidth
    assert 0 < table.efficiency <= 1 and table.flops > 0
    assert {"lines.jsonl", "stages.jsonl", "log.txt"} <= {path.name for path in out.iterdir()}


@pytest.mark.slow  # a whole sweep with its workers: 25 s of CPU time
def test_the_science_stage_foretells_a_run_and_judges_it(tmp_path: Path) -> None:
    done = rehearse(tmp_path / "out", "--only=science", "--minutes=5")
    (line,) = lines(tmp_path / "out", "science")
    assert done.returncode == 0, (line, done.stderr)
    assert line["interval"][0] < line["predicted"] < line["interval"][1]
    assert line["relative_error"] == round(line["measured"] / line["predicted"] - 1, 5)
    assert line["inside"] == (line["interval"][0] <= line["measured"] <= line["interval"][1])
    assert line["heldout_flops"] == pytest.approx(2.4e9, rel=0.01) and line["fitted_on"] == 9
