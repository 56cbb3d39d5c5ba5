"""Samples are read in every form in which people publish them, and all forms of one recording are equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from models.errors import ConfigError
from search.metrics import Samples

RIGHT = {"p": [True, False, True], "q": [False, True]}
ANSWERS = {"p": ["7", "8", "7"], "q": ["", "3"]}
OBJECTS = {p: [dict(is_correct=r, pred=a) for r, a in zip(RIGHT[p], ANSWERS[p], strict=True)] for p in RIGHT}
LONG = [dict(task_id=p, **item) for p, items in OBJECTS.items() for item in items]
PROBLEMS = [dict(task_id=p, is_correct=RIGHT[p], pred=ANSWERS[p], gold="7") for p in RIGHT]
INNER = [dict(task_id=p, samples=items, level=3) for p, items in OBJECTS.items()]
NAMES = {"problem": "task_id", "correct": "is_correct", "answers": "pred"}
DOTTED = NAMES | {"correct": "samples.is_correct"}


def equal(samples: Samples, named: bool = True, answered: bool = True) -> None:
    assert samples.problems == (("p", "q") if named else (0, 1))
    assert [row.tolist() for row in samples.correct] == [[1, 0, 1], [0, 1]]
    answers = None if samples.answers is None else [row.tolist() for row in samples.answers]
    assert answers == ([[0, 1, 0], [-1, 0]] if answered else None)


def write(path: Path, data: Any) -> Path:
    if path.suffix == ".parquet":
        pd.DataFrame(data).to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in data))
    else:
        path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize(
    ("data", "names"), [(LONG, NAMES), (PROBLEMS, NAMES), (INNER, NAMES), (INNER, DOTTED)],
    ids=["a row per sample", "a row per problem", "objects in a row", "objects by a dotted name"],
)  # fmt: skip
def test_a_file_of_any_form_gives_the_same_samples(tmp_path: Path, ending: str, data: Any, names: dict) -> None:
    equal(Samples.from_table(write(tmp_path / f"samples{ending}", data), names))
    equal(Samples.from_table(data, names))
    equal(Samples.from_table(pd.DataFrame(data), names))


def test_nested_lists_are_problems_of_samples(tmp_path: Path) -> None:
    lists = list(RIGHT.values())
    equal(Samples.from_table(lists), named=False, answered=False)
    equal(Samples.from_table(RIGHT), answered=False)
    equal(Samples.from_table([[int(r) for r in row] for row in lists]), named=False, answered=False)
    inner = {"correct": "is_correct", "answers": "pred"}
    equal(Samples.from_table(OBJECTS, inner))
    equal(Samples.from_table(list(OBJECTS.values()), inner), named=False)
    for ending in (".jsonl", ".json"):
        equal(Samples.from_table(write(tmp_path / f"lists{ending}", lists)), named=False, answered=False)
    equal(Samples.from_table(write(tmp_path / "named.json", RIGHT)), answered=False)


def test_verdicts_are_read_as_words(tmp_path: Path) -> None:
    words = [dict(problem=p, correct=str(right)) for p, rights in RIGHT.items() for right in rights]
    equal(Samples.from_table(words), answered=False)
    path = tmp_path / "words.csv"
    pd.DataFrame(words).to_csv(path, index=False)
    equal(Samples.from_table(path), answered=False)


@pytest.mark.parametrize(
    ("data", "names", "line"),
    [
        (LONG, {"problem": "task_id"}, r"runs: no column 'correct' among .*columns=\{'correct': 'is_correct'\}"),
        (LONG, NAMES | {"answers": "predd"}, r"no column 'predd' among .*columns=\{'answers': 'pred'\}"),
        (LONG, NAMES | {"corect": "x"}, "columns: 'corect' is no field of samples: did you mean 'correct'"),
        (INNER, {"problem": "task_id"}, r"did you mean columns=\{'correct': 'samples.is_correct'\}"),
        (PROBLEMS, NAMES | {"problem": "task"}, r"no column 'task' .*columns=\{'problem': 'task_id'\}"),
        ([dict(problem="p", correct=[1, 0], answer=["a"])], {}, "answer: problem p has 1 of them for 2 samples"),
        ([dict(problem="p", correct=1, answer=["a"])], {}, "correct: is no list, but 'answer' is"),
        ([[1, 0], 1], {}, "runs: problem 1 is '1', no list: give a list of its samples"),
        ([dict(problem="p", correct="maybe")], {}, "correct: of problem p are not all numbers"),
        ([[1, 2]], {}, "correct: sample 1 of problem 0 is 2.0"),
        (7, {}, "runs: is a int: give a table, a path or nested lists"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_line_with_the_nearest_name(data: Any, names: dict, line: str) -> None:
    with pytest.raises(ConfigError, match=line) as raised:
        Samples.from_table(data, names)
    assert "\n" not in str(raised.value)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("[[1, 0]")
    with pytest.raises(ConfigError, match="bad.json: is not JSON"):
        Samples.from_table(tmp_path / "bad.json")
    with pytest.raises(ConfigError, match="absent.jsonl: no such file"):
        Samples.from_table(tmp_path / "absent.jsonl")
