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


def interpreted(program: list[int]) -> list[int]:
    """What a program prints, statement by statement."""
    held: dict[int, int] = {}
    *body, a, b, c, d = program
    assert [a, b, c, d] == [A, B, C, D] and body.pop() == PRINT
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
    return list(held.values())


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_label_is_what_a_plain_interpreter_prints(category: str) -> None:
    kind = Execution(category, statements=5)
    data = kind.draw(np.random.default_rng(0), 400)
    assert data.tokens.shape == (400, 32) and data.tokens.max() < kind.vocab_size and data.scored.sum() == 1600
    for tokens, labels in zip(data.tokens.tolist(), data.labels.tolist(), strict=True):
        assert labels[-4:] == interpreted(tokens)
        words = tokens[:-5:3]
        assert words[:4] == [SET] * 4 and set(words[4:]) <= {*PLAIN[category], *CONTROL[category]}
        assert words[-1] in PLAIN[category]
        pairs = list(itertools.pairwise(words[4:]))
        assert not any(one in CONTROL[category] and two in CONTROL[category] for one, two in pairs)
    assert not CONTROL[category] or np.isin(data.tokens[:, ::3], CONTROL[category]).any()


def test_programs_written_by_hand_print_what_they_should_and_errors_are_named() -> None:
    start, end = [SET, A, 3, SET, B, 2, SET, C, 4, SET, D, 4], [PRINT, A, B, C, D]
    twice = [*start, LOOP, 3, 0, ADD, A, B, *end]  # 3 + 3 x 2
    skipped = [*start, UNLESS, B, A, MOVE, A, C, *end]
    doubled = [*start, LOOP, 4, 0, ADD, C, C, *end]  # 4 x 16
    tokens = np.array([twice, skipped, doubled])
    assert printed(tokens).tolist() == [[9, 2, 4, 4], [3, 2, 4, 4], [3, 2, 4, 4]]
    assert printed(tokens, obey=False).tolist() == [[5, 2, 4, 4], [4, 2, 4, 4], [3, 2, 8, 4]]
    assert set(errors(tokens, printed(tokens))) == {None}
    told = np.array([[5, 2, 9, 1], [4, 3, 4, 4], [7, 2, 8, 6]])
    assert errors(tokens, told) == ["control", None, "register", "other", "control", "register", None, None,
                                    "other", None, "control", "other"]  # fmt: skip
    assert errors(tokens[:1], np.array([[3, 2, 4, 4]])) == ["stale", None, None, None]
    with pytest.raises(ConfigError, match="did you mean 'branch'"):
        Execution("branches")
