"""Sums as tokens: a reader of the tokens alone finds both numbers, and the labels spell their sum."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from models.errors import ConfigError
from scaling.tasks.numerals import Sum


def text(kind: Sum, tokens: list[int]) -> str:
    signs = dict(zip(range(10**kind.group, kind.vocab_size), "+=.", strict=True))
    return " ".join(signs.get(token, f"{token:0{kind.group}}") for token in tokens)


@pytest.mark.parametrize(("group", "decimals", "reverse"), [*itertools.product([1, 2], [0, 2], [False, True])])
def test_the_labels_spell_the_sum_of_the_numbers_that_the_tokens_spell(
    group: int, decimals: int, reverse: bool
) -> None:
    kind = Sum(4, group, decimals, reverse)
    data = kind.draw(np.random.default_rng(0), 60)
    assert data.tokens.shape == (60, kind.size) and data.scored.sum() == 60 * (kind.size - kind.asked_at)
    for tokens, labels in zip(data.tokens.tolist(), data.labels.tolist(), strict=True):
        asked, said = tokens[: kind.asked_at + 1], labels[kind.asked_at :]
        assert tokens[kind.asked_at + 1 :] == said[:-1]
        one, other = text(kind, asked).replace(" ", "").rstrip("=").split("+")
        total = text(kind, said[:: -1 if reverse else 1]).replace(" ", "")
        assert len(one) == len(other) == 4 + bool(decimals) and ("." in total) == bool(decimals)
        assert round(100 * (float(one) + float(other))) == round(100 * float(total))


def test_digits_must_be_whole_groups() -> None:
    with pytest.raises(ConfigError, match="digits"):
        Sum(digits=5, group=2)
    with pytest.raises(ConfigError, match="decimals"):
        Sum(digits=4, group=2, decimals=1)
