"""What is checked before a sweep starts, so that it does not fail in the middle."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from models import counts
from models.errors import ConfigError
from scaling.sweep.trial import Trial

RESERVE = 64e6  # bytes for tables, metrics, logs and the report


def bytes_needed(trials: Sequence[Trial], stack_size: int) -> float:
    """Disk a sweep takes at most: final parameters of every trial, and the checkpoints of two stacks at work."""
    final = [counts.param_bytes(t.model) for t in trials]
    states = [
        (counts.param_bytes(t.model) + counts.optimizer_bytes(t.model, t.train.optimizer)) * (t.train.keep_checkpoints + 1)
        for t in trials
    ]
    return sum(final) + 2 * stack_size * max(states) + RESERVE


def check_disk(path: Path, trials: Sequence[Trial], stack_size: int) -> None:
    """ConfigError when the run directory's disk has less room than the sweep takes."""
    free, need = shutil.disk_usage(path).free, bytes_needed(trials, stack_size)
    if free < need:
        problem = f"has {free / 1e6:,.0f} MB free, but the sweep takes up to {need / 1e6:,.0f} MB"
        raise ConfigError(str(path), problem, "make room, choose another --workdir, or lower train.keep_checkpoints")
