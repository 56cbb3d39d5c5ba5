"""Reward models learn what they are shown: whether an answer is right."""

from __future__ import annotations

import numpy as np
import pytest

from models.config import ModelConfig
from models.errors import ConfigError
from scaling.tasks import CharTokenizer, task_by_name
from scaling.tasks.task import Problem
from search.verifiers.reward_training import Labelled, RewardTraining, outcome, process, train_reward_model
from search.verifiers.value_head import last_hidden

TASK = task_by_name("arithmetic:operation=max")
TOKENIZER = CharTokenizer.of(TASK)
MODEL = ModelConfig(
    vocab_size=TOKENIZER.vocab_size, d_model=32, n_layers=2, n_heads=4, n_kv_heads=4, d_ff=64, max_seq_len=16
)


def tokens(text: str) -> tuple[int, ...]:
    return tuple(int(t) for t in TOKENIZER.encode(text))


def answered(split: str, count: int) -> list[tuple[Problem, str]]:
    """Problems, each with one of its two numbers as the answer."""
    rng = np.random.default_rng(0)
    return [(p, f"{p.instance[rng.integers(2)]}.") for p in TASK.generate(0, count, split)]


def order(scores: np.ndarray, right: np.ndarray) -> float:
    """The share of pairs (right, wrong) whose scores are in that order."""
    return float((scores[right][:, None] > scores[~right]).mean())


def test_an_outcome_reward_model_tells_right_answers_from_wrong_ones() -> None:
    shown = [outcome(tokens(p.prompt), tokens(text), TASK.verify(p, text)) for p, text in answered("train", 2000)]
    params, head = train_reward_model(MODEL, shown, RewardTraining(steps=350))
    test = answered("test", 300)
    right = np.array([TASK.verify(p, text) for p, text in test])
    hidden = last_hidden(MODEL, params, [tokens(p.prompt + text) for p, text in test], 300)
    scores = hidden @ np.asarray(head.weight) + float(head.bias)
    assert order(scores, right) > 0.9


def test_the_weights_that_fit_other_problems_best_are_kept() -> None:
    judged = [(p, text, TASK.verify(p, text)) for p, text in answered("train", 200)]
    shown = [outcome(tokens(p.prompt), tokens(text), right) for p, text, right in judged]
    contrary = [outcome(tokens(p.prompt), tokens(text), not right) for p, text, right in judged]
    how = RewardTraining(steps=100, batch=32)
    _, last = train_reward_model(MODEL, shown, how)
    _, agreeing = train_reward_model(MODEL, shown, how, held_out=shown)  # the longer, the better
    np.testing.assert_allclose(agreeing.weight, last.weight, rtol=1e-4, atol=1e-5)
    _, opposed = train_reward_model(MODEL, shown, how, held_out=contrary)  # the longer, the worse
    assert np.abs(opposed.weight).max() < 0.5 * np.abs(last.weight).max()


def test_an_outcome_is_a_process_that_is_judged_at_its_end_alone() -> None:
    assert process((1, 2), (3, 4, 5), (1, 3), (1, 0)) == Labelled((1, 2, 3, 4, 5), ((3, 1.0), (5, 0.0)))
    assert outcome((1, 2), (3, 4, 5), True) == process((1, 2), (3, 4, 5), (3,), (1,))


def test_bad_examples_are_refused() -> None:
    for examples, message in (
        ([], "examples: are empty"),
        ([Labelled((1, 2), ())], "number 0 of 2 tokens has the labels"),
        ([outcome((1,), (2,), 1.0), Labelled((1, 2), ((3, 1.0),))], "number 1 of 2 tokens"),
        ([outcome((1,), (2,), 1.5)], "label prefixes of it with 0 to 1"),
        ([outcome((1,), (99,), 1)], r"unknown tokens \[99\]"),
    ):
        with pytest.raises(ConfigError, match=message):
            train_reward_model(MODEL, examples)
