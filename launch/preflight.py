"""What is checked before a sweep starts, so that it does not fail in the middle."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.measuring import measuring
from models import counts
from models.errors import ConfigError
from models.sharding import MeshConfig
from scaling.data import Dataset, check_vocabulary, prepare
from scaling.data.summary import describe, warnings
from scaling.sweep.parameters import check_parameters
from scaling.sweep.trial import Trial
from scaling.train.initial import check_initial

RESERVE = 64e6  # bytes for tables, metrics, logs and the report


def check_trials(trials: Sequence[Trial]) -> dict[str, dict[str, Any]]:
    """ConfigError for data or initial parameters that a trial cannot train on.

    Returns by DataConfig.key what a run directory keeps of the data (Dataset.record), with `epochs`: how often the
    longest trial reads it.
    """
    datasets: dict[str, Dataset] = {}
    records: dict[str, dict[str, Any]] = {}
    keys = {data: data.key for data in {trial.data for trial in trials}}
    for trial in trials:
        key = keys[trial.data]
        if key not in datasets:
            datasets[key] = prepare(trial.data, trial.model.vocab_size)
            records[key] = datasets[key].record | {"epochs": 0.0}
        check_vocabulary(trial.model.vocab_size, datasets[key].tokenizer.vocab_size)
    longest: dict[tuple[str, int, int, int], int] = {}
    for t in trials:
        shape = (keys[t.data], t.train.seq_len, t.train.batch_size, t.train.eval_sequences)
        longest[shape] = max(longest.get(shape, 0), t.train.steps)
    for (key, seq_len, batch_size, sequences), steps in longest.items():
        batches = datasets[key].batches(seq_len, batch_size)
        datasets[key].heldout_batches(seq_len, batch_size, limit_tokens=sequences * seq_len)
        records[key]["epochs"] = max(records[key]["epochs"], batches.epochs(steps))
    for wanted in {(t.train.evaluations, t.data, t.model, t.mesh): t for t in trials}.values():
        measuring(wanted)
    for path, model in {(t.init_from, t.train.trains.before(t.model)) for t in trials}:
        if path is not None:
            check_initial(path, model)
            check_parameters(path, "train.init_from")
    return records


def about(records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines for a person: the data of a sweep and what may surprise in it, the same text once."""
    lines: dict[str, None] = {}
    for record in records.values():
        lines |= dict.fromkeys(f"data          {line}" for line in describe(record))
    for record in records.values():
        lines |= dict.fromkeys(f"warning       {line}" for line in warnings(record, record["epochs"]))
    epochs = max((record["epochs"] for record in records.values()), default=0.0)
    return [*lines, f"epochs        {epochs:.3g} at most"]


def check_devices(meshes: Iterable[MeshConfig], devices: int | None) -> None:
    """ConfigError when a mesh needs more devices than a worker has; None: only the worker can tell."""
    if devices is None:
        return
    for mesh in set(meshes):
        mesh.fit(devices)


def bytes_needed(trials: Sequence[Trial], stack_size: int) -> float:
    """Disk a sweep takes at most: parameters of every trial, final and kept on the way, and the checkpoints of two
    stacks at work."""
    final = [counts.param_bytes(t.model) for t in trials]
    steps = [t.train.steps // t.train.evaluations.every if t.train.evaluations.keep else 0 for t in trials]
    kept = sum(size * number for size, number in zip(final, steps, strict=True))
    moments = [counts.optimizer_bytes(t.model, t.train.optimizer) for t in trials]
    saved = [t.train.keep_checkpoints + 1 for t in trials]
    states = [copies * (a + b) for copies, a, b in zip(saved, final, moments, strict=True)]
    return sum(final) + kept + 2 * stack_size * max(states) + RESERVE


def check_disk(path: Path, trials: Sequence[Trial], stack_size: int) -> None:
    """ConfigError when the run directory's disk has less room than the sweep takes; the directory need not exist."""
    free, need = free_bytes(path), bytes_needed(trials, stack_size)
    if free < need:
        problem = f"has {free / 1e6:,.0f} MB free, but the sweep takes up to {need / 1e6:,.0f} MB"
        raise ConfigError(str(path), problem, "make room, choose another --workdir, or lower train.keep_checkpoints")


def free_bytes(path: Path) -> int:
    """Room on the disk where `path` is or would be."""
    return shutil.disk_usage(next(p for p in (path, *path.absolute().parents) if p.exists())).free
