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

FORMATS = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".parquet")
COMPRESSED = (".gz",)
GZIP = b"\x1f\x8b"
SEPARATORS = (",", ";", "\t", "|")
SPOKEN = {"\t": "a tab", r"\s+": "blanks"}
UNITS = {"k": 1e3, "thousand": 1e3, "m": 1e6, "million": 1e6, "millions": 1e6, "b": 1e9, "g": 1e9, "billion": 1e9,
         "billions": 1e9, "t": 1e12, "trillion": 1e12, "trillions": 1e12}  # fmt: skip
COUNTED = re.compile(r"param|token|flop|compute|size|data|^[ndc]$", re.IGNORECASE)  # headers whose M or B is a count
HEADER = re.compile(r"^(?P<name>.*\S)\s*[(\[](?P<unit>[^()\[\]]*)[)\]]$|^(?P<before>.*\S),\s+(?P<after>[^,]+)$")
ENDED = re.compile(
    r"^(?P<name>params(_nonembed|_active)?|(unique_)?tokens|flops)_(?P<unit>[kMBT]|millions?|billions?|trillions?)$"
)
POWER = re.compile(r"(?:x|\*)?\s*(?:1e|10\^|10\*\*)\+?(?P<power>\d{1,2})", re.IGNORECASE)
PREFIXED = re.compile(r"(?P<prefix>[kMGTPEZY])FLOP[sS]?")
PREFIXES = dict(zip("kMGTPEZY", (10.0**power for power in range(3, 27, 3)), strict=True))
COUNTS = re.compile(r"\s*(flops?|tokens?|param(eter)?s?)$", re.IGNORECASE)
PLAIN_UNIT = re.compile(r"(nats?|bits?)(/token|/byte| per token)?|flops?|tokens?", re.IGNORECASE)
GROUPED = re.compile(r"^[-+]?\d{1,3}(,\d{3})+(\.\d*)?$")  # 110,678,115
SPACED = re.compile(r"^[-+]?\d{1,3}(?P<by>['’_ \u00a0\u202f])\d{3}((?P=by)\d{3})*(\.\d*)?$")  # 110'678'115
DOTTED = re.compile(r"^[-+]?\d{1,3}(\.\d{3}){2,}(,\d*)?$")  # 110.678.115
SUFFIXED = re.compile(r"^(?P<number>[-+]?(\d+\.?\d*|\.\d+))\s?(?P<unit>[kKMBGT])$")  # 1.46B
DECIMAL_COMMA = re.compile(r"^[-+]?\d+,\d+(e[-+]?\d+)?$", re.IGNORECASE)
NUMBER = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE)


def read(file: Path) -> pd.DataFrame:
    """The table in a file, by its ending in any case, with cleaned headers and numbers.

    Raises ConfigError for an ending that is not known; what the readers raise on a broken file passes through.
    """
    endings = [suffix.lower() for suffix in file.suffixes]
    named = bool(endings) and endings[-1] in COMPRESSED
    ending = (endings[:-1] if named else endings)[-1:] or [""]
    if ending[0] not in FORMATS:
        known = f"{', '.join(FORMATS)}, or one of them with .gz"
        raise ConfigError(str(file), f"cannot read {file.suffix or 'a file without suffix'}", f"use one of {known}")
    notes: list[str] = []
    with file.open("rb") as opened:
        packed = opened.read(2) == GZIP
    if packed != named:
        notes.append("compressed with gzip, as its name does not say" if packed else "not compressed, as its name says")
    try:
        kept.opened_file(file).close()  # a pipe would be waited for
        data = tables.unpacked(file) if packed else file.read_bytes()
        parquet = tables.read(file, content=data) if ending[0] == ".parquet" else None
    except ConfigError as error:  # in the words of a table that somebody else wrote
        raise ValueError(error.problem) from None
    if parquet is not None:
        table = parquet.to_pandas()
    elif ending[0] in (".json", ".jsonl", ".ndjson"):
        table = _records(_text(data, notes), ending[0] != ".json", notes)
    else:
        table = _separated(_text(data, notes), ending[0], notes)
    table = _without_blanks(_headers(table, notes), notes)
    table.attrs["notes"] = tuple(notes)
    return table


