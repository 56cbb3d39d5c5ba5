"""PromptFile: the input of an inference job, JSON lines or Parquet, read shard by shard so that memory stays flat.

A row has one of `prompt` (text), `tokens` (ids) or `messages` (a chat: role and content), and may have `id`, a string
or an integer, `chat_template_kwargs`, variables of the chat template, and columns of its own: all but the variables are
copied to the output. Its random numbers depend on its number in the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

from models.errors import ConfigError, nearest, require

KINDS = ("prompt", "tokens", "messages")
BATCH = 256  # rows of a Parquet file that are held at once
TEMPLATE = "chat_template_kwargs"
FIELDS = (*KINDS, "id", TEMPLATE)
INDEX = "__index_level_0__"  # what pandas writes beside the columns
# what the output says of a sample, for which a column of the row cannot stand
TAKEN = ("line", "sample", "text", "logprobs", "prompt_logprobs", "finish_reason", "near_ties", "ledger", "error",
         "fields", "prompt_tokens", "generated_tokens", "flops", "bytes")  # fmt: skip
SEARCHED = ("best", "prediction", "correct", "candidates", "rounds", "out_of_budget", "failed", "report")  # of a search


@dataclass(frozen=True)
class Prompt:
    """One row; exactly one of text, tokens and messages is given."""

    line: int  # 1-based
    id: str | int | None = None
    text: str | None = None
    tokens: tuple[int, ...] | None = None
    messages: tuple[dict[str, Any], ...] | None = None  # the content of each is text
    template: dict[str, Any] = field(default_factory=dict)  # variables of the chat template
    fields: dict[str, Any] = field(default_factory=dict)  # the row's own columns


@dataclass(frozen=True)
class BadLine:
    """A row that cannot be used, and why."""

    line: int
    problem: str
    fix: str

    @property
    def message(self) -> str:
        """Both on one line that can be printed and written, whatever the row holds."""
        text = f"{self.problem}: {self.fix}"
        return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


@dataclass(frozen=True)
class Shard:
    """Consecutive rows: the first one's number (1-based), its byte offset (JSON lines) and how many there are."""

    first: int
    offset: int
    rows: int


class Twice(Exception):
    """A name that an object of JSON has twice, of which a reader would take the last and lose the first."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise Twice(next(name for name in names if names.count(name) > 1))
    return made


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
        self.taken: Sequence[str] = TAKEN  # names that no column of a row may have

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
            yield row if isinstance(row, BadLine) else as_prompt(line, row, self.taken)

    def _lines(self, shard: Shard) -> Iterator[tuple[int, Any]]:
        with open(self.path, "rb") as f:
            f.seek(shard.offset)
            for line in range(shard.first, shard.first + shard.rows):
                text = f.readline()
                if not text.strip():
                    continue
                fix = 'write one JSON object: {"prompt": ...}'
                try:
                    row = json.loads(text, object_pairs_hook=_once)
                except Twice as error:
                    row = BadLine(line, f"has the field {error.args[0]!r} twice", "leave one of them out")
                except ValueError as error:  # what is no UTF-8 included
                    row = BadLine(line, f"is not JSON ({error})", fix)
                except RecursionError:
                    row = BadLine(line, "is nested too deeply", fix)
                yield line, row

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


def as_prompt(line: int, row: Any, taken: Sequence[str] = TAKEN) -> Prompt | BadLine:
    """A decoded row as a Prompt, or what is wrong with it."""
    if not isinstance(row, dict):
        return BadLine(line, f"is {type(row).__name__}, not an object", 'write {"prompt": ...}')
    kinds = [name for name in KINDS if name in row]
    own = {name: value for name, value in row.items() if name not in (*FIELDS, INDEX)}
    if not kinds:
        guess = next((f"did you mean {kind!r} by {name!r}?" for name in own if (kind := nearest(name, KINDS))), None)
        return BadLine(line, f"has none of {', '.join(KINDS)}", guess or "give one of them")
    if len(kinds) > 1:
        return BadLine(line, f"has {' and '.join(kinds)}", "give exactly one of them")
    named = [name for name in own if name in taken]
    if named:
        return BadLine(line, f"has a column {named[0]!r}, which is one of the output's", "give it another name")
    name = row.get("id")
    if isinstance(name, bool) or not isinstance(name, str | int | NoneType):
        return BadLine(line, f"id is {name!r}", "give a string or an integer")
    template = row.get(TEMPLATE) or {}
    if not (isinstance(template, dict) and all(isinstance(key, str) for key in template)):
        return BadLine(line, f"{TEMPLATE} is {template!r}", 'give an object such as {"enable_thinking": false}')
    fault = _fault(kinds[0], row[kinds[0]]) or _unwritable(row)
    if fault:
        return BadLine(line, *fault)
    rest: dict[str, Any] = {"template": template, "fields": own}
    if kinds[0] == "prompt":
        return Prompt(line, name, text=row["prompt"], **rest)
    if kinds[0] == "tokens":
        return Prompt(line, name, tokens=tuple(row["tokens"]), **rest)
    return Prompt(line, name, messages=tuple(_with_text(message) for message in row["messages"]), **rest)


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
        if not (isinstance(message, dict) and isinstance(message.get("role"), str) and "content" in message):
            return "messages has an entry without role and content", 'give {"role": "user", "content": ...}'
        if _text_of(message["content"]) is None:
            return "messages has content that is no text", 'give text, or parts {"type": "text", "text": ...}'
    return None


def _text_of(content: Any) -> str | None:
    """The text of a message: as it is, or of its parts, one to a line; None where a part is something else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return None
    texts = [part["text"] for part in content if part.get("type") == "text" and isinstance(part.get("text"), str)]
    return "\n".join(texts) if len(texts) == len(content) else None


def _with_text(message: dict[str, Any]) -> dict[str, Any]:
    return message | {"content": _text_of(message["content"])}


def _unwritable(row: dict[str, Any]) -> tuple[str, str] | None:
    """(problem, fix) of the first field that is no text or number that JSON in UTF-8 can hold, or None."""
    for name, value in row.items():
        try:
            json.dumps({name: value}, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError as error:
            letter = error.object[error.start]
            return f"{name!r} holds {letter!r}, half of a character, which is no text", "repair the text"
        except (TypeError, ValueError, RecursionError) as error:
            return f"{name!r} cannot be written as JSON ({error})", "leave it out"
    return None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
