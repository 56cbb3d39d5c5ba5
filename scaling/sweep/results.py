"""Results: one row per trial, kept as one small file each (exactly once) and collected into one Parquet table."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import ConfigError

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


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write text or bytes so that a reader or a crash sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as f:
            f.write(content.encode() if isinstance(content, str) else content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)  # a full disk has no room for half a file
        raise


class Results:
    """The rows of a run directory: `trials/<id>/result.json` each, `results.parquet` together."""

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)

    def _row_path(self, trial: str) -> Path:
        return self.directory / "trials" / trial / "result.json"

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep one trial's row; the second writer of a trial changes nothing."""
        path = self._row_path(row["trial"])
        if not path.exists():
            write_atomically(path, json.dumps(dict(row), indent=1))

    def has(self, trial: str) -> bool:
        """Whether a trial has finished, done or failed."""
        return self._row_path(trial).exists()

    def get(self, trial: str) -> dict[str, Any] | None:
        """The row of a finished (done or failed) trial, or None."""
        path = self._row_path(trial)
        if not path.exists():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as e:
            fix = "delete this file and run the same command again"
            raise ConfigError(str(path), f"is damaged ({e})", fix) from None

    def table(self) -> pa.Table:
        """All rows, in the order of (flops, params, seed, trial); units in the field metadata."""
        trials = sorted(path.parent.name for path in self.directory.glob("trials/*/result.json"))
        rows = [row for trial in trials if (row := self.get(trial)) is not None]
        rows.sort(key=lambda r: (r["flops"], r["params"], r["seed"], r["trial"]))
        free = sorted({name for row in rows for name in row} - COLUMNS.keys())
        fields = [pa.field(name, kind, metadata={"unit": unit}) for name, (unit, kind) in COLUMNS.items()]
        arrays = [pa.array([row.get(f.name) for row in rows], f.type) for f in fields]
        for name in free:
            arrays.append(pa.array([row.get(name) for row in rows]))
            fields.append(pa.field(name, arrays[-1].type))
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))

    def write(self) -> Path:
        """Collect the rows into `results.parquet`, atomically; unchanged rows give an unchanged file."""
        path = self.directory / "results.parquet"
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        pq.write_table(self.table(), partial)
        if path.exists() and path.read_bytes() == partial.read_bytes():
            partial.unlink()
        else:
            os.replace(partial, path)
        return path

    def frame(self, columns: Iterable[str] | None = None) -> pd.DataFrame:
        """The rows as a DataFrame (all columns by default)."""
        frame = self.table().to_pandas()
        return frame if columns is None else frame[list(columns)]