def _without_blanks(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The rows in which anything stands."""
    blank = table.isna().all(axis=1)
    if not blank.any() or blank.all():
        return table
    notes.append(f"{int(blank.sum())} blank rows left out")
    return table[~blank]


def _text(data: bytes, notes: list[str]) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        notes.append("not UTF-8: read as Latin-1")
        return data.decode("latin-1")


def _records(text: str, lines: bool, notes: list[str]) -> pd.DataFrame:
    """Records one a line, a list of records, columns, or what pandas writes; also under one key of an object, whatever
    its others say. Records within records become columns such as config.params."""
    if not lines:
        try:
            document: Any = json.loads(text)
        except json.JSONDecodeError as error:
            if not error.msg.startswith("Extra data"):
                raise
            notes.append("read as one record a line")
            lines = True
    records = [json.loads(line) for line in text.splitlines() if line.strip()] if lines else _inner(document)
    if isinstance(records, pd.DataFrame):
        return records
    if any(isinstance(value, dict) for record in records[:1] for value in record.values()):
        notes.append("records within records are columns such as config.params")
        return pd.json_normalize(records, max_level=4)
    return pd.DataFrame(records)


def _inner(document: Any) -> Any:
    """The list of records of a document, or the table that it is in another form."""
    if not isinstance(document, dict):
        if isinstance(document, list) and document and not all(isinstance(record, dict) for record in document):
            raise ValueError("a list of other things than records")
        return document
    if isinstance(document.get("columns"), list) and isinstance(document.get("data"), list):
        return pd.DataFrame(document["data"], columns=document["columns"])
    values = list(document.values())
    records = [value for value in values if isinstance(value, list) and value and isinstance(value[0], dict)]
    if "schema" in document and isinstance(document.get("data"), list):
        records = [document["data"]]  # pandas' own form, whose schema holds records, too
    if len(records) == 1:
        return records[0]
    if len(values) == 1 and isinstance(values[0], dict):
        return _inner(values[0])
    if values and all(isinstance(value, dict) for value in values):
        rows = all(str(key).lstrip("-").isdigit() for key in document)
        return pd.DataFrame(values) if rows else pd.DataFrame(document)
    return pd.DataFrame(document)


def _separated(text: str, ending: str, notes: list[str]) -> pd.DataFrame:
    """A table of separated values, the separator being the one that parts the header into most columns."""
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")), len(lines))
    if any(line.strip() for line in lines[:first]):
        notes.append("comments before the header left out")
        text = "\n".join(lines[first:])
    header = lines[first] if first < len(lines) else ""
    expected = "\t" if ending == ".tsv" else ","
    separator = max((expected, *SEPARATORS), key=header.count)
    if separator not in header and len(header.split()) > 1 and ending == ".txt":
        separator = r"\s+"
    if separator != expected:
        notes.append(f"separated by {SPOKEN.get(separator, repr(separator))}")
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
    for form, groups in ((SPACED, "['’_ \u00a0\u202f]"), (DOTTED, r"\.")):
        matches = text.map(lambda value, form=form: bool(form.match(value)))
        if matches.any() and (matches | plain).all() and (form is SPACED or decimal_comma):
            notes.append(f"{name}: read as numbers with thousands separators")
            without = column.astype(str).str.strip().str.replace(groups, "", regex=True)
            return pd.to_numeric(without.str.replace(",", "."), errors="coerce")
    ended = text.map(lambda value: bool(SUFFIXED.match(value)))
    if ended.any() and (ended | plain).all() and COUNTED.search(name):
        notes.append(f"{name}: K, M, B, T read as thousands, millions, billions, trillions")
        return column.map(_suffixed, na_action="ignore").astype(float)
    if decimal_comma and commas.any() and (commas | plain).all():
        notes.append(f"{name}: commas read as decimal points")
        return pd.to_numeric(column.astype(str).str.strip().str.replace(",", "."), errors="coerce")
    return column


def _suffixed(value: Any) -> float:
    """The number of "1.46B", or of a plain one."""
    match = SUFFIXED.match(str(value).strip())
    return float(match["number"]) * UNITS[match["unit"].lower()] if match else pd.to_numeric(value, errors="coerce")


def _factor(unit: str) -> float | None:
    """What one of a count's unit is: M, billions, 1e9, 10^18 FLOPs, EFLOPs; None for another."""
    unit = unit.strip()
    if match := PREFIXED.fullmatch(unit):
        return PREFIXES[match["prefix"]]
    unit = COUNTS.sub("", unit) or unit
    if match := POWER.fullmatch(unit):
        return 10.0 ** int(match["power"])
    return UNITS.get(unit.lower())


def _headers(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Headers without blanks at their ends; a count's unit in brackets becomes part of its numbers."""
    names, out = [], table.copy(deep=False)
    for position, header in enumerate(map(str, table.columns)):
        name = header.strip()
        match = ENDED.match(name) or HEADER.match(name)
        parts = match.groupdict() if match else {}
        base, unit = parts.get("name") or parts.get("before") or "", parts.get("unit") or parts.get("after") or ""
        if (factor := _factor(unit)) and COUNTED.search(base):
            values = pd.to_numeric(table.iloc[:, position], errors="coerce")
            out.isetitem(position, values * factor)
            name = base.strip()
            notes.append(f"{header.strip()}: read as {name} x {factor:.0e}")
        elif PLAIN_UNIT.fullmatch(unit.strip()):
            name = base.strip()
            if unit.strip().lower().startswith("bit"):
                notes.append(f"{header.strip()}: left in bits")
        names.append(name)
    out.columns = pd.Index(names)
    return out
