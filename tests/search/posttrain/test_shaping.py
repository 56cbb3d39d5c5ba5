"""The cosine reward: its values at the ends and between, its order, the wrap that public code has, repeated n-grams."""

from __future__ import annotations

import math

import pytest

from models.errors import ConfigError
from search.posttrain.shaping import CosineLength, repeated_share

SHAPE = CosineLength(longest=8, ngram=2, repeated=0.5)
APART = range(100)  # tokens that never come again


@pytest.mark.parametrize(
    ("reward", "length", "expected"),
    [
        (1, 0, 1.0), (1, 4, 0.75), (1, 8, 0.5), (0, 0, -1.0), (0, 4, -0.75), (0, 8, -0.5), (1, 9, -1.0), (0, 16, -1.0),
        (1, 2, 0.5 + 0.25 * (1 + math.sqrt(0.5))), (0, 6, -0.5 - 0.25 * (1 - math.sqrt(0.5))),
    ],
)  # fmt: skip
def test_the_reward_is_half_a_cosine_of_the_length_and_does_not_wrap(
    reward: float, length: int, expected: float
) -> None:
    assert SHAPE.shaped(reward, APART[:length], cut=False) == pytest.approx(expected, abs=1e-12)
    assert SHAPE.shaped(reward, APART[:length], cut=True) == -1


def test_right_answers_are_better_short_and_wrong_ones_long_and_any_right_one_is_better() -> None:
    right = [SHAPE.shaped(1, APART[:n], False) for n in range(9)]
    wrong = [SHAPE.shaped(0, APART[:n], False) for n in range(9)]
    assert right == sorted(right, reverse=True) and wrong == sorted(wrong) and min(right) > max(wrong)
    assert math.isnan(SHAPE.shaped(math.nan, [1], False))


@pytest.mark.parametrize(
    ("tokens", "n", "share"),
    [("abab", 2, 1 / 3), ("aaaa", 2, 2 / 3), ("abcd", 2, 0), ("ab", 3, 0), ("", 1, 0), ("aab", 1, 1 / 3)],
)
def test_repeated_n_grams_are_counted_as_a_loop_counts_them(tokens: str, n: int, share: float) -> None:
    assert repeated_share([ord(c) for c in tokens], n) == pytest.approx(share)
    shaped = CosineLength(longest=8, ngram=n, repeated=0.3).shaped(1, [ord(c) for c in tokens], False)
    plain = CosineLength(longest=8, ngram=n, repeated=0).shaped(1, [ord(c) for c in tokens], False)
    assert plain - shaped == pytest.approx(0.3 * share)


def test_a_length_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rollouts\.shaping\.longest: is 0"):
        CosineLength(longest=0)
    with pytest.raises(ConfigError, match=r"rollouts\.shaping\.repeated: is -1"):
        CosineLength(repeated=-1.0)
