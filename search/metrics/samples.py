"""Samples: what was drawn for every problem and how it was judged, the input of every metric of this package."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from models.errors import ConfigError, nearest, require
from search.metrics.recorded import sample_rows

Ragged = Sequence[Any] | np.ndarray  # one row of values per problem; rows may differ in length
INVALID = -1  # code of an answer that could not be read: it never votes and its score is zero
FIELDS = ("correct", "scores", "answers", "tokens", "accepted")
COLUMNS = dict(correct="correct", scores="score", answers="answer", tokens="generated_tokens", accepted="accepted")


@dataclass(frozen=True, eq=False)
class Samples:
    """Independent samples of each problem, in the order in which they were drawn; build it with `of` or `from_table`.

    correct: per problem, float64 [n] of 0 and 1. scores: float64 [n], higher is better. answers: int64 [n], equal codes
    for equal answers, -1 for one that could not be read. tokens: float64 [n] generated. accepted: float64 [n] of 0 and
    1, a verifier's verdict. problems: their names. The fields after `correct` may be absent (None).
    """

    correct: tuple[np.ndarray, ...]
    scores: tuple[np.ndarray, ...] | None = None
    answers: tuple[np.ndarray, ...] | None = None
    tokens: tuple[np.ndarray, ...] | None = None
    accepted: tuple[np.ndarray, ...] | None = None
    problems: tuple[Any, ...] = ()

    @staticmethod
    def of(
        correct: Ragged,
        scores: Ragged | None = None,
        answers: Ragged | None = None,
        tokens: Ragged | None = None,
        accepted: Ragged | None = None,
        problems: Iterable[Any] | None = None,
    ) -> Samples:
        """Samples from arrays [problems, n] or from one sequence per problem.

        answers may be anything hashable; None, NaN and the empty text could not be read, and get score 0 as in
        sc-genrm-scaling. Raises ConfigError naming the problem for rows of different lengths, scores that are not
        finite, or verdicts that are not 0 or 1.
        """
        given = dict(correct=correct, scores=scores, answers=answers, tokens=tokens, accepted=accepted)
        names = tuple(range(len(correct))) if problems is None else tuple(problems)
        require(len(correct) > 0, "samples", "has no problems", "draw some first")
        require(len(names) == len(correct), "problems", f"{len(names)} names for {len(correct)} rows", "give one each")
        rows: dict[str, tuple[np.ndarray, ...]] = {}
        for name, values in given.items():
            if values is None:
                continue
            require(
                len(values) == len(correct), name, f"{len(values)} rows for {len(correct)} problems", "give one each"
            )
            rows[name] = tuple(_codes(row) if name == "answers" else _floats(row, name, p)
                               for row, p in zip(values, names, strict=True))  # fmt: skip
            for row, first, problem in zip(rows[name], rows["correct"], names, strict=True):
                problem_text = f"problem {problem} has {len(row)} of them for {len(first)} samples"
                require(len(row) == len(first) > 0, name, problem_text, "give one per sample")
        if "scores" in rows and "answers" in rows:
            rows["scores"] = tuple(np.where(a == INVALID, 0.0, s) for a, s in zip(rows["answers"], rows["scores"]))
        return Samples(**rows, problems=names)

    @staticmethod
    def from_table(runs: Any, columns: Mapping[str, str] | None = None) -> Samples:
        """Samples from what was recorded: `problem`, `correct`, and what there is of `score`, `answer`,
        `generated_tokens` and `accepted`.

        runs: DataFrame, columns, or a path (.jsonl, .json, .csv, .parquet), with one row per sample, or one per problem
        with lists in it; or nested lists of verdicts. See recorded.py. columns: our field -> the table's name, as
        {"tokens": "length"}. Problems keep the order of their first row. Raises ConfigError for a missing column.
        """
        own = {"problem": "problem", **COLUMNS}
        for field in columns or {}:
            near = nearest(field, own)
            fix = f"did you mean {near!r}?" if near else f"use {', '.join(own)}"
            require(field in own, "columns", f"{field!r} is no field of samples", fix)
        table = sample_rows(runs, own | dict(columns or {}), columns or {})
        groups = table.groupby("problem", sort=False).indices
        order = list(dict.fromkeys(table["problem"]))
        given = {
            field: [table[field].to_numpy()[groups[problem]] for problem in order]
            for field in FIELDS
            if field in table.columns
        }
        return Samples.of(**given, problems=order)

    @property
    def counts(self) -> np.ndarray:
        """Samples of each problem [problems] int64."""
        return np.array([len(row) for row in self.correct])

    @property
    def right(self) -> np.ndarray:
        """Right samples of each problem [problems] int64."""
        return np.array([int(row.sum()) for row in self.correct])

    def __repr__(self) -> str:
        counts, right = self.counts, self.right
        drawn = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
        share = f"{right.sum() / counts.sum():.1%} right, {np.mean(right > 0):.1%} of problems at least once"
        others = ", ".join(name for name in FIELDS[1:] if getattr(self, name) is not None) or "nothing else"
        return f"Samples({len(counts)} problems, {drawn} samples each: {share}; with {others})"

    def first(self, count: int) -> Samples:
        """The first `count` samples of every problem, as if no more had been drawn."""
        return self._part(slice(None, count))

    def after(self, count: int) -> Samples:
        """The samples that follow the first `count`; ConfigError where a problem has none left."""
        require(count < self.counts.min(), "count", f"is {count} of {self.counts.min()} samples", "leave some")
        return self._part(slice(count, None))

    def _part(self, part: slice) -> Samples:
        fields = {name: getattr(self, name) for name in FIELDS}
        return replace(self, **{name: tuple(row[part] for row in rows) for name, rows in fields.items() if rows})

    def needed(self, *names: str) -> None:
        """Raise ConfigError unless these fields are there."""
        for name in names:
            if getattr(self, name) is None:
                raise ConfigError("samples", f"have no {name}", f"give {name}= or the column {COLUMNS[name]!r}")


def _floats(row: Any, name: str, problem: Any) -> np.ndarray:
    try:
        values = np.asarray(row, dtype=float)
    except (TypeError, ValueError):
        raise ConfigError(name, f"of problem {problem} are not all numbers", "give numbers") from None
    if name in ("correct", "accepted"):
        fine, fix = np.isin(values, (0.0, 1.0)), "give 0 or 1 for every sample"
    else:
        fine, fix = np.isfinite(values), "drop the sample, or give a finite number"
    if not fine.all():
        at = int(np.flatnonzero(~fine)[0])
        raise ConfigError(name, f"sample {at} of problem {problem} is {values[at]}", fix)
    return values


def _codes(row: Any) -> np.ndarray:
    """Integer codes [n] in the order of first appearance; -1 for what could not be read."""
    seen: dict[Any, int] = {}
    codes = np.empty(len(row), np.int64)
    for at, answer in enumerate(row):
        # NaN, the only value unequal to itself, is how a table writes a missing answer
        unread = answer is None or answer is pd.NA or answer != answer or (isinstance(answer, str) and not answer)
        codes[at] = INVALID if unread else seen.setdefault(answer, len(seen))
    return codes
