"""Which fields a sweep varies, and their values in each trial: what tells its trials apart for a reader.

Works on trials, and on configs as JSON, as run directories keep them, so that a report needs nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PLANNED = ("model.d_model", "train.steps", "train.learning_rate")  # what an isoFLOP plan sets


def varied(sweep: Mapping[str, Any], trials: Sequence[Any]) -> list[str]:
    """Dotted fields that the points, the plan or the seeds of `sweep` set, and in which its trials differ."""
    names: dict[str, None] = {}
    for point in sweep.get("points") or ():
        names |= dict.fromkeys(point)
    if sweep.get("isoflop"):
        names |= dict.fromkeys(PLANNED)
    if sweep.get("seeds", 1) != 1:
        names["train.seed"] = None
    return [name for name in names if len({str(leaf(trial, name)) for trial in trials}) > 1]


def leaf(config: Any, path: str) -> Any:
    """The value of a dotted field of a config, a dataclass or its JSON; None where it has none."""
    value = config
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
    return value


def values(config: Any, fields: Sequence[str]) -> dict[str, str]:
    """Short name of each field -> its value in one trial, as people write it; whole names where two would be alike."""
    short = [name.rpartition(".")[2] for name in fields]
    names = [s if short.count(s) == 1 else name for s, name in zip(short, fields, strict=True)]
    return {name: _written(leaf(config, field)) for name, field in zip(names, fields, strict=True)}


def _written(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
