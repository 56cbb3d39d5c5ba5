"""Reading a table of runs and checking it: the columns a law needs, their units, and rows that cannot be used."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np
import pandas as pd

from models.errors import ConfigError, nearest
from scaling.fitting import intake

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


# words of a status column, in lower case: a run that is done, and one that is not
DONE = ("done", "ok", "finished", "complete", "completed", "success", "succeeded", "successful", "passed", "trained",
        "converged", "true")  # fmt: skip
FAILED = ("failed", "failure", "error", "crashed", "killed", "cancelled", "canceled", "aborted", "stopped", "running",
          "pending", "queued", "preempted", "diverged", "spiked", "timeout", "interrupted", "skipped",
          "planned", "oom", "nan", "false")  # fmt: skip
STATUS = ("status", "state", "run_status", "run_state", "job_status", "job_state", "_state", "final_status")
# how trackers export a column of ours, and what one of its units is in ours
PUBLISHED = {
    "flops": ("throughput/total_gflops", 1e9),
    "tokens": ("throughput/total_tokens", 1.0),
    "params": ("parameter_count", 1.0),
    "loss": ("eval/loss", 1.0),
}
RUN_COLUMNS = ("run", "run_name", "run_id", "trial", "trial_id", "name", "experiment", "wandb_id", "id")
# columns that are read without being asked for, of which there can be only one
OWN = ("status", "params", "params_nonembed", "params_active", "tokens", "flops", "budget", "trial", "name", "run",
       "run_name")  # fmt: skip
MOSTLY, MOSTLY_OF_MANY = 0.95, 0.8  # share of steps along a training curve at which its loss falls
CHEAPEST = 1e12  # FLOP: a largest run below this took a processor less than a minute
TOKENS_PER_PARAM = (3e-3, 3e5)  # median, beyond which params and tokens are not in the same unit
LARGEST_LOSS = 12.7  # nats: ln of 330,000 tokens, more than any tokenizer has


class RowsWarning(UserWarning):
    """Rows were left out for a reason that a person should confirm."""


class UnitWarning(UserWarning):
    """A column's magnitudes do not fit its unit."""


def load(path: str | Path) -> pd.DataFrame:
    """Runs as a DataFrame, one row per trial.

    path: a run directory (its results.parquet or results.csv), or a file of `intake.FORMATS`, also with .gz.
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
    if not file.is_file():
        what = "is no regular file" if file.exists() else "no such file or directory"
        raise ConfigError(str(path), what, "check the path")
    try:
        table = intake.read(file)
    except ConfigError:
        raise
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
    """`runs` (DataFrame, path, or mapping of columns) with the law's names, runs that are not done left out.

    columns: renames, as {"params": "N"} or {"N": "params"}; either direction is understood. needed: the law's names,
    which tell a rename from a misspelling.
    One of params, tokens and flops = 6 params tokens that is missing follows from the other two (flops only if `derive`
    is on); attrs["derived"] says so, and attrs["notes"] what else was done to the rows.
    """
    table = load(runs) if isinstance(runs, (str, Path)) else pd.DataFrame(runs)
    notes = list((runs if isinstance(runs, pd.DataFrame) else table).attrs.get("notes", ()))  # a new frame has none
    needed = set(needed)
    table = _once_each(table.copy(deep=False), needed, notes)
    for a, b in (columns or {}).items():
        ours, theirs = _direction(a, b, table.columns, needed)
        if theirs not in table.columns:
            near = nearest(theirs, map(str, table.columns))
            fix = f"did you mean {near!r}?" if near else f"have {', '.join(map(str, table.columns))}"
            raise ConfigError("columns", f"{ours!r} cannot be {theirs!r}, which is no column", fix)
        _once(table, theirs)
        table[ours] = table[theirs]
    for name in needed:
        _once(table, name)
    table = _done(table, notes)
    _derive(table, needed, derive, notes)
    table.attrs["notes"] = tuple(dict.fromkeys(notes))
    return table


def _once_each(table: pd.DataFrame, needed: set[str], notes: list[str]) -> pd.DataFrame:
    """The table without columns of one name that nothing needs; ConfigError where something does."""
    if table.columns.is_unique:
        return table
    repeated = table.columns[table.columns.duplicated()].unique()
    for name in repeated:
        if name in needed or name in OWN or str(name).lower() in STATUS or name in dict(PUBLISHED.values()):
            _once(table, name)
    notes.append(f"left out, as several columns have these names: {', '.join(map(str, repeated))}")
    warnings.warn(notes[-1], RowsWarning, stacklevel=5)
    return table.drop(columns=repeated)


def _once(table: pd.DataFrame, name: str) -> None:
    """Raise the error for a name that several columns have."""
    count = int((table.columns == name).sum())
    if count > 1:
        raise ConfigError("runs", f"{count} columns are named {name!r}", "drop or rename all but one")


def _done(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The rows whose run is done, by the word in `status`, in any case; what was left out goes into the notes."""
    column = _status_column(table)
    if column is None:
        return table
    words = table[column].astype("string").str.strip().str.lower()
    blank = (words.isna() | (words == "")).to_numpy(bool)
    keep = words.isin(DONE).to_numpy(bool) | blank
    if blank.any() and not blank.all():
        notes.append(f"{column}: {int(blank.sum())} of {len(table)} rows say nothing and were taken for done")
    if keep.all():
        return table
    counts = table[column][~keep].astype(str).value_counts()
    left_out = ", ".join(f"{count} {word!r}" for word, count in counts.items())
    if not keep.any():
        fix = f"drop the column {column!r} if it says something else; done is one of {', '.join(DONE)}"
        raise ConfigError("runs", f"no row's status says that its run is done: {left_out}", fix)
    # "failed (out of memory)" is a failure
    unknown = [str(word) for word in counts.index if re.split(r"[^a-z]", str(word).strip().lower())[0] not in FAILED]
    said = f"{column}: {int((~keep).sum())} of {len(table)} rows left out ({left_out})"
    notes.append(said if not unknown else f"{said}: is {unknown[0]!r} a failure? done is one of {', '.join(DONE)}")
    if unknown:
        warnings.warn(notes[-1], RowsWarning, stacklevel=6)
    return table[keep]


