"""Results: one row per trial, kept as one small file each (exactly once) and collected into one Parquet table."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from models.errors import ConfigError
from scaling import kept, tables

if TYPE_CHECKING:
    import pandas as pd

# name -> (unit or meaning, Arrow type); free columns follow, in alphabetical order
COLUMNS: dict[str, tuple[str, pa.DataType]] = {
    "trial": ("id: hash of the resolved config", pa.string()),
    "sweep": ("name of the sweep", pa.string()),
    "status": ("done, failed, or stopped by its rivals", pa.string()),
    "seed": ("of initialisation and data order", pa.int64()),
    "params": ("parameters, all", pa.int64()),
    "params_nonembed": ("parameters without embedding tables", pa.int64()),
    "tokens": ("scored training tokens", pa.int64()),
    "unique_tokens": ("distinct training tokens", pa.int64()),
    "params_active": ("parameters used per token", pa.int64()),
    "flops": ("training FLOPs, exact, causal, head included", pa.float64()),
    "loss": ("nats/token on the held-out files", pa.float64()),
    "bpb": ("bits/byte on the held-out files", pa.float64()),
    "error": ("why the trial failed or was stopped", pa.string()),
    "wall_s": ("seconds; in a stack, shared by FLOPs", pa.float64()),
    "device": ("kind", pa.string()),
    "devices": ("number", pa.int64()),
    "config": ("resolved config, JSON", pa.string()),
}
TIMES_AND_DEVICES = ("wall_s", "device", "devices")  # outside bit-equality
_JSON = {"string": str, "int64": int, "double": float}
_SCALAR = (bool, int, float, str, None)
_ROW: kept.Shape = {str: _SCALAR} | {f"{name}?": (_JSON[str(kind)], None) for name, (_, kind) in COLUMNS.items()}
_ROW |= {"trial": str, "status": str, "seed": int, "params": int, "flops": float, "loss": (float, None)}
_ROW |= {"stopped_step?": (int, None), "stopped_loss?": (float, None)}
_STATES = ("done", "failed", "stopped")
_TOLD: set[str] = set()  # of damaged rows: who looks again every few seconds says it once


class Results:
    """The rows of a run directory: `trials/<id>/result.json` each, `results.parquet` together.

    A row that is damaged, or another trial's, is as if it were not there: it costs its trial, which is trained again,
    and not the table.
    """

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)
        self._seen: dict[str, tuple[tuple[int, ...], dict[str, Any] | None]] = {}  # trial -> its file, what it held

    def _row_path(self, trial: str) -> Path:
        return self.directory / "trials" / trial / "result.json"

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep one trial's row; the second writer of a trial changes nothing, unless the first one's is damaged."""
        path = self._row_path(row["trial"])
        if path.exists() and self.get(row["trial"]) is None:
            os.replace(path, path.with_name("result.damaged.json"))
        kept.create(path, json.dumps(kept.sealed(row), indent=1))

    def has(self, trial: str) -> bool:
        """Whether a trial has finished, done or failed."""
        return self.get(trial) is not None

    def get(self, trial: str) -> dict[str, Any] | None:
        """The row of a finished (done or failed) trial, or None; a damaged file is told of once."""
        path = self._row_path(trial)
        try:
            found = path.stat()
        except OSError:
            return None
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        before = self._seen.get(trial)
        if before is None or before[0] != stamp:
            self._seen[trial] = before = (stamp, self._read(path, trial))
        return None if before[1] is None else dict(before[1])

    def _read(self, path: Path, trial: str) -> dict[str, Any] | None:
        fix = "its trial counts as not done, and the sweep's command trains it again"
        try:
            row = kept.opened(kept.read(path, _ROW, fix), path, fix)
            if row["trial"] != trial or row["status"] not in _STATES:
                raise ConfigError(str(path), f"is of trial {row['trial']}, {row['status']}", fix)
        except FileNotFoundError:
            return None
        except ConfigError as error:
            if (said := str(error)) not in _TOLD:
                _TOLD.add(said)
                logging.warning("%s", said)
            return None
        return row

    def table(self) -> pa.Table:
        """All rows, in the order of (flops, params, seed, trial); units in the field metadata."""
        trials = sorted(path.parent.name for path in self.directory.glob("trials/*/result.json"))
        rows = [row for trial in trials if (row := self.get(trial)) is not None]
        rows.sort(key=lambda r: (r["flops"], r["params"], r["seed"], r["trial"]))
        free = sorted({name for row in rows for name in row} - COLUMNS.keys())
        fields = [pa.field(name, kind, metadata={"unit": unit}) for name, (unit, kind) in COLUMNS.items()]
        arrays = [pa.array([row.get(f.name) for row in rows], f.type) for f in fields]
        for name in free:
            arrays.append(_column([row.get(name) for row in rows]))
            fields.append(pa.field(name, arrays[-1].type))
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))

    def write(self) -> Path:
        """Collect the rows into `results.parquet`, atomically; unchanged rows give an unchanged file."""
        path, content = self.directory / "results.parquet", tables.parquet(self.table())
        if kept.bytes_or_none(path) != content:
            kept.write_atomically(path, content)
        return path

    def frame(self, columns: Iterable[str] | None = None) -> pd.DataFrame:
        """The rows as a DataFrame (all columns by default)."""
        frame = self.table().to_pandas()
        return frame if columns is None else frame[list(columns)]


def _column(values: list[Any]) -> pa.Array:
    """Values of a free column; what has no type in common becomes text."""
    try:
        return pa.array(values)
    except pa.ArrowException:
        return pa.array([None if value is None else str(value) for value in values])
