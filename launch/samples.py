"""SampleTable: the samples of an inference job as one Parquet file, written as they come, so that memory stays flat."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

GROUP = 4096  # rows held before they are written
SCHEMA = pa.schema([
    pa.field("line", pa.int64(), metadata={"unit": "of the prompt file, from 1"}),
    pa.field("id", pa.string(), metadata={"unit": "copied from the prompt, an integer as text"}),
    pa.field("sample", pa.int64(), metadata={"unit": "of this prompt, from 0"}),
    pa.field("text", pa.string()),
    pa.field("tokens", pa.list_(pa.int32())),
    pa.field("logprobs", pa.list_(pa.float32()), metadata={"unit": "nats, one per token"}),
    pa.field("prompt_logprobs", pa.list_(pa.float32()), metadata={"unit": "nats, of the prompt's tokens; null first"}),
    pa.field("finish_reason", pa.string()),
    pa.field("near_ties", pa.list_(pa.int32()), metadata={"unit": "positions whose token rounding could flip"}),
    pa.field("prompt_tokens", pa.int64()),
    pa.field("generated_tokens", pa.int64()),
    pa.field("flops", pa.float64()),
    pa.field("bytes", pa.float64()),
    pa.field("fields", pa.string(), metadata={"unit": "the prompt's own columns, as a JSON object"}),
    pa.field("error", pa.string(), metadata={"unit": "why a prompt could not be used"}),
])  # fmt: skip


class SampleTable:
    """Rows on their way to a Parquet file, which appears whole at the end; use as a context manager."""

    def __init__(self, path: Path):
        self.path, self.partial = path, path.with_name(f".{path.name}.partial")
        self.rows: list[dict[str, Any]] = []

    def __enter__(self) -> SampleTable:
        self.writer = pq.ParquetWriter(self.partial, SCHEMA, compression="zstd", write_page_checksum=True)
        return self

    def add(self, line: dict[str, Any]) -> None:
        """One line of a shard: a sample, or a prompt that could not be used."""
        row = {name: _unicode(line.get(name)) for name in SCHEMA.names}
        row |= {name: value for name, value in line.get("ledger", {}).items() if name in row}
        own = {name: value for name, value in line.items() if name not in SCHEMA.names and name != "ledger"}
        row |= {"fields": _unicode(json.dumps(own, ensure_ascii=False)) if own else None}
        row["id"] = None if row["id"] is None else str(row["id"])
        self.rows.append(row)
        if len(self.rows) == GROUP:
            self._flush()

    def _flush(self) -> None:
        self.writer.write_table(pa.Table.from_pylist(self.rows, SCHEMA))
        self.rows = []

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None):
        if kind is None and self.rows:
            self._flush()
        self.writer.close()
        if kind is None:
            os.replace(self.partial, self.path)
        else:
            self.partial.unlink(missing_ok=True)


def _unicode(value: Any) -> Any:
    """Text that Parquet can hold: half of a surrogate pair becomes a question mark."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value
