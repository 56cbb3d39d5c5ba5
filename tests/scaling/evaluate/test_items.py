"""Items and suites: what is refused in one line, wrong choices that are wrong, traps that tempt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.errors import ConfigError
from scaling.evaluate.item import Quantity, read_items
from scaling.evaluate.suites import split_names, suite, verifier
from scaling.tasks import task_by_name

GOOD = {"prompt": "2+2=", "format": "choice", "choices": ["3", "4"], "gold": [1]}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_of_items_is_read_with_every_format(tmp_path: Path) -> None:
    rows = [
        GOOD,
        {"prompt": "The sky is", "format": "cloze", "gold": "blue", "delimiter": " ", "id": "sky", "topic": "colours"},
        {"prompt": "c a b", "format": "ordering", "gold": ["a", "b", "c"]},
        {"prompt": "far", "format": "numeric", "gold": {"value": 2, "unit": "km"}, "human": 0.9},
        {"prompt": "q", "format": "generate", "gold": "7", "shots": [["p", "1"]], "level": 3},
    ]
    items = read_items(write(tmp_path / "x.jsonl", *rows), "x")
    assert [item.format for item in items] == ["choice", "cloze", "ordering", "numeric", "generate"]
    assert items[0].gold == (1,) and items[1].id == "sky" and items[1].tags == {"topic": "colours"}
    assert items[3].gold == Quantity(2.0, "km") and items[4].shots == (("p", "1"),)
    assert [item.chance for item in items] == [0.5, 0, 1 / 6, 0, 0]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (GOOD | {"gold": [2]}, "gold is (2,): give indices of choices, 0 to 1"),
        (GOOD | {"choices": ["3"]}, "has 1 choices: give 2 to 26"),
        (GOOD | {"format": "choise"}, "format is 'choise': did you mean 'choice'?"),
        (GOOD | {"normalisation": "bytes"}, "normalisation is 'bytes': did you mean 'byte'?"),
        (GOOD | {"chioces": []}, "has 'chioces': did you mean 'choices'?"),
        (GOOD | {"prompt": ""}, "has an empty prompt: give the question"),
        ({"prompt": "q", "format": "numeric", "gold": "7"}, "gold is ('7',): give"),
        ({"prompt": "q", "format": "ordering", "gold": ["a", "a"]}, "orders 1 different labels of 2"),
        ({"prompt": "q", "format": "generate"}, "is damaged (gold is missing)"),
        ([1], "is damaged"),
    ],
)
def test_a_line_that_is_no_item_is_named_with_its_number(row: object, words: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", GOOD, row)
    with pytest.raises(ConfigError) as caught:
        read_items(path, "x")
    assert str(caught.value).startswith(f"{path}:2") and words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_items_that_share_an_id_and_files_without_items_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="id 'a' is there twice"):
        read_items(write(tmp_path / "x.jsonl", GOOD | {"id": "a"}, GOOD | {"id": "a"}), "x")
    with pytest.raises(ConfigError, match="holds no items"):
        read_items(write(tmp_path / "y.jsonl"), "y")
    with pytest.raises(ConfigError, match="no such file"):
        suite(str(tmp_path / "z.jsonl"))


def test_names_of_suites_are_told_from_their_knobs() -> None:
    text = "choice.modular:operations=4,items=5, cloze.copy,x/y=1.jsonl,trap.phrase:items=2"
    names = ["choice.modular:operations=4,items=5", "cloze.copy", "x/y=1.jsonl", "trap.phrase:items=2"]
    assert split_names(text) == names
    with pytest.raises(ConfigError, match="names \\['cloze.copy'\\] twice"):
        split_names("cloze.copy,cloze.copy")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("choise.modular", "did you mean choice.modular"),
        ("modular", "write FORM.TASK"),
        ("choice.modulr", "did you mean 'modular'"),
        ("choice.modular:itms=4", "modular.itms: is no knob"),
        ("choice.modular:items=none", "choice.modular.items: is 'none': give a whole number"),
        ("choice.modular:choices=40", "give 2 to 26"),
        ("trap.modular", "modular has no trap: use one of claim, demonstrations, phrase, recall"),
        ("ordering.modular", "use ordering.copy"),
        ("numeric.tag", "is no plain number"),
        ("choice.recall:keys=2,pairs=1,items=100", "has only"),
    ],
)
def test_a_suite_that_there_is_not_says_what_there_is(name: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        suite(name)
    assert words in str(caught.value)


@pytest.mark.parametrize("kind", ["modular:operations=2", "copy:order=reverse", "recall", "tag:steps=2", "countdown"])
def test_exactly_one_choice_is_right_and_suites_are_a_pure_function_of_their_name(kind: str) -> None:
    name = f"choice.{kind}{',' if ':' in kind else ':'}items=12,shots=2"
    items = suite(name)
    task = task_by_name(kind)
    problems = {problem.prompt: problem for problem in task.generate(0, 12, "test")}
    for item in items:
        right = [task.verify(problems[item.prompt], text) for text in item.choices]
        assert [i for i, yes in enumerate(right) if yes] == list(item.gold) and len(set(item.choices)) == 4
        assert len(item.shots) == 2 and item.shots == items[0].shots
    assert items == suite(name) and len({item.gold for item in items}) > 1


@pytest.mark.parametrize("kind", ["phrase", "claim", "demonstrations", "recall"])
def test_a_trap_sets_the_truth_against_what_the_corpus_says(kind: str) -> None:
    items = suite(f"trap.{kind}:items=20")
    assert {item.gold for item in items} == {(0,), (1,)} and all(len(set(item.choices)) == 2 for item in items)
    wrong = [item.choices[1 - item.gold[0]] for item in items]
    first, tempting = items[0], wrong[0]
    if kind == "phrase":
        word = first.prompt.partition(":")[2].rstrip("~")
        assert first.choices[first.gold[0]] == f"{word}." and tempting[:-1] in task_by_name(kind).known()
    if kind == "claim":
        assert all(item.prompt.endswith(f",{text[:-1]}:") for item, text in zip(items, wrong, strict=True))


def test_the_task_itself_checks_a_generated_answer() -> None:
    name = "generate.countdown:items=3"
    check, items = verifier(name), suite(name)
    assert check is not None and all(check(item, str(item.gold[0])) for item in items)
    assert not check(items[0], str(items[1].gold[0])) and verifier("cloze.copy") is None