def _status_column(table: pd.DataFrame) -> Any:
    """The column that says how runs ended: `status`, or another of STATUS in which at least one word is known."""
    if "status" in table.columns:
        return "status"
    for column in table.columns:
        if str(column).strip().lower() in STATUS:
            words = table[column].astype("string").str.strip().str.lower()
            if words.isin((*DONE, *FAILED)).any():
                return column
    return None


def _derive(table: pd.DataFrame, needed: set[str], derive: bool, notes: list[str]) -> None:
    """Add the one of params, tokens and flops that is missing and wanted, from the other two."""
    for name, (published, factor) in PUBLISHED.items():
        if name not in table.columns and published in table.columns and (name in needed or name == "flops"):
            table[name] = pd.to_numeric(table[published], errors="coerce").astype(float) * factor
            notes.append(f"{name}: {published}" + (f" x {factor:.0e}" if factor != 1 else ""))
    absent = [name for name in ("params", "tokens", "flops") if name not in table.columns]
    if not absent:
        _fill(table, needed, notes)
    if len(absent) != 1 or (absent[0] == "flops" and not derive) or (absent[0] != "flops" and absent[0] not in needed):
        return
    present = [name for name in ("params", "tokens", "flops") if name not in absent]
    have = {name: pd.to_numeric(table[name], errors="coerce").astype(float) for name in present}
    if absent[0] == "flops":
        table["flops"] = 6.0 * have["params"] * have["tokens"]
        table.attrs["derived"] = "flops = 6 params tokens"
        return
    other = "tokens" if absent[0] == "params" else "params"
    table[absent[0]] = have["flops"] / (6.0 * have[other])
    table.attrs["derived"] = f"{absent[0]} = flops / (6 {other})"
    notes.append(table.attrs["derived"])


def _fill(table: pd.DataFrame, needed: set[str], notes: list[str]) -> None:
    """In rows that lack the one of params and tokens, fill it in from the flops and the other."""
    if not (table["params"].hasnans or table["tokens"].hasnans):
        return
    have = {name: pd.to_numeric(table[name], errors="coerce").astype(float) for name in ("params", "tokens", "flops")}
    for name, other in (("params", "tokens"), ("tokens", "params")):
        gap = table[name].isna() & have["flops"].gt(0) & have[other].gt(0)
        if name in needed and gap.any():
            table[name] = have[name].where(~gap, have["flops"] / (6.0 * have[other]))
            notes.append(f"{name} = flops / (6 {other}) in {int(gap.sum())} of {len(table)} rows")


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
    parts = [c for c in have if name in re.split(r"[^a-z]+", c.lower())]  # eval/c4/loss
    near = by_case[0] if by_case else parts[0] if parts else nearest(name, have)
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
    try:
        column = pd.to_numeric(table[name], errors="coerce").to_numpy(float, na_value=np.nan)
    except OverflowError:
        raise ConfigError(name, "has a number beyond 1e308", "correct the row, or leave it out") from None
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
    size = next((name for name in ("params", "params_active", "params_nonembed") if name in arrays), "")
    if size and "tokens" in arrays:
        out += _check_sizes(size, arrays, bool(out))
    if "loss" in arrays and len(arrays["loss"]):
        loss = float(np.max(arrays["loss"]))
        if loss > LARGEST_LOSS:
            out.append(
                f"loss: the largest is {loss:.4g}, above ln(vocabulary) of any tokenizer: give nats per token, "
                "not bits, a perplexity or a sum"
            )
    for message in out:
        warnings.warn(message, UnitWarning, stacklevel=5)
    return out


