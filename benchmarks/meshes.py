"""What the benchmarks of sharding share: the JSON line, where lines are kept, and trials from short specifications."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import harness

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def line(bench: str, case: str, unit: str, ours: float, peer: float | None, ratio: float | None, **more: Any) -> dict:
    """One line of a benchmark's output."""
    import jax

    versions = {"python": platform.python_version(), "jax": jax.__version__, "libtpu": _libtpu()}
    record = {"bench": bench, "case": case, "unit": unit, "ours": ours, "peer": peer, "ratio": ratio, **more}
    return record | {"machine": harness._processor(), "versions": versions, "commit": harness._commit()}


def show(record: Mapping[str, Any], keep: bool) -> None:
    """Print a line, and append it to benchmarks/results/ if it is kept."""
    text = json.dumps(record)
    print(text, flush=True)
    if keep:
        with (ROOT / "benchmarks" / "results" / f"{record['bench']}.jsonl").open("a") as file:
            file.write(text + "\n")


def kept(bench: str) -> dict[str, dict[str, Any]]:
    """Case -> its newest kept line."""
    path = ROOT / "benchmarks" / "results" / f"{bench}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {record["case"]: record for record in map(json.loads, lines)}


def _libtpu() -> str | None:
    from importlib import metadata

    try:
        return metadata.version("libtpu")
    except metadata.PackageNotFoundError:
        return None


def trial(preset: str, mesh: str, batch: int, seq: int, remat: str, **train: Any) -> Any:
    """The trial of a named shape on a mesh written as "fsdp=4,tensor=2"."""
    import dataclasses

    from models import presets
    from models.sharding import MeshConfig
    from scaling.sweep.trial import Trial
    from scaling.train.config import TrainConfig

    sizes = {axis: int(size) for axis, _, size in (part.partition("=") for part in mesh.split(",") if part)}
    model = dataclasses.replace(getattr(presets, preset), remat=remat)
    return Trial(model=model, train=TrainConfig(batch_size=batch, seq_len=seq, **train), mesh=MeshConfig(**sizes))
