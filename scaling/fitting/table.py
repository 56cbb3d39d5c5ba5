"""The numbers that a fit is made from: the law's columns of a table, read and checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from models.errors import ConfigError
from scaling.fitting import calibration
from scaling.fitting.bootstrap import codes
from scaling.fitting.law import Law
from scaling.fitting.runs import (
    Runs,
    as_table,
    check_units,
    copies,
    missing,
    numbers,
    perhaps_points,
    points_of_runs,
    row_name,
    row_names,
)
from scaling.fitting.where import select

SIZED = {"params", "tokens", "flops", "params_nonembed", "params_active", "unique_tokens"}


@dataclasses.dataclass(frozen=True)
class Table:
    """The numbers a fit was made from: inputs name -> [n], measured [n], weights [n], trials [n] or None, cluster and
    strata codes [n] or None, the name of each row; notes: what was done to the rows; doubts: what is wrong with them.
    """

    inputs: dict[str, np.ndarray]
    measured: np.ndarray
    weights: np.ndarray
    trials: np.ndarray | None
    clusters: np.ndarray | None
    strata: np.ndarray | None
    axis_name: str
    axis: np.ndarray
    rows: list[str]
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def read_table(
    law: Law,
    runs: Runs,
    columns: Mapping[str, str] | None = None,
    cluster: str | None = None,
    weights: str | Sequence[float] | np.ndarray | None = None,
    trials: str | None = None,
    strata: str | None = None,
    space: str = "log",
    counts: bool = False,
    where: str | None = None,
    drop_bad: bool = False,
) -> Table:
    """The law's columns of `runs` as checked arrays; see `fit` for the arguments."""
    extra = [c for c in (cluster, weights, trials, strata) if isinstance(c, str)]
    needed = {*law.inputs, law.output, *extra}
    table = as_table(runs, columns, needed, derive="flops" in needed or where is not None)
    notes = list(table.attrs["notes"])
    if where is not None:
        table = table[select(table, where)]
    if not len(table):
        raise ConfigError("runs", "the table has no rows", "give at least as many runs as the law has parameters")
    for name in (*law.inputs, law.output, *extra):
        if name not in table.columns:
            missing(name, table.columns)
    positive = must_be_positive(law, space, counts)
    if drop_bad:
        table = without_bad(table, positive, notes)
    inputs = {name: numbers(table, name, positive=positive[name]) for name in law.inputs}
    measured = numbers(table, law.output, positive=positive[law.output])
    given = "flops" in table.columns and "derived" not in table.attrs
    outputs = {"loss": measured} if law.output == "loss" else {}
    units = check_units({**inputs, **outputs, **({"flops": numbers(table, "flops")} if given else {})})
    together = points_of_runs(table, inputs, measured) if cluster is None else ""
    repeated = "" if counts else copies(inputs, measured)
    if cluster is None and not together and not counts and (perhaps := perhaps_points(table, inputs, measured)):
        notes.append(perhaps)
    if space == "logit" or counts:
        _check_fractions(table, law.output, measured, counts)
    axis_name = calibration.choose_axis(inputs)
    return Table(
        inputs,
        measured,
        _inverse_variances(table, weights),
        numbers(table, trials, positive=True) if trials else None,
        None if cluster is None else codes(table[cluster]),
        None if strata is None else codes(table[strata]),
        axis_name,
        calibration.sizes(axis_name, inputs),
        row_names(table),
        tuple(notes),
        (*units, *(note for note in (together, repeated) if note)),
    )


def must_be_positive(law: Law, space: str, counts: bool) -> dict[str, bool]:
    """Column that the law reads -> whether its values must be positive."""
    inputs = {name: name in SIZED and name not in law.zeros for name in law.inputs}
    return inputs | {law.output: space == "log" and not counts}


def without_bad(table: pd.DataFrame, positive: Mapping[str, bool], notes: list[str]) -> pd.DataFrame:
    """The rows whose columns are finite, and positive where they must be; how many were dropped goes into the notes."""
    good = np.ones(len(table), bool)
    for name, must_be_positive in positive.items():
        values = pd.to_numeric(table[name], errors="coerce").to_numpy(float, na_value=np.nan)
        good &= np.isfinite(values) & ((values > 0) | (not must_be_positive))
    if not good.any():
        problem = f"none of {len(table)} rows has all of {', '.join(positive)}"
        raise ConfigError("drop_bad", problem, "check the columns")
    if not good.all():
        notes.append(f"{int((~good).sum())} of {len(table)} rows dropped: not finite or not positive")
    return table[good]


def _check_fractions(table: pd.DataFrame, output: str, measured: np.ndarray, counts: bool) -> None:
    """Raise an error naming the first row that is no fraction; counts may be all or nothing."""
    edge = (measured <= 0) | (measured >= 1)
    bad = np.flatnonzero(edge & ~((measured == 0) | (measured == 1)) if counts else edge)
    if len(bad):
        row = int(bad[0])
        raise ConfigError(row_name(table, row), f"{output} is {measured[row]}", "give a fraction between 0 and 1")


def _inverse_variances(table: pd.DataFrame, weights) -> np.ndarray:
    """Weights [n], positive: a column, an array, or ones."""
    if weights is None:
        return np.ones(len(table))
    w = numbers(table, weights, positive=True) if isinstance(weights, str) else np.asarray(weights, float)
    if len(w) != len(table) or not np.all(w > 0):
        problem = f"{len(w)} weights for {len(table)} rows, all must be positive"
        raise ConfigError("weights", problem, "give inverse variances, one per row")
    return w
