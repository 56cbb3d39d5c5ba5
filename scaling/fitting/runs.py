"""Reading a table of runs and checking it: the columns a law needs, their units, and rows that cannot be used."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np
import pandas as pd

from models.errors import ConfigError, nearest
from scaling import tables

# smallest and largest value of a column over all plausible runs, in its unit
PLAUSIBLE = {
    "params": (1e2, 1e15),
    "params_nonembed": (1e2, 1e15),
    "params_active": (1e2, 1e15),
    "tokens": (1e4, 1e17),
    "unique_tokens": (1e4, 1e17),
    "flops": (1e9, 1e32),
}


Runs: TypeAlias = pd.DataFrame | Mapping[str, Any] | str | Path  # a table, its columns, or where to read it


class UnitWarning(UserWarning):
    """A column's magnitudes do not fit its unit."""


def load(path: str | Path) -> pd.DataFrame:
    """Runs as a DataFrame, one row per trial.

    path: a run directory (its results.parquet or results.csv), a .parquet, .csv, .tsv or .jsonl file.
    Raises ConfigError naming the path when it is absent, unreadable or empty.
    """
    file = Path(path)
    if file.is_dir():
        found = [file / f"results.{suffix}" for suffix in ("parquet", "csv") if (file / f"results.{suffix}").exists()]
        if not found:
            raise ConfigError(
                str(path), "no results.parquet in this directory", "give the directory of a finished sweep"
            )
        file = found[0]
    if not file.exists():
        raise ConfigError(str(path), "no such file or directory", "check the path")
    readers = {
        ".parquet": lambda f: tables.read(f).to_pandas(),
        ".csv": pd.read_csv,
        ".tsv": lambda f: pd.read_csv(f, sep="\t"),
        ".jsonl": lambda f: pd.read_json(f, lines=True),
    }
    if file.suffix not in readers:
        raise ConfigError(
            str(path), f"cannot read {file.suffix or 'a file without suffix'}", f"use one of {', '.join(readers)}"
        )
    try:
        table = readers[file.suffix](file)
    except Exception as error:  # each reader has its own exceptions, all of which mean an unreadable file
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        fix = f"check that it is a valid {file.suffix} table"
        raise ConfigError(str(path), f"unreadable ({reason})", fix) from None
    if not len(table):
        raise ConfigError(str(path), "the table has no rows", "run the sweep first")
    return table


def as_table(
    runs: Runs, columns: Mapping[str, str] | None = None, needed: Iterable[str] = (), derive: bool = True
) -> pd.DataFrame:
    """`runs` (DataFrame, path, or mapping of columns) with the law's names, failed trials dropped.

    columns: renames, as {"params": "N"} or {"N": "params"}; either direction is understood. needed: the law's names,
    which tell a rename from a misspelling.
    A missing `flops` is 6 x params x tokens when both are there, unless `derive` is off; attrs["derived"] says so.
    """
    table = load(runs) if isinstance(runs, (str, Path)) else pd.DataFrame(runs)
    table = table.copy(deep=False)
    needed = set(needed)
    for a, b in (columns or {}).items():
        ours, theirs = _direction(a, b, table.columns, needed)
        if theirs not in table.columns:
            near = nearest(theirs, map(str, table.columns))
            fix = f"did you mean {near!r}?" if near else f"have {', '.join(map(str, table.columns))}"
            raise ConfigError("columns", f"{ours!r} cannot be {theirs!r}, which is no column", fix)
        table[ours] = table[theirs]
    if "status" in table.columns:
        table = table[table["status"].isin(["done", "ok", "finished"]) | table["status"].isna()]
        if not len(table):
            raise ConfigError("runs", "every row has failed", "look at the status and error columns")
    if derive and "flops" not in table.columns and {"params", "tokens"} <= set(table.columns):
        params, tokens = (pd.to_numeric(table[name], errors="coerce").astype(float) for name in ("params", "tokens"))
        table["flops"] = 6.0 * params * tokens
        table.attrs["derived"] = "flops = 6 params tokens"
    return table


