"""Recorded samples as people publish them: rows of samples, rows of problems with lists in them, or nested lists.

    one row per sample        {"problem": "p", "correct": true, "answer": "7"}
    one row per problem       {"problem": "p", "correct": [true, false], "answer": ["7", "8"]}
    with samples as objects   {"problem": "p", "samples": [{"correct": true, "answer": "7"}, ...]}
    nested lists              [[true, false], [true, true]], of verdicts or of such objects; or problem -> list
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from models.errors import ConfigError, nearest, require
from scaling.fitting.runs import load

_LIST = (list, tuple, np.ndarray)
_WORDS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0, "correct": 1.0, "incorrect": 0.0}
_KNOWN_AS = {  # what others call a field of ours, in lower case
    "problem": ("problem_id", "task_id", "question_id", "question", "id", "idx", "index", "line"),
    "correct": ("is_correct", "is_corrects", "right", "passed", "pass", "acc", "accuracy", "label"),
    "scores": ("score", "scores", "reward", "rewards", "rm_score"),
    "answers": ("answer", "answers", "prediction", "pred", "extracted_answer"),
    "tokens": ("generated_tokens", "tokens", "length", "num_tokens", "completion_tokens"),
    "accepted": ("accepted", "verdict", "verified"),
}


def sample_rows(recorded: Any, names: Mapping[str, str], given: Mapping[str, str]) -> pd.DataFrame:
    """One row per sample, with a column per field that there is, `problem` and `correct` among them.

    recorded: a DataFrame, columns, a path (.jsonl, .json, .csv, .parquet), nested lists, or problem -> list of samples.
    names: field -> column. given: those of them that a person named, which must be there. A name of objects inside of a
    row may be dotted, `samples.correct`.

    Raises:
      ConfigError: a column that is not there, with the nearest that is, or lists of one problem that differ in length.
    """
    table = _table(recorded, names)
    for column in list(table.columns):
        if any(_is_list(cell) and len(cell) and isinstance(cell[0], Mapping) for cell in table[column]):
            _open(table, str(column))
    having = {field: found for field, name in names.items() if (found := _find(table, name)) is not None}
    for field, name in names.items():
        wanted = field in ("problem", "correct") or field in given
        listed = field == "problem" and field not in given and any(map(_is_list, table.get(having.get("correct"), ())))
        if wanted and field not in having and not listed:
            _missing(field, name, table)
    rows = pd.DataFrame({field: table[column] for field, column in having.items()})
    if "problem" not in rows:
        rows.insert(0, "problem", np.arange(len(rows)))
    rows = _exploded(rows, names)
    rows["correct"] = [_verdict(value) for value in rows["correct"]]
    return rows


def _table(recorded: Any, names: Mapping[str, str]) -> pd.DataFrame:
    if isinstance(recorded, str | Path):
        read = _json(Path(recorded))
        recorded = load(recorded) if read is None else read
    if isinstance(recorded, pd.DataFrame):
        return recorded.copy(deep=False)
    if isinstance(recorded, Mapping):
        if {names["problem"], names["correct"]} & set(recorded) or not all(map(_is_list, recorded.values())):
            return pd.DataFrame(recorded)
        return _nested(list(recorded.values()), names).assign(**{names["problem"]: list(recorded)})
    require(_is_list(recorded), "runs", f"is a {type(recorded).__name__}", "give a table, a path or nested lists")
    if all(isinstance(row, Mapping) for row in recorded):
        return pd.DataFrame(list(recorded))
    return _nested(recorded, names)


def _json(path: Path) -> Any:
    """What a .json file holds, or a .jsonl file whose lines are lists; None for another file."""
    ending = path.suffix.lower()
    if ending not in (".json", ".jsonl") or not path.is_file():
        return None
    text = path.read_bytes().strip()
    if ending == ".jsonl" and not text.startswith(b"["):
        return None
    try:
        lines = [line for line in text.splitlines() if line.strip()] if ending == ".jsonl" else []
        return list(map(json.loads, lines)) if lines else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(str(path), f"is not JSON ({error})", "check brackets and quotes") from None


def _nested(recorded: Sequence[Any], names: Mapping[str, str]) -> pd.DataFrame:
    """One row per problem from a list per problem, of verdicts or of objects."""
    for i, row in enumerate(recorded):
        require(_is_list(row), "runs", f"problem {i} is {str(row)[:40]!r}, no list", "give a list of its samples")
    return pd.DataFrame({names["correct"]: [list(row) for row in recorded]})


def _open(table: pd.DataFrame, column: str) -> None:
    """Put lists of what the objects in a column hold beside it, as `column.key`; what one lacks is None."""
    cells = [list(cell) if _is_list(cell) else [] for cell in table.pop(column)]
    for key in dict.fromkeys(key for cell in cells for item in cell for key in item):
        table[f"{column}.{key}"] = [[item.get(key) for item in cell] for cell in cells]


def _find(table: pd.DataFrame, name: str) -> str | None:
    """The column of this name, or the one inside of objects if no other is called so."""
    if name in table.columns:
        return name
    inner = [column for column in map(str, table.columns) if column.rpartition(".")[2] == name]
    return inner[0] if len(inner) == 1 else None


def _exploded(rows: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """One row per sample, where cells are lists; fields of a problem as a whole are repeated."""
    lists = [name for name in rows.columns if name != "problem" and any(map(_is_list, rows[name]))]
    if not lists:
        return rows
    require("correct" in lists, "correct", f"is no list, but {names[lists[0]]!r} is", "give one verdict per sample")
    for row in rows.itertuples(index=False):
        length = {name: len(cell) if _is_list(cell := getattr(row, name)) else -1 for name in lists}
        for name, count in length.items():
            problem = f"problem {row.problem} has {max(count, 0)} of them for {max(length['correct'], 0)} samples"
            require(count == length["correct"] > 0, names[name], problem, "give a list with one per sample")
    return rows.explode(lists, ignore_index=True)


def _verdict(value: Any) -> Any:
    """True and false as people write them; anything else as it is."""
    return _WORDS.get(value.strip().lower(), value) if isinstance(value, str) else value


def _is_list(value: Any) -> bool:
    return isinstance(value, _LIST)


def _missing(field: str, name: str, table: pd.DataFrame) -> NoReturn:
    have = [str(column) for column in table.columns]
    known = [column for column in have if column.rpartition(".")[2].lower() in (name.lower(), *_KNOWN_AS[field])]
    near = nearest(name, have) or (known[0] if known else None)
    hint = f"did you mean columns={{{field!r}: {near!r}}}?" if near else f"name yours with columns={{{field!r}: ...}}"
    shown = ", ".join(have[:12]) + (" ..." if len(have) > 12 else "")
    raise ConfigError("runs", f"no column {name!r} among {shown}", hint)
