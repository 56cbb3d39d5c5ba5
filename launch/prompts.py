"""PromptFile: the input of an inference job, JSON lines or Parquet, read shard by shard so that memory stays flat.

A row has one of `prompt` (text), `tokens` (ids) or `messages` (a chat: role and content), and may have `id`, a string
that is copied to the output. Its random numbers depend on its number in the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import ConfigError, nearest, require

KINDS = ("prompt", "tokens", "messages")
FIELDS = (*KINDS, "id")
BATCH = 256  # rows of a Parquet file that are held at once


@dataclass(frozen=True)
class Prompt:
    """One row; exactly one of text, tokens and messages is given."""

    line: int  # 1-based
    id: str | None = None
    text: str | None = None
    tokens: tuple[int, ...] | None = None
    messages: tuple[dict[str, str], ...] | None = None


@dataclass(frozen=True)
class BadLine:
    """A row that cannot be used, and why."""

    line: int
    problem: str
    fix: str


@dataclass(frozen=True)
class Shard:
    """Consecutive rows: the first one's number (1-based), its byte offset (JSON lines) and how many there are."""

    first: int
    offset: int
    rows: int


class PromptFile:
    """Rows of a .jsonl or .parquet file; ConfigError when it cannot be read or is neither."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        require(self.path.exists(), str(path), "no such file", "give a .jsonl or .parquet file of prompts")
        require(self.path.is_file(), str(path), "is a directory", "give a .jsonl or .parquet file of prompts")
        suffixes = (".jsonl", ".ndjson", ".parquet")
        fix = "give JSON lines (.jsonl) or a Parquet file (.parquet)"
        require(self.path.suffix in suffixes, str(path), f"{self.path.suffix or 'no suffix'} is no known format", fix)
        self.parquet = self.path.suffix == ".parquet"

    def digest(self) -> str:
        """sha256 of the file."""
        with open(self.path, "rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()

    def shards(self, rows: int) -> list[Shard]:
        """The file in shards of `rows` rows (the last may be shorter); ConfigError when it has none."""
        shards = self._parquet_shards(rows) if self.parquet else self._line_shards(rows)
        require(len(shards) > 0, str(self.path), "holds no prompts", 'write one JSON object per line: {"prompt": ...}')
        return shards

    def _parquet_shards(self, rows: int) -> list[Shard]:
        total = self._open_parquet().metadata.num_rows
        return [Shard(first + 1, 0, min(rows, total - first)) for first in range(0, total, rows)]

    def _line_shards(self, rows: int) -> list[Shard]:
        starts, count, offset = [], 0, 0
        with open(self.path, "rb") as f:
            for line in f:
                if count % rows == 0:
                    starts.append(offset)
                count, offset = count + 1, offset + len(line)
        return [Shard(i * rows + 1, start, min(rows, count - i * rows)) for i, start in enumerate(starts)]

    def read(self, shard: Shard) -> Iterator[Prompt | BadLine]:
        """The rows of one shard in order; blank lines are passed over."""
        rows = self._parquet_rows(shard) if self.parquet else self._lines(shard)
        for line, row in rows:
            yield row if isinstance(row, BadLine) else as_prompt(line, row)

    def _lines(self, shard: Shard) -> Iterator[tuple[int, Any]]:
        with open(self.path, "rb") as f:
            f.seek(shard.offset)
            for line in range(shard.first, shard.first + shard.rows):
                text = f.readline()
                if not text.strip():
                    continue
                try:
                    yield line, json.loads(text)
                except ValueError as error:  # what is no UTF-8 included
                    problem = f"is not JSON ({error})"
                    yield line, BadLine(line, problem, 'write one JSON object: {"prompt": ...}')

    def _parquet_rows(self, shard: Shard) -> Iterator[tuple[int, Any]]:
        file = self._open_parquet()
        begin, end, start = shard.first - 1, shard.first - 1 + shard.rows, 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            low, high = max(begin, start), min(end, start + rows)
            if low < high:
                at = start
                for batch in file.iter_batches(BATCH, row_groups=[group]):  # a group may unfold to any size
                    found = batch.slice(max(low - at, 0), max(min(high, at + len(batch)) - max(low, at), 0))
                    for i, row in enumerate(found.to_pylist(), max(low, at) + 1):
                        yield i, {name: value for name, value in row.items() if value is not None}
                    at += len(batch)
                    if at >= high:
                        break
            start += rows

    def _open_parquet(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.ParquetFile(self.path)
        except (pa.ArrowException, OSError) as error:
            problem = f"cannot be read as Parquet ({error})"
            raise ConfigError(str(self.path), problem, "write it again; it may be cut short") from None


def as_prompt(line: int, row: Any) -> Prompt | BadLine:
    """A decoded row as a Prompt, or what is wrong with it."""
    if not isinstance(row, dict):
        return BadLine(line, f"is {type(row).__name__}, not an object", 'write {"prompt": ...}')
    unknown = [name for name in row if name not in FIELDS]
    if unknown:
        guess = nearest(unknown[0], FIELDS)
        fix = f"did you mean {guess!r}?" if guess else f"fields: {', '.join(FIELDS)}"
        return BadLine(line, f"has the unknown field {unknown[0]!r}", fix)
    kinds = [name for name in KINDS if name in row]
    if len(kinds) != 1:
        return BadLine(line, f"has {' and '.join(kinds) or 'none'} of {', '.join(KINDS)}", "give exactly one of them")
    if not isinstance(row.get("id", ""), str):
        return BadLine(line, f"id is {row['id']!r}", "give a string")
    fault = _fault(kinds[0], row[kinds[0]])
    if fault:
        return BadLine(line, *fault)
    name = row.get("id")
    if kinds[0] == "prompt":
        return Prompt(line, name, text=row["prompt"])
    if kinds[0] == "tokens":
        return Prompt(line, name, tokens=tuple(row["tokens"]))
    return Prompt(line, name, messages=tuple(row["messages"]))


def _fault(kind: str, value: Any) -> tuple[str, str] | None:
    """(problem, fix) of the field that holds the prompt, or None."""
    if kind == "prompt":
        if not isinstance(value, str):
            return f"prompt is {type(value).__name__}", "give text"
        return None if value else ("prompt is empty", "give at least one character")
    if not isinstance(value, list) or not value:
        return f"{kind} is {'empty' if value == [] else type(value).__name__}", "give a list that is not empty"
    if kind == "tokens":
        wrong = [token for token in value if not _is_count(token)]
        return (f"tokens has {wrong[0]!r}", "give token ids, integers from 0") if wrong else None
    for message in value:
        if not (isinstance(message, dict) and all(isinstance(message.get(k), str) for k in ("role", "content"))):
            return "messages has an entry without role and content", 'give {"role": "user", "content": ...}'
    return None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