def _check_sizes(size: str, arrays: Mapping[str, np.ndarray], said: bool) -> list[str]:
    """What does not fit between the parameters `size`, tokens and flops; only the flops once something was said."""
    product = 6 * arrays[size] * arrays["tokens"]
    if "flops" in arrays:
        ratio = float(np.median(arrays["flops"] / product))
        if not 0.03 < ratio < 30:
            return [f"flops: the median is {ratio:.3g} x 6 {size} tokens: check the unit of the three columns"]
    if said or not len(product):
        return []
    ratio = float(np.median(arrays["tokens"] / arrays[size]))
    if not TOKENS_PER_PARAM[0] < ratio < TOKENS_PER_PARAM[1]:
        return [f"tokens: the median is {ratio:.3g} per parameter: are both columns counts, not millions?"]
    if "flops" not in arrays and "loss" in arrays and product.max() < CHEAPEST:
        largest = f"the largest run takes {product.max():.3g} FLOP, less than a minute of one processor"
        return [f"{size}, tokens: {largest}: are both counts, not millions?"]
    return []


def copies(inputs: Mapping[str, np.ndarray], measured: np.ndarray) -> str:
    """What a reader must know about rows that repeat others to the last bit, which two measurements never do; empty
    when fewer than a tenth do."""
    known = (measured != 0) & (measured != 1)
    rows = np.column_stack([*inputs.values(), measured])[known]
    count = len(rows) - len(np.unique(rows, axis=0))
    if count <= 0.1 * len(measured):
        return ""
    return f"{count} of {len(measured)} rows repeat others exactly: drop them, they are no measurements of their own"


def points_of_runs(table: pd.DataFrame, inputs: Mapping[str, np.ndarray], measured: np.ndarray) -> str:
    """What a reader must know about rows that are points of the same runs; empty when they are one a run.

    A column that names runs and repeats is proof; ten and more token counts for every other input, each with a loss
    lower than the one before, are curves that nobody logged as separate runs.
    """
    for column in table.columns:
        if str(column).lower() in RUN_COLUMNS and 1 < (count := table[column].nunique()) < 0.5 * len(table):
            return f"{len(table)} rows of {count} runs: they are not independent, name them with cluster={column!r}"
    if "tokens" not in inputs or len(inputs) < 2:
        return ""
    others = [values for name, values in inputs.items() if name != "tokens"]
    # settings that few rows differ in, such as a schedule's length, part curves of one size
    settings = [_codes(table[name]) for name in table.columns if name not in inputs]
    few = [codes for codes in settings if 0 <= codes.max() < 0.05 * len(table)]
    for columns in (others, [*others, *few]):
        if count := _curves(columns, inputs["tokens"], measured, 10):
            return f"{len(table)} rows look like {count} training curves: name the run of each with cluster="
    return ""


def _codes(column: pd.Series) -> np.ndarray:
    """A number [n] for every value of a column; -1 throughout where values cannot be told apart, as lists."""
    try:
        return np.asarray(pd.factorize(column)[0])
    except TypeError:
        return np.full(len(column), -1)


def perhaps_points(table: pd.DataFrame, inputs: Mapping[str, np.ndarray], measured: np.ndarray) -> str:
    """What a reader should ask of rows in which every size has a few token counts with falling losses: separate runs
    are planned like that, too. Empty for other tables, and where every row has the name of a run of its own."""
    if any(str(name).lower() in RUN_COLUMNS and table[name].is_unique for name in table.columns):
        return ""
    others = [values for name, values in inputs.items() if name != "tokens"]
    if "tokens" not in inputs or not others or not (count := _curves(others, inputs["tokens"], measured, 3)):
        return ""
    return f"{count} sizes have several token counts each: if these are points of one run, name the run with cluster="


def _curves(others: list[np.ndarray], tokens: np.ndarray, measured: np.ndarray, least: int) -> int:
    """How many training curves of `least` rows and more the rows [n] look like, one for every combination of the other
    columns; 0 when losses do not fall along them."""
    groups = np.zeros(len(measured), int)
    for column in others:
        codes = np.unique(column, return_inverse=True)[1]
        groups = np.unique(groups * (codes.max() + 1) + codes, return_inverse=True)[1]
    if np.median(np.bincount(groups)) < least:
        return 0
    order = np.lexsort((tokens, groups))
    fall = (np.diff(measured[order]) < 0)[np.diff(groups[order]) == 0]
    falling = MOSTLY if least < 10 else MOSTLY_OF_MANY
    return int(groups.max()) + 1 if np.mean(fall) > falling else 0
