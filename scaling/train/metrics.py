"""Metric rows of one run: JSON lines that survive a crash, mirrored to TensorBoard."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from models.errors import ConfigError
from scaling import kept

_ROW: kept.Shape = {"step": int, str: (float, None)}


class MetricsWriter:
    """Appends rows to DIR/metrics.jsonl and DIR/tensorboard; opening it at a step drops the rows after that step.

    A resumed run writes the same rows again, so the file ends up as if the run had never stopped.
    """

    def __init__(self, directory: Path, resume_step: int = 0):
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / "metrics.jsonl"
        kept = [line for line, row in read_rows(self.path) if row["step"] <= resume_step]
        partial = self.path.with_suffix(".partial")  # a crash in between must not lose the rows that are kept
        partial.write_text("".join(kept), encoding="utf-8")
        os.replace(partial, self.path)
        self._file = open(self.path, "a", encoding="utf-8")
        self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=resume_step + 1, write_to_disk=True)

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; `row["step"]` is the number of updates done."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in row.items():
            if name != "step" and value is not None:
                self._board.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Flush and close both files."""
        self._file.close()
        self._board.close()


def read_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """(line, row) of every whole row; a line cut short by a crash, or damaged since, is passed over."""
    rows = []
    for text in kept.read_bytes(path).split(b"\n") if path.exists() else []:
        try:
            row = kept.parsed(text, _ROW, path)
        except ConfigError:
            continue
        rows.append((text.decode() + "\n", row))
    return rows
