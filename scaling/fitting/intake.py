"""Reading a table as people publish it: comma, semicolon and tab files, records, compressed or not, units in headers.

What was read other than literally (separator, encoding, thousands separators, a unit in a header) is said in
`attrs["notes"]` of the table, and so by every fit made from it.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from models.errors import ConfigError
from scaling import kept, tables

FORMATS = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet")
COMPRESSED = (".gz",)
SEPARATORS = (",", ";", "\t")
UNITS = {"k": 1e3, "thousand": 1e3, "m": 1e6, "million": 1e6, "millions": 1e6, "b": 1e9, "g": 1e9, "billion": 1e9,
         "billions": 1e9, "t": 1e12, "trillion": 1e12, "trillions": 1e12}  # fmt: skip
COUNTED = re.compile(r"param|token|flop|compute|size|data|^[ndc]$", re.IGNORECASE)  # headers whose M or B is a count
HEADER = re.compile(r"^(?P<name>.*\S)\s*[(\[](?P<unit>[^()\[\]]*)[)\]]$")
PLAIN_UNIT = re.compile(r"(nats?|bits?)(/token|/byte| per token)?|flops?|tokens?", re.IGNORECASE)
GROUPED = re.compile(r"^[-+]?\d{1,3}(,\d{3})+(\.\d*)?$")  # 110,678,115
DECIMAL_COMMA = re.compile(r"^[-+]?\d+,\d+(e[-+]?\d+)?$", re.IGNORECASE)
NUMBER = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE)


def read(file: Path) -> pd.DataFrame:
    """The table in a file, by its ending in any case, with cleaned headers and numbers.

    Raises ConfigError for an ending that is not known; what the readers raise on a broken file passes through.
    """
    endings = [suffix.lower() for suffix in file.suffixes]
    packed = bool(endings) and endings[-1] in COMPRESSED
    ending = (endings[:-1] if packed else endings)[-1:] or [""]
    if ending[0] not in FORMATS:
        known = f"{', '.join(FORMATS)}, or one of them with .gz"
        raise ConfigError(str(file), f"cannot read {file.suffix or 'a file without suffix'}", f"use one of {known}")
    try:
        kept.opened_file(file).close()  # a pipe would be waited for
        data = tables.unpacked(file) if packed else file.read_bytes()
        parquet = tables.read(file, content=data) if ending[0] == ".parquet" else None
    except ConfigError as error:  # in the words of a table that somebody else wrote
        raise ValueError(error.problem) from None
    notes: list[str] = []
    if parquet is not None:
        table = parquet.to_pandas()
    elif ending[0] in (".json", ".jsonl"):
        table = _records(_text(data, notes), lines=ending[0] == ".jsonl")
    else:
        table = _separated(_text(data, notes), ending[0], notes)
    table = _headers(table, notes)
    table.attrs["notes"] = tuple(notes)
    return table


def _text(data: bytes, notes: list[str]) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        notes.append("not UTF-8: read as Latin-1")
        return data.decode("latin-1")


def _records(text: str, lines: bool) -> pd.DataFrame:
    """Records one a line, a list of records, columns, or either under the one key of an object."""
    if lines:
        return pd.DataFrame([json.loads(line) for line in text.splitlines() if line.strip()])
    document: Any = json.loads(text)
    while isinstance(document, dict) and len(document) == 1 and isinstance(next(iter(document.values())), list | dict):
        inner = next(iter(document.values()))
        if isinstance(inner, list) and inner and not isinstance(inner[0], dict):
            break  # a table of one column
        document = inner
    return pd.DataFrame(document)


def _separated(text: str, ending: str, notes: list[str]) -> pd.DataFrame:
    """A table of separated values, the separator being the one that parts the header into most columns."""
    lines = [line for line in text.splitlines() if line.strip()]
    header = lines[0] if lines else ""
    expected = "\t" if ending == ".tsv" else ","
    separator = max((expected, *SEPARATORS), key=header.count)
    if separator != expected:
        notes.append(f"separated by {'a tab' if separator == chr(9) else repr(separator)}")
    table = pd.read_csv(io.StringIO(text), sep=separator, skipinitialspace=True)
    for position, name in enumerate(table.columns):
        table.isetitem(position, _numbers(table.iloc[:, position], str(name), separator == ";", notes))
    return _as_named(table, header, separator)


def _as_named(table: pd.DataFrame, header: str, separator: str) -> pd.DataFrame:
    """The table with the names that the file gives its columns: pandas renames the second of two equal ones."""
    first = pd.read_csv(io.StringIO(header), sep=separator, header=None, dtype=str)
    names = list(first.iloc[0]) if len(first) else []
    if len(names) == len(table.columns) and len(set(names)) < len(names):
        table.columns = pd.Index([str(name).strip() for name in names])
    return table


def _numbers(column: pd.Series, name: str, decimal_comma: bool, notes: list[str]) -> pd.Series:
    """A column of text as numbers, where all of it is numbers with thousands separators or decimal commas."""
    if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return column
    text = column.dropna().astype(str).str.strip()
    text = text[text != ""]
    if not len(text):
        return column
    grouped = text.map(lambda value: bool(GROUPED.match(value)))
    plain = text.map(lambda value: bool(NUMBER.match(value)))
    commas = text.map(lambda value: bool(DECIMAL_COMMA.match(value)))
    if grouped.any() and (grouped | plain).all():
        notes.append(f"{name}: commas read as thousands separators")
        return pd.to_numeric(column.astype(str).str.strip().str.replace(",", ""), errors="coerce")
    if decimal_comma and commas.any() and (commas | plain).all():
        notes.append(f"{name}: commas read as decimal points")
        return pd.to_numeric(column.astype(str).str.strip().str.replace(",", "."), errors="coerce")
    return column


def _headers(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Headers without blanks at their ends; a count's unit in brackets becomes part of its numbers."""
    names, out = [], table.copy(deep=False)
    for position, header in enumerate(map(str, table.columns)):
        name = header.strip()
        match = HEADER.match(name)
        if match and (factor := UNITS.get(match["unit"].strip().lower())) and COUNTED.search(match["name"]):
            values = pd.to_numeric(table.iloc[:, position], errors="coerce")
            out.isetitem(position, values * factor)
            name = match["name"].strip()
            notes.append(f"{header.strip()}: read as {name} x {factor:.0e}")
        elif match and PLAIN_UNIT.fullmatch(match["unit"].strip()):
            name = match["name"].strip()
        names.append(name)
    out.columns = pd.Index(names)
    return out
