"""Tables: how the project writes Parquet files and reads them, its own and those of others."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.errors import ConfigError, require
from scaling import kept

if TYPE_CHECKING:
    import pandas as pd

LARGEST = 2 * 2**30  # bytes of a table in memory, whatever its file takes: compression and repetition hide its size
FACTS = b"isoflop"  # key of the file's metadata under which it says what it is


def parquet(table: pa.Table | pd.DataFrame, facts: Mapping[str, Any] | None = None) -> bytes:
    """A table as the content of a Parquet file whose pages carry checksums.

    facts: what it is (JSON), which `read` compares, so that no other table is taken for it.
    """
    if not isinstance(table, pa.Table):
        table = pa.Table.from_pandas(table)
    if facts is not None:
        said = {FACTS: json.dumps(dict(facts) | {"rows": table.num_rows}, sort_keys=True).encode()}
        table = table.replace_schema_metadata((table.schema.metadata or {}) | said)
    out = io.BytesIO()
    pq.write_table(table, out, write_page_checksum=True)
    return out.getvalue()


def unpacked(path: Path) -> bytes:
    """The content of a .gz file; ConfigError when it takes more than LARGEST bytes, OSError when it is none."""
    with gzip.open(path, "rb") as file:
        content = file.read(LARGEST + 1)
    require(len(content) <= LARGEST, str(path), _too_large(len(content)), "give a smaller table")
    return content


def read(
    path: str | Path, facts: Mapping[str, Any] | None = None, fix: str = kept.RESTORE, content: bytes | None = None
) -> pa.Table:
    """A Parquet file, its page checksums compared where it has some, and its `facts` where they are given.

    content: of the file, where it was read already.

    Raises:
      ConfigError: it is damaged, of something else, or would take more than LARGEST bytes of memory.
    """
    place = str(path)
    try:
        require(content is not None or Path(path).is_file(), place, "is no file", fix)
        source = path if content is None else pa.BufferReader(content)
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            size = _dense_bytes(file.metadata)
            require(size <= LARGEST, place, _too_large(size), "give fewer rows or columns")
            names = [field.name for field in file.schema_arrow if _is_text(field.type)]
        source = path if content is None else pa.BufferReader(content)
        with pq.ParquetFile(source, page_checksum_verification=True, read_dictionary=names) as file:
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(place, f"is damaged ({_first_line(error)})", fix) from None
    if facts is not None:
        said = (table.schema.metadata or {}).get(FACTS, b"")
        expected = json.dumps(dict(facts) | {"rows": table.num_rows}, sort_keys=True).encode()
        require(said == expected, place, "is not what was written there", fix)
    size = sum(map(_decoded_bytes, table.columns))
    require(size <= LARGEST, place, _too_large(size), "give fewer rows or columns")
    return table.cast(pa.schema([_dense(field) for field in table.schema], metadata=table.schema.metadata))


def _dense_bytes(found: Any) -> int:
    """Bytes at least of a file's columns in memory: four a value, and what its pages declare."""
    groups = [found.row_group(i) for i in range(found.num_row_groups)]
    values = sum(group.column(i).num_values for group in groups for i in range(group.num_columns))
    return max(sum(group.total_byte_size for group in groups), 4 * values)


def _decoded_bytes(column: pa.ChunkedArray) -> int:
    """Bytes of a column whose texts are still kept once each, when every row has its own."""
    total = 0
    for chunk in column.chunks:
        if isinstance(chunk, pa.DictionaryArray):
            lengths = pc.binary_length(chunk.dictionary).take(chunk.indices.drop_null())
            total += pc.sum(lengths).as_py() or 0
        else:
            total += chunk.nbytes
    return total


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind)


def _dense(field: pa.Field) -> pa.Field:
    return field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field


def _too_large(size: int) -> str:
    return f"takes {size / 2**30:,.1f} GiB of memory, above {LARGEST / 2**30:.0f} GiB"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
