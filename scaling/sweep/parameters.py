"""Whose parameters a trial's directory holds: checkpoints of equal shapes can be swapped without any array noticing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.errors import ConfigError, require
from models.serialize import from_json
from scaling import kept
from scaling.sweep.trial import Trial
from scaling.train import manifest


def check_parameters(trial_directory: str | Path, field: str) -> None:
    """ConfigError at `field` when the newest checkpoint in a trial's directory was written by another trial.

    Reads no arrays. What says nothing of its trial (no config.json; metadata of something else) is not refused, and
    what is damaged is left to those who read the arrays.
    """
    path = Path(trial_directory)
    written, saved = path / "config.json", _saved_config(path / "checkpoints")
    if saved is None or not written.is_file():
        return
    here, there = _trial(kept.read(written, dict), str(written)), _trial(saved, str(path / "checkpoints"))
    problem = f"{path / 'checkpoints'} holds the parameters of trial {there.id}, and config.json is of trial {here.id}"
    require(here.id == there.id, field, problem, "put back what belongs here, or run its sweep again")


def _saved_config(checkpoints: Path) -> dict[str, Any] | None:
    """The config of the trial that wrote the newest checkpoint; None where there is none or it does not say."""
    steps = [int(path.name) for path in checkpoints.glob("*") if path.name.isdigit()]
    if not steps:
        return None
    try:
        return manifest.read(checkpoints / str(max(steps))).metadata.get("config")
    except manifest.Damaged:
        return None


def _trial(config: dict[str, Any], place: str) -> Trial:
    try:
        return from_json(Trial, config)
    except ConfigError as error:
        raise ConfigError(place, f"is damaged ({error.field} {error.problem})", kept.RESTORE) from None
