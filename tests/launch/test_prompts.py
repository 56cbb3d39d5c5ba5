"""Prompt files: every row once whatever the shard size, and a bad row is named without stopping the others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.prompts import BadLine, Prompt, PromptFile, as_prompt
from models.errors import ConfigError


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=20), st.integers(1, 7), st.booleans(), st.integers(1, 9))
def test_shards_hold_every_row_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], size: int, parquet: bool, group: int
) -> None:
    path = tmp_path_factory.mktemp("prompts") / ("p.parquet" if parquet else "p.jsonl")
    if parquet:
        texts = [text.encode("utf-8", "replace").decode() for text in texts]
        pq.write_table(pa.table({"prompt": texts}), path, row_group_size=group)
    else:
        path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    file = PromptFile(path)
    rows = [row for shard in file.shards(size) for row in file.read(shard)]
    assert [(row.line, row.text) for row in rows if isinstance(row, Prompt)] == list(enumerate(texts, 1))


def test_blank_lines_keep_the_numbering(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n\n{"prompt": "b"}')
    file = PromptFile(path)
    assert [row.line for shard in file.shards(2) for row in file.read(shard)] == [1, 3]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ([1], "is list"),
        ({"promt": "a"}, "has none of prompt, tokens, messages"),
        ({}, "has none of"),
        ({"prompt": "a\ud800"}, "'prompt' holds '\\ud800', half of a character"),
        ({"messages": [{"role": "user", "content": "\udfff"}]}, "'messages' holds '\\udfff'"),
        ({"prompt": "a", "id": "\ud800"}, "'id' holds"),
        ({"prompt": "a", "\ud800": 1}, "half of a character"),
        ({"prompt": "a", "gold": float("nan")}, "'gold' cannot be written as JSON"),
        ({"prompt": "a", "gold": b"x"}, "'gold' cannot be written as JSON"),
        ({"prompt": "a", "text": "b"}, "has a column 'text', which is one of the output's"),
        ({"prompt": "a", "chat_template_kwargs": [1]}, "chat_template_kwargs is [1]"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]}, "content that is no text"),
        ({"prompt": "a", "tokens": [1]}, "prompt and tokens"),
        ({"prompt": ""}, "is empty"),
        ({"prompt": 3}, "is int"),
        ({"tokens": []}, "tokens is empty"),
        ({"tokens": [1, -2]}, "tokens has -2"),
        ({"tokens": [1, True]}, "tokens has True"),
        ({"messages": [{"role": "user"}]}, "without role and content"),
        ({"prompt": "a", "id": 7.5}, "id is 7.5"),
        ({"prompt": "a", "id": True}, "id is True"),
    ],
)
def test_a_bad_row_says_what_is_wrong(row: object, problem: str) -> None:
    found = as_prompt(5, row)
    assert isinstance(found, BadLine) and found.line == 5
    assert problem in found.problem and found.fix
    found.message.encode()
    assert found.message.isprintable()


def test_a_misspelt_field_is_named() -> None:
    found = as_prompt(1, {"promt": "a", "id": "x"})
    assert isinstance(found, BadLine) and found.fix == "did you mean 'prompt' by 'promt'?"


def test_columns_of_the_rows_own_and_whole_numbers_are_carried() -> None:
    row = {"prompt": "a", "id": 7, "gold": [1, {"é": None}], "__index_level_0__": 3,
           "chat_template_kwargs": {"enable_thinking": False}}  # fmt: skip
    found = as_prompt(1, row)
    assert isinstance(found, Prompt)
    assert (found.id, found.fields, found.template) == (7, {"gold": row["gold"]}, {"enable_thinking": False})


def test_the_parts_of_a_message_are_its_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    found = as_prompt(1, {"messages": [{"role": "user", "content": parts, "name": "x"}]})
    assert isinstance(found, Prompt) and found.messages == ({"role": "user", "content": "a\nb", "name": "x"},)


def test_a_damaged_line_does_not_stop_the_others(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    deep = b"[" * 100_000 + b"]" * 100_000
    twice = b'{"prompt": "c", "prompt": "d"}\n'
    path.write_bytes(b'{"prompt": "a"}\n{"prompt": \n' + deep + b'\n{"prompt": "b"}\n\xff\xfe\n' + twice)
    file = PromptFile(path)
    kinds = [(row.line, type(row)) for shard in file.shards(3) for row in file.read(shard)]
    assert kinds == [(1, Prompt), (2, BadLine), (3, BadLine), (4, Prompt), (5, BadLine), (6, BadLine)]


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for name, content in (("p.txt", b"x"), ("p.jsonl", b""), ("p.parquet", b"PAR1 cut")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=name):
            PromptFile(tmp_path / name).shards(4)
    with pytest.raises(ConfigError, match="no such file"):
        PromptFile(tmp_path / "absent.jsonl")


def test_rows_of_a_group_that_unfolds_are_held_a_few_at_a_time(tmp_path: Path) -> None:
    """Every text is the same 20 kB, so that the file is small and one group of it takes 100 MB."""
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(5000, np.int32)), pa.array(["x" * 20_000]))
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"prompt": texts, "id": [str(i) for i in range(5000)]}), path, row_group_size=5000)
    assert path.stat().st_size < 300_000
    file, before = PromptFile(path), pa.total_allocated_bytes()
    most = 0
    for shard in file.shards(700)[-2:]:
        rows = []
        for row in file.read(shard):
            most = max(most, pa.total_allocated_bytes() - before)
            rows.append((row.line, row.id))
        assert rows == [(i, str(i - 1)) for i in range(shard.first, shard.first + shard.rows)]
    assert most < 30e6