def _direction(a: str, b: str, have: Iterable[str], needed: set[str]) -> tuple[str, str]:
    """(our name, the table's name) of one rename written in either direction."""
    if b in have and (a in needed or b not in needed):
        return a, b
    if a in have and (b in needed or not needed):
        return b, a
    # one of the two is misspelt: the law's name is not
    return (b, a) if b in needed and a not in needed else (a, b)


def missing(name: str, columns: Iterable[str]) -> NoReturn:
    """Raise the one-line error about a column that is not there, with the nearest names."""
    have = [str(c) for c in columns]
    by_case = [c for c in have if c.lower() == name.lower() or c.lower() in _ALIASES.get(name, ())]
    near = by_case[0] if by_case else nearest(name, have)
    hint = f"rename it with columns={{'{name}': '{near}'}}" if near else f"rename yours with columns={{'{name}': ...}}"
    shown = ", ".join(have[:12]) + (" ..." if len(have) > 12 else "")
    raise ConfigError("runs", f"no column {name!r} among {shown}", hint)


_ALIASES = {
    "params": ("n", "parameters", "n_params", "model_size"),
    "tokens": ("d", "n_tokens", "training_tokens"),
    "flops": ("c", "compute", "flop"),
    "loss": ("l", "val_loss", "eval_loss", "nll"),
}


def row_name(table: pd.DataFrame, position: int) -> str:
    """How a person finds the row again: its index label and trial or name."""
    label = f"row {table.index[position]}"
    for column in ("trial", "name", "run", "run_name"):
        if column in table.columns:
            return f"{label} ({column} {table[column].iloc[position]})"
    return label


def row_names(table: pd.DataFrame) -> list[str]:
    """`row_name` of every row."""
    labels = [f"row {label}" for label in table.index]
    for column in ("trial", "name", "run", "run_name"):
        if column in table.columns:
            return [f"{label} ({column} {value})" for label, value in zip(labels, table[column], strict=True)]
    return labels


def numbers(table: pd.DataFrame, name: str, positive: bool = False) -> np.ndarray:
    """Column `name` as finite float64 [n]; a bad value raises an error naming its row."""
    if name not in table.columns:
        missing(name, table.columns)
    column = pd.to_numeric(table[name], errors="coerce").to_numpy(float, na_value=np.nan)
    bad = ~np.isfinite(column)
    if positive:
        bad |= column <= 0
    if bad.any():
        position = int(np.flatnonzero(bad)[0])
        value = table[name].iloc[position]
        more = f" ({int(bad.sum())} such rows)" if bad.sum() > 1 else ""
        raise ConfigError(
            row_name(table, position),
            f"{name} is {value}{more}",
            f"{'give' if bad.all() else 'drop the row or give'} a {'positive' if positive else 'finite'} number",
        )
    return column


def check_units(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Warn (and return the warnings) when magnitudes do not fit a column's unit, such as tokens given in billions."""
    out = []
    for name, values in arrays.items():
        low, high = PLAUSIBLE.get(name, (-np.inf, np.inf))
        largest = float(np.max(values)) if len(values) else 0.0
        if largest < low:
            unit = {"flops": "FLOP"}.get(name, name.split("_")[-1])
            out.append(
                f"{name}: the largest value is {largest:.4g}, too small for a count of {unit}: "
                f"multiply by 1e6, 1e9 or 1e12 if the column is in millions, billions or trillions"
            )
        elif largest > high:
            out.append(f"{name}: the largest value is {largest:.4g}, which no run has reached: check the unit")
    if {"params", "tokens", "flops"} <= arrays.keys():
        ratio = float(np.median(arrays["flops"] / (6 * arrays["params"] * arrays["tokens"])))
        if not 0.03 < ratio < 30:
            out.append(f"flops: the median is {ratio:.3g} x 6 params tokens: check the unit of the three columns")
    for message in out:
        warnings.warn(message, UnitWarning, stacklevel=4)
    return out
