"""Real command lines on tiny sweeps, each in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from scaling.sweep.results import TIMES_AND_DEVICES
from tests.scaling.sweep import tiny

REPOSITORY = Path(__file__).resolve().parents[2]
IMPORTS = """
from models.config import ModelConfig
from scaling.data import DataConfig
from scaling.sweep.combinators import chain, grid
from scaling.sweep.config import Prediction, SweepConfig
from scaling.sweep.isoflop import Isoflop
from scaling.sweep.trial import Trial
from scaling.train.config import TrainConfig

MODEL = ModelConfig(d_model=8, n_layers=1, n_heads=2, d_ff=16)
DATA = DataConfig(source="text", path={text!r}, cache_dir={cache!r}, heldout_fraction=0.1)
TRAIN = TrainConfig(
    steps=24, batch_size=4, seq_len=16, learning_rate=0.01, eval_sequences=8, log_every=10, checkpoint_every=8
)
"""


def write_config(root: Path, name: str, body: str) -> Path:
    """A config file `root/name.py` on the text in `root/text`, whose config() is `body`."""
    if not (root / "text").exists():
        tiny.write_text(root / "text")
    path = root / f"{name}.py"
    head = IMPORTS.format(text=str(root / "text"), cache=str(root / "cache"))
    path.write_text(f'"""A tiny sweep."""\n{head}\n\ndef config():\n{textwrap.indent(textwrap.dedent(body), "    ")}\n')
    return path


def environment() -> dict[str, str]:
    """What a person's shell would have, and the tests' compilation cache: one CPU device."""
    alone = {name: value for name, value in os.environ.items() if name != "NPROC"}  # which this process has for eight
    return alone | {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)}


def command(name: str, *arguments: Any) -> list[str]:
    """`python -m launch.<name>` with its arguments."""
    return [sys.executable, "-m", f"launch.{name}", *map(str, arguments)]


def start(name: str, *arguments: Any, **options: Any) -> subprocess.Popen[str]:
    """Start a command."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment()}
    return subprocess.Popen(command(name, *arguments), **pipes | options)


def run(name: str, *arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    pipes = {"capture_output": True, "text": True, "env": environment()}
    return subprocess.run(command(name, *arguments), **pipes | options)


def sweep(config: Path, workdir: Path, *arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `launch.sweep` to its end."""
    return run("sweep", f"--config={config}", f"--workdir={workdir}", *arguments, **options)


def table(workdir: Path) -> dict[str, list[Any]]:
    """results.parquet by column, without what may differ between equal runs."""
    columns = pq.read_table(workdir / "results.parquet")
    return {name: columns[name].to_pylist() for name in columns.column_names if name not in TIMES_AND_DEVICES}


def metrics(workdir: Path) -> dict[str, str]:
    """metrics.jsonl of every trial, by its id."""
    return {path.parent.name: path.read_text() for path in sorted(workdir.glob("trials/*/metrics.jsonl"))}


def workers(workdir: Path) -> list[int]:
    """Process ids of the workers of a directory."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            line = (process / "cmdline").read_bytes().decode().split("\0")
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            continue
        if "launch.worker" in line and str(workdir) in line and state != "Z":
            found.append(int(process.name))
    return sorted(found)
