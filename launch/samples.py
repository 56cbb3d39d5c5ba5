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
SAMPLES = pa.schema([
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
_CANDIDATE = pa.struct([
    pa.field("text", pa.string()), pa.field("tokens", pa.list_(pa.int32())), pa.field("logprob", pa.float64()),
    pa.field("score", pa.float64()), pa.field("weight", pa.float64()), pa.field("complete", pa.bool_()),
    pa.field("answer", pa.string()),
])  # fmt: skip
SEARCHES = pa.schema([
    *(SAMPLES.field(name) for name in ("line", "id", "sample", "text", "tokens", "finish_reason")),
    pa.field("best", pa.int64(), metadata={"unit": "of the candidates, from 0; null where none answers"}),
    pa.field("prediction", pa.string(), metadata={"unit": "the answer that was read in the text"}),
    pa.field("correct", pa.bool_(), metadata={"unit": "against the prompt's own answer"}),
    pa.field("failed", pa.string(), metadata={"unit": "why a verifier could not score it"}),
    pa.field("candidates", pa.list_(_CANDIDATE)),
    pa.field("rounds", pa.int64()),
    pa.field("out_of_budget", pa.bool_()),
    *(pa.field(f"{name}_tokens", pa.int64()) for name in ("prompt", "reused", "generated", "discarded", "verifier")),
    *(SAMPLES.field(name) for name in ("flops", "bytes")),
    pa.field("depth", pa.int64(), metadata={"unit": "tokens one after the other"}),
    pa.field("report", pa.string(), metadata={"unit": "what the strategy says of its course, as a JSON object"}),
    *(SAMPLES.field(name) for name in ("fields", "error")),
])  # fmt: skip


class SampleTable:
    """Rows on their way to a Parquet file, which appears whole at the end; use as a context manager."""

    def __init__(self, path: Path, schema: pa.Schema = SAMPLES):
        self.schema, self.path, self.partial = schema, path, path.with_name(f".{path.name}.partial")
        self.rows: list[dict[str, Any]] = []

    def __enter__(self) -> SampleTable:
        self.writer = pq.ParquetWriter(self.partial, self.schema, compression="zstd", write_page_checksum=True)
        return self

    def add(self, line: dict[str, Any]) -> None:
        """One line of a shard: a sample, or a prompt that could not be used."""
        row = {name: _unicode(line.get(name)) for name in self.schema.names}
        row |= {name: value for name, value in line.get("ledger", {}).items() if name in row}
        own = {name: value for name, value in line.items() if name not in self.schema.names and name != "ledger"}
        row |= {"fields": _unicode(json.dumps(own, ensure_ascii=False)) if own else None}
        row["id"] = None if row["id"] is None else str(row["id"])
        self.rows.append(row)
        if len(self.rows) == GROUP:
            self._flush()

    def _flush(self) -> None:
        self.writer.write_table(pa.Table.from_pylist(self.rows, self.schema))
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
    """What Parquet can hold: half of a surrogate pair becomes a question mark, an object its JSON."""
    value = json.dumps(value) if isinstance(value, dict) else value
    return value.encode(errors="replace").decode() if isinstance(value, str) else value
