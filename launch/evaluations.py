"""Evaluation: what an evaluation keeps on disk, so that every item is there exactly once whatever is killed.

    evaluation.json    digests of models and items, how they are asked; fixed once written
    cells/<n>.parquet  rows of a shard of one suite at one checkpoint, written in one step; *.damaged what was changed
    .leases/<n>.*      who works on cell n
    items.parquet      one row per item and checkpoint, in the order of checkpoints, suites and items
    summary.csv        one line per checkpoint, suite and metric, with an interval over items
    manifest.json      counts and digests; written last

A row depends on its item and the model alone, so it does not matter which process writes it. A cell is one file, which
appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from models.errors import ConfigError, require
from scaling import kept, tables
from scaling.evaluate.item import Item, Quantity
from scaling.evaluate.summary import summary
from scaling.kept import write_atomically
from scaling.sweep.lease import Presence

SHARD = 256  # items that one process claims at a time
_WRITTEN: kept.Shape = {"identity": dict, "checkpoint": str, "cells": [[(int, None)]]}
_MANIFEST: kept.Shape = {"identity": str, "items": int, "files": {str: str}, "flops": float}
# columns that say which model a row is of, before those of scaling.evaluate
MODEL_COLUMNS = {
    "trial": pa.string(), "step": pa.int64(), "seed": pa.int64(), "params": pa.int64(), "tokens": pa.int64(),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """Items `first` to `stop` of suite number `suite` at the model's step number `step` (None: it has no steps)."""

    step: int | None
    suite: int
    first: int
    stop: int


class Evaluation:
    """One output directory; `open` makes it or checks that it is this evaluation's."""

    def __init__(self, path: Path, identity: dict[str, Any], suites: dict[str, Sequence[Item]], cells: list[Cell]):
        self.path, self.identity, self.cells = path, identity, cells
        self.names, self.suites = list(suites), list(suites.values())

    @classmethod
    def open(
        cls, path: Path, checkpoint: str, models: dict[int | None, str], suites: dict[str, Sequence[Item]],
        settings: dict[str, Any],
    ) -> Evaluation:  # fmt: skip
        """The evaluation in directory `path`. models: step -> digest of its parameters.

        Raises:
          ConfigError: the directory belongs to another evaluation, or to something else.
        """
        digests = {name: items_digest(items) for name, items in suites.items()}
        identity = {"models": {str(step): made for step, made in models.items()}, "items": digests} | settings
        cells = [
            Cell(step, number, first, min(first + SHARD, len(items)))
            for step in models
            for number, items in enumerate(suites.values())
            for first in range(0, len(items), SHARD)
        ]
        written = path / "evaluation.json"
        if not written.exists():
            strangers = sorted(p.name for p in path.iterdir() if not p.name.startswith(".")) if path.is_dir() else []
            if "evaluation.json" not in strangers:
                problem = f"is not empty ({', '.join(strangers[:3])}) and holds no evaluation"
                require(not strangers, str(path), problem, "choose a new --out")
            lines = [[cell.step, cell.suite, cell.first, cell.stop] for cell in cells]
            record = {"identity": identity, "checkpoint": os.path.abspath(checkpoint), "cells": lines}
            kept.create(written, json.dumps(record, indent=1))
        before = kept.read(written, _WRITTEN)["identity"]
        changed = [name for name in identity.keys() | before.keys() if identity.get(name) != before.get(name)]
        problem = f"belongs to another evaluation (changed: {', '.join(sorted(changed))})"
        require(not changed, str(path), problem, "choose a new --out, or give what it was started with")
        return cls(path, identity, suites, cells)

    @property
    def digest(self) -> str:
        """Of what the evaluation is, by which its files are told from another's."""
        return kept.digest(self.identity)

    def cell_path(self, index: int) -> Path:
        """Where a cell's rows are kept."""
        return self.path / "cells" / f"{index:06d}.parquet"

    def is_finished(self) -> bool:
        """Whether the last file is written."""
        return (self.path / "manifest.json").exists()

    def is_done(self, index: int) -> bool:
        """Whether a cell's rows are kept, as they were written; what is not is set aside, and said to be."""
        file = self.cell_path(index)
        if self.is_finished():
            return True
        if not file.exists():
            return False
        try:
            tables.read(file, self._facts(index))
        except ConfigError as error:
            os.replace(file, file.with_suffix(".damaged"))
            logging.warning("%s %s: its items are measured again", file, error.problem)
            return False
        return True

    def items(self, index: int) -> Sequence[Item]:
        """The items of a cell."""
        cell = self.cells[index]
        return self.suites[cell.suite][cell.first : cell.stop]

    def write(self, index: int, table: pa.Table) -> None:
        """Keep a cell's rows."""
        write_atomically(self.cell_path(index), tables.parquet(table, self._facts(index)))

    def _facts(self, index: int) -> dict[str, str]:
        return {"evaluation": self.digest, "cell": str(index)}

    def presence(self) -> Presence:
        """This process as one of those that work on it: a context manager."""
        return Presence(self.path / ".leases", "evaluate")

    def finish(self, level: float) -> None:
        """Join the cells and write the summary and the manifest; nothing where a cell is missing."""
        indices = range(len(self.cells))
        missing = [i for i in indices if not self.is_done(i)]  # all are looked at: what is damaged is set aside
        if missing:
            return
        table = pa.concat_tables([tables.read(self.cell_path(i), self._facts(i)) for i in indices])
        table = table.replace_schema_metadata(None)
        frame = table.to_pandas()
        by = ["step", "task"] if frame["step"].notna().any() else ["task"]
        contents = {
            "items.parquet": tables.parquet(table, {"evaluation": self.digest}),
            "summary.csv": summary(frame, by, level).to_csv(index=False).encode(),
        }
        for name, content in contents.items():
            write_atomically(self.path / name, content)
        files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        manifest = {"identity": self.digest, "items": len(frame), "files": files, "flops": float(frame["flops"].sum())}
        write_atomically(self.path / "manifest.json", json.dumps(kept.sealed(manifest), indent=1))
        for i in indices:
            self.cell_path(i).unlink(missing_ok=True)

    def verify(self) -> tuple[pd.DataFrame, dict[str, Any]]:
        """(the summary, the manifest) of a finished evaluation; ConfigError when a file is not what was written."""
        path = self.path / "manifest.json"
        fix = "restore it, or delete the directory and run the evaluation again"
        manifest = kept.opened(kept.read(path, _MANIFEST, fix), path, fix)
        require(manifest["identity"] == self.digest, str(path), "is another evaluation's", fix)
        for name, digest in manifest["files"].items():
            file = self.path / name
            same = file.is_file() and hashlib.sha256(kept.read_bytes(file)).hexdigest() == digest
            require(same, str(file), "is not what the evaluation wrote", fix)
        return pd.read_csv(self.path / "summary.csv"), manifest


def items_digest(items: Sequence[Item]) -> str:
    """sha256 of all that is asked and of all that counts as right."""
    lines = []
    for item in items:
        values = dict(vars(item))
        values["gold"] = vars(item.gold) if isinstance(item.gold, Quantity) else item.gold
        lines.append(values | {"tags": dict(item.tags)})
    return kept.digest(lines)
