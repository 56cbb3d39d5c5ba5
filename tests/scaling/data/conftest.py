from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import pytest

WORDS = ("loss", "compute", "tokens", "scaling", "law", "width", "depth", "über", "größe", "漢字", "data", "step")


@pytest.fixture
def folder(tmp_path):
    """A folder of 200 different text files, with subfolders."""
    root = tmp_path / "text"
    draw = random.Random(0)
    for number in range(200):
        path = root / f"part{number % 3}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number} " + " ".join(draw.choices(WORDS, k=draw.randrange(5, 200))), encoding="utf-8")
    return root


@pytest.fixture
def write_jsonl(tmp_path):
    """Write records as JSON lines; the path."""

    def write(*records, name="data.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def start_python():
    """Start a Python process that sees the same packages; it is killed if the test ends first."""
    started = []

    def start(program, *arguments):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-c", program, *map(str, arguments)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
