"""Word problems are right, distinct, and on one side of the split."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from launch import problems
from models.errors import ConfigError
from scaling.tasks.word_problems import word_problems

STEP = re.compile(r"(\d+) ([+-]) (\d+) = (\d+)")


@pytest.mark.parametrize("split", ["train", "test"])
def test_solutions_follow_from_their_stories(split: str) -> None:
    for problem in word_problems(3, 200, split, largest=30):  # type: ignore[arg-type]  # a Literal
        start, *amounts = map(int, re.findall(r"\d+", problem.question))
        signs = ["+" if word in ("buys", "finds", "gets") else "-" for word in re.findall(
            r"(buys|finds|gets|loses|sells|gives)", problem.question)]  # fmt: skip
        *steps, last, rest = problem.solution.split("\n")
        for sign, amount, step in zip(signs, amounts, steps, strict=True):
            found = STEP.fullmatch(step)
            assert found and (int(found[1]), found[2], int(found[3])) == (start, sign, amount)
            start = start + amount if sign == "+" else start - amount
            assert int(found[4]) == start >= 0
        assert (last, rest, problem.answer) == (f"#### {start}", "", str(start))


def test_problems_are_distinct_prefixes_and_lie_on_one_side(monkeypatch: pytest.MonkeyPatch) -> None:
    many, few = word_problems(1, 300), word_problems(1, 100)
    assert many[:100] == few and len({p.question for p in many}) == 300
    train = {p.question for p in word_problems(1, 2000, "train")}
    assert not train & {p.question for p in many}
    monkeypatch.setattr("scaling.tasks.word_problems._MOST_REPEATS", 5)
    with pytest.raises(ConfigError, match="count: there are only some"):
        word_problems(0, 10**6, "test", largest=4)


def test_the_command_writes_prompts_with_their_answers(tmp_path: Path) -> None:
    out = tmp_path / "p.jsonl"
    assert problems.main("words", 5, str(out), "test", 0, False, 20) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["answer"] for row in rows] == [p.answer for p in word_problems(0, 5)]
    assert rows[0].keys() == {"prompt", "answer", "task", "delimiter"}
    assert problems.main("modular", 3, str(out), "test", 0, True, 20) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(row["answer"] in row["solution"] and row["delimiter"] == "|" for row in rows)
    with pytest.raises(ConfigError, match="does not end in .jsonl"):
        problems.main("words", 5, str(tmp_path / "p.txt"), "test", 0, False, 20)
