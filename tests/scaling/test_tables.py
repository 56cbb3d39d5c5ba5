"""Parquet files: what was written there, and never more memory than a bound, whatever a small file unfolds to."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.errors import ConfigError
from scaling import laws, tables

FRAME = pd.DataFrame({"params": [1e7, 2e7], "name": ["a", None], "ok": [True, False], "list": [[1, 2], [3]]})


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    path.write_bytes(tables.parquet(FRAME, {"part": "x"}))
    pd.testing.assert_frame_equal(tables.read(path, {"part": "x"}).to_pandas(), pd.read_parquet(path))
    plain = tmp_path / "plain.parquet"
    FRAME.to_parquet(plain)
    pd.testing.assert_frame_equal(tables.read(plain).to_pandas(), pd.read_parquet(plain))
    for facts in ({"part": "y"}, {}, {"part": "x", "more": 1}):
        with pytest.raises(ConfigError, match="is not what was written there"):
            tables.read(path, facts)


BOMBS = {
    "a number many times": lambda path: pq.write_table(pa.table({"loss": pa.array(np.zeros(2_000_000))}), path),
    "a text many times": lambda path: pq.write_table(
        pa.table({"loss": pa.array(np.zeros(20_000)), "name": pa.DictionaryArray.from_arrays(
            pa.array(np.zeros(20_000, np.int32)), pa.array(["x" * 5000]))}), path),
    "an empty list many times": lambda path: pq.write_table(
        pa.table({"lists": pa.ListArray.from_arrays(pa.array([0, 2_000_000]), pa.array(np.zeros(2_000_000)))}), path),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_unfolds_is_refused_before_it_does(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.parquet"
    BOMBS[name](path)
    monkeypatch.setattr(tables, "LARGEST", 2**22)
    before = pa.total_allocated_bytes()
    peak = pa.default_memory_pool().max_memory() or 0
    with pytest.raises(ConfigError, match=r"takes .* GiB of memory, above"):
        tables.read(path)
    assert path.stat().st_size < 2**20 and (pa.default_memory_pool().max_memory() or 0) <= max(peak, before + 2**23)
    with pytest.raises(ConfigError, match="GiB of memory"):
        laws.load(path)


def test_a_packed_file_that_unfolds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs.csv.gz"
    path.write_bytes(gzip.compress(b"params,tokens,loss\n1e7,1e9,3.5\n" + b"1e7,1e9,3.25\n" * 100_000))
    assert len(laws.load(path)) == 100_001
    monkeypatch.setattr(tables, "LARGEST", 2**20)
    with pytest.raises(ConfigError, match=r"runs\.csv\.gz: unreadable \(takes 0\.0 GiB of memory, above"):
        laws.load(path)


def test_any_damage_of_a_page_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    whole = tables.parquet(pd.DataFrame({"loss": np.arange(500) / 7}))
    data = pq.ParquetFile(pa.BufferReader(whole)).metadata.row_group(0).column(0)
    start = data.dictionary_page_offset or data.data_page_offset
    rng = np.random.default_rng(0)
    for at in rng.integers(start + 60, start + data.total_compressed_size, 40):
        content = bytearray(whole)
        content[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        try:
            found = tables.read(path).to_pandas()["loss"]
        except ConfigError:
            continue
        assert np.array_equal(found, np.arange(500) / 7), at  # a header's padding
