"""The smallest sweep that still has everything: text in a folder, one layer of width 8, a few steps."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from models.config import ModelConfig
from models.sharding import MeshConfig
from scaling.data import DataConfig
from scaling.sweep.results import TIMES_AND_DEVICES, Results
from scaling.sweep.run import run_stack
from scaling.sweep.stack import Stack, make_stacks
from scaling.sweep.trial import Trial, override
from scaling.train.checkpoint import load_params
from scaling.train.config import TrainConfig

MODEL = ModelConfig(d_model=8, n_layers=1, n_heads=2, d_ff=16)
TRAIN = TrainConfig(
    steps=24, batch_size=4, seq_len=16, learning_rate=0.01, eval_sequences=8, log_every=10, checkpoint_every=8
)
WORDS = ("loss", "compute", "tokens", "scaling", "law", "width", "depth", "data", "step")


def write_text(folder: Path, documents: int = 60, seed: int = 0) -> Path:
    """A folder of small text files."""
    folder.mkdir(parents=True)
    draw = random.Random(seed)
    for number in range(documents):
        (folder / f"{number}.txt").write_text(f"{number} " + " ".join(draw.choices(WORDS, k=60)), encoding="utf-8")
    return folder


def trial(root: Path, **changes: Any) -> Trial:
    """The tiny trial on the text below `root` (written on first use); changes as train__steps=3."""
    text = root / "text"
    if not text.exists():
        write_text(text)
    data = DataConfig(source="text", path=str(text), cache_dir=str(root / "cache"), heldout_fraction=0.1)
    base = Trial(MODEL, data, TRAIN, MeshConfig(data=1))
    return override(base, {name.replace("__", "."): value for name, value in changes.items()})


def run(directory: Path, trials: list[Trial], stack_size: int = 8, **options: Any) -> dict[str, dict[str, Any]]:
    """Train every trial in this process; the rows by trial id."""
    for stack in make_stacks(trials, stack_size):
        run_stack(stack, directory, "tiny", **options)
    return rows(directory, trials)


def rows(directory: Path, trials: list[Trial]) -> dict[str, dict[str, Any]]:
    """The rows of trials, without what may differ between equal runs."""
    found = {t.id: Results(directory).get(t.id) for t in trials}
    return {i: {k: v for k, v in row.items() if k not in TIMES_AND_DEVICES} for i, row in found.items() if row}


def params(directory: Path, one: Trial) -> dict[str, bytes]:
    """The final parameters of a trial, bit for bit."""
    flat: dict[str, bytes] = {}

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            for name, child in node.items():
                walk(child, f"{path}/{name}")
        else:
            flat[path] = np.asarray(node).tobytes()

    walk(load_params(directory / "trials" / one.id), "")
    return flat


def metrics(directory: Path, one: Trial) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl."""
    text = (directory / "trials" / one.id / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=_no_constants) for line in text.splitlines()]


def _no_constants(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def outcome(directory: Path, trials: list[Trial]) -> dict[str, Any]:
    """All that a run must reproduce: rows, parameters, metrics."""
    return {
        "rows": rows(directory, trials),
        "params": {t.id: params(directory, t) for t in trials if rows(directory, [t])[t.id]["status"] == "done"},
        "metrics": {t.id: metrics(directory, t) for t in trials},
    }


def hashes(directory: Path) -> dict[str, str]:
    """sha256 of every file below a directory, by name."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def one_stack(trials: list[Trial]) -> Stack:
    """All trials in one stack, which their shapes must allow."""
    (stack,) = make_stacks(trials, len(trials))
    return stack


def with_mesh(one: Trial, **axes: int) -> Trial:
    """The trial on another mesh."""
    return dataclasses.replace(one, mesh=MeshConfig(**axes))
