"""Tasks as training text: the tokenizer of characters, and a task as the source of a DataConfig."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError
from scaling.data import DataConfig, Source, prepare, tokenizer_of
from scaling.tasks import TASKS, CharTokenizer, task_by_name
from scaling.tasks.text import TaskText

COUNTDOWN = "countdown:numbers=3,largest=9,examples=400"


@given(st.text(alphabet=task_by_name("countdown").alphabet))
def test_characters_come_back(text: str) -> None:
    tokenizer = CharTokenizer.of(task_by_name("countdown"))
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.int32 and len(tokens) == len(text) and (tokens > 0).all()
    assert tokenizer.decode([*tokens, tokenizer.end_of_document, tokenizer.vocab_size]) == text
    assert tokenizer.token_bytes[tokens].sum() == len(text.encode())


def test_a_foreign_character_is_named() -> None:
    tokenizer = CharTokenizer("cab")
    assert tokenizer.alphabet == "abc" and tokenizer.vocab_size == 4
    for text in ("ad", "a\N{GRINNING FACE}", "a\ud800", "a\0"):
        with pytest.raises(ConfigError, match="is no character of 'abc'"):
            tokenizer.encode(text)
    assert CharTokenizer("abc").digest == CharTokenizer("cba").digest != CharTokenizer("abcd").digest


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_a_small_alphabet_that_spells_it(name: str) -> None:
    text = TaskText(task_by_name(name), 50)
    tokenizer = CharTokenizer.of(text.task)
    assert len(tokenizer.alphabet) <= 40
    for problem, solution in text.examples():
        assert tokenizer.decode(tokenizer.encode(problem.prompt + solution)) == problem.prompt + solution
        assert text.task.delimiter not in problem.prompt and text.task.end not in problem.prompt


def test_a_task_is_a_source_whose_loss_is_on_the_answers_and_whose_split_is_by_problem(tmp_path) -> None:
    config = DataConfig(source="task", path=COUNTDOWN, tokenizer="characters", loss_mask="completion",
                        packing="segments", heldout_fraction=0.2, cache_dir=str(tmp_path))  # fmt: skip
    dataset = prepare(config, vocab_size=21)
    assert tokenizer_of(config).digest == dataset.tokenizer.digest
    task, prompts = task_by_name("countdown:numbers=3,largest=9"), []
    for files in (dataset.train[0], dataset.heldout[0]):
        documents = files.documents.tolist()
        prompts.append(set())
        for start, stop in itertools.pairwise(documents):
            text = dataset.tokenizer.decode(files.tokens[start : stop - 1])
            prompt, completion = text[: text.index(">") + 1], text[text.index(">") + 1 :]
            target, numbers = prompt[:-1].split(":")
            problem = task.problem(tuple(map(int, numbers.split(","))), int(target))
            assert task.verify(problem, completion)
            assert files.mask[start:stop].tolist() == [0] * len(prompt) + [1] * (len(completion) + 1)
            prompts[-1].add(prompt)
    assert len(prompts[0]) > 4 * len(prompts[1]) / 2 > 0 and not prompts[0] & prompts[1]
    test = {problem.prompt for problem in task.generate(9, 30, "test")}
    assert not test & (prompts[0] | prompts[1])
    assert set(dataset.batches(64, 4).batch(0)) == {"tokens", "weights", "segments"}
    assert prepare(config).digest == dataset.digest


def test_several_tasks_share_one_vocabulary(tmp_path) -> None:
    sources = (Source("task", COUNTDOWN), Source("task", "modular:operations=3,examples=100", weight=2))
    dataset = prepare(DataConfig(mixture=sources, tokenizer="characters", cache_dir=str(tmp_path)))
    both = CharTokenizer.of(task_by_name("countdown"), task_by_name("modular"))
    assert dataset.tokenizer == both and len(dataset.train) == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "task"}, "data.path: is None, but the source 'task' needs one: give the name of a task"),
        ({"source": "task", "path": "contdown"}, "task: 'contdown' is no task: did you mean 'countdown'?"),
        (
            {"source": "task", "path": "countdown:number=3"},
            "countdown.number: is no knob of this task: did you mean 'n",
        ),
        ({"source": "task", "path": "countdown:numbers=9"}, "countdown.numbers: is 9: use 2 to 5"),
        ({"source": "task", "path": "countdown:numbers"}, "countdown.numbers: has no value: write numbers=3"),
        ({"source": "task", "path": "countdown:numbers=x"}, "countdown.numbers: is 'x': give a whole number"),
        ({"source": "task", "path": "countdown:examples=1"}, "countdown.examples: is 1: give 2 or more"),
        ({"tokenizer": "characters"}, "data.tokenizer: is 'characters', but a source is no task"),
        ({"tokenizer": "character"}, "did you mean 'characters'?"),
        ({"source": "task", "path": "arithmetic:style=plane"}, "arithmetic.style: is 'plane': did you mean 'plain'?"),
    ],
)
def test_a_bad_task_is_named_with_its_fix(fields: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DataConfig(**fields)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_vocabulary_that_differs_from_the_tasks_is_refused(tmp_path) -> None:
    config = DataConfig(source="task", path=COUNTDOWN, tokenizer="characters", cache_dir=str(tmp_path))
    with pytest.raises(ConfigError, match=r"model\.vocab_size: is 64, but the tokenizer has 21 tokens"):
        prepare(config, vocab_size=64)
