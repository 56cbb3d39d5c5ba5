"""Execution: every label is what a plain interpreter prints, and wrong answers are named by running it otherwise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from models.errors import ConfigError
from scaling.tasks.execution import (
    ADD,
    CATEGORIES,
    CONTROL,
    LOOP,
    MOVE,
    PLAIN,
    PRINT,
    SET,
    SUBTRACT,
    UNLESS,
    Execution,
    errors,
    printed,
)

A, B, C, D = range(10, 14)


def interpreted(program: list[int]) -> int:
    """What a program prints, statement by statement."""
    held = {A: 0, B: 0, C: 0, D: 0}
    *body, asked = program
    assert body.pop() == PRINT
    times = 1
    for i in range(0, len(body), 3):
        word, first, second = body[i : i + 3]
        following = 1
        for _ in range(times):
            if word == SET:
                held[first] = second
            elif word == MOVE:
                held[first] = held[second]
            elif word == ADD:
                held[first] = (held[first] + held[second]) % 10
            elif word == SUBTRACT:
                held[first] = (held[first] - held[second]) % 10
            elif word == UNLESS:
                following = 0 if held[first] < held[second] else 1
            else:
                assert word == LOOP and second == 0
                following = first
        times = following
    return held[asked]


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_label_is_what_a_plain_interpreter_prints(category: str) -> None:
    kind = Execution(category, statements=8)
    data = kind.draw(np.random.default_rng(0), 400)
    assert data.tokens.shape == (400, 26) and data.tokens.max() < kind.vocab_size and data.scored.sum() == 400
    for tokens, labels in zip(data.tokens.tolist(), data.labels.tolist(), strict=True):
        assert labels[-1] == interpreted(tokens)
        words = tokens[:-2:3]
        assert words[:2] == [SET, SET] and set(words[2:]) <= {*PLAIN[category], *CONTROL[category]}
        assert words[-1] in PLAIN[category]
        pairs = list(itertools.pairwise(words[2:]))
        assert not any(one in CONTROL[category] and two in CONTROL[category] for one, two in pairs)
    assert not CONTROL[category] or np.isin(data.tokens[:, ::3], CONTROL[category]).any()


def test_programs_written_by_hand_print_what_they_should_and_errors_are_named() -> None:
    twice = [SET, A, 3, SET, B, 2, LOOP, 3, 0, ADD, A, B, PRINT, A]  # 3 + 3 x 2
    skipped = [SET, A, 3, SET, B, 4, UNLESS, A, B, MOVE, A, B, PRINT, A]
    doubled = [SET, A, 3, SET, B, 4, LOOP, 4, 0, ADD, A, A, PRINT, A]  # 48
    tokens = np.array([twice, skipped, doubled])
    assert printed(tokens).tolist() == [9, 3, 8] and printed(tokens, obey=False).tolist() == [5, 4, 6]
    assert errors(tokens, np.array([9, 3, 8])) == [None] * 3
    assert errors(tokens, np.array([5, 4, 6])) == ["control"] * 3
    assert errors(tokens, np.array([3, 0, 4])) == ["stale", "stale", "register"]
    assert errors(tokens, np.array([1, 9, 7])) == ["other"] * 3
    with pytest.raises(ConfigError, match="did you mean 'branch'"):
        Execution("branches")
