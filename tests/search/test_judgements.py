"""Votes of judgements, and those that a meta model leaves of them, against loops over every draw."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from models.errors import ConfigError
from search.metrics.judgements import preferred, voted

NAN = float("nan")


def by_hand(scores: list[float], trust: list[float] | None, kept: int | None) -> float:
    """One candidate's value: judgements in the order of trust, those that can be read, the first so many."""
    rows = [(score, 0.0 if trust is None else trust[i]) for i, score in enumerate(scores) if score == score]
    if kept is not None:
        rows = sorted(rows, key=lambda row: -row[1])[:kept]  # stable: the first of equals
    return sum(score for score, _ in rows) / len(rows) if rows else float("-inf")


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and trusts `[2, 6, 5]` with ties, and some that could not be read."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 3, (2, 6, 5)).astype(float)
    scores[rng.random(scores.shape) < 0.15] = NAN
    scores[0, 0] = NAN
    return scores, rng.integers(0, 4, scores.shape) / 4


def test_values_are_means_of_the_most_trusted_that_can_be_read() -> None:
    scores, trust = drawn(0)
    for kept in (None, 1, 2, 5, 9):
        found = voted(scores, None if kept is None else trust, kept)
        for at in np.ndindex(2, 6):
            assert found[at] == by_hand(scores[at].tolist(), trust[at].tolist(), kept)
    np.testing.assert_array_equal(voted(scores, trust, 5), voted(scores))
    assert voted([NAN, NAN]) == float("-inf") and voted([2.0, 0.0, NAN], [0.1, 0.9, 1.0], 1) == 0


@pytest.mark.parametrize("kept", [None, 1, 2])
def test_the_chance_of_preferring_the_better_is_the_average_over_all_draws(kept: int | None) -> None:
    scores, trust = drawn(1)
    for k in (1, 3, 5):
        found = preferred(*scores, k, None if kept is None else (trust[0], trust[1]), kept)
        for pair in range(6):
            won = []
            for a in combinations(range(5), k):
                for b in combinations(range(5), k):
                    first, second = (
                        by_hand([scores[side, pair, i] for i in some], [trust[side, pair, i] for i in some], kept)
                        for side, some in enumerate((a, b))
                    )
                    won.append(float(first > second) + 0.5 * float(first == second))
            assert found[pair] == pytest.approx(np.mean(won), abs=1e-12)


def test_random_subsets_agree_with_all_of_them() -> None:
    rng = np.random.default_rng(2)
    scores = rng.integers(0, 3, (2, 80, 10)).astype(float)
    every, some = preferred(*scores, 4, subsets=210), preferred(*scores, 4, subsets=60, seed=3)
    assert 0 < np.abs(every - some).max() < 0.25 and abs((every - some).mean()) < 0.015
    np.testing.assert_array_equal(some, preferred(*scores, 4, subsets=60, seed=3))


def test_a_filter_that_knows_gains_and_one_that_does_not_is_fewer_votes() -> None:
    rng = np.random.default_rng(4)
    right = rng.random((2, 400, 8)) < 0.6  # whether a judgement says what it should
    scores = np.where(right, np.array([1.0, 0.0])[:, None, None], np.array([0.0, 1.0])[:, None, None])
    plain = preferred(*scores, 4).mean()
    knows = preferred(*scores, 4, (right[0], right[1]), 2).mean()
    blind = preferred(*scores, 4, tuple(rng.random((2, 400, 8))), 2).mean()
    assert knows > plain + 0.1 and plain > blind > preferred(*scores, 1).mean()
    assert blind == pytest.approx(preferred(*scores, 2).mean(), abs=0.03)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="kept: is 2 beside trust"):
        voted([1.0], None, 2)
    with pytest.raises(ConfigError, match="kept: is 0"):
        voted([1.0], [1.0], 0)
    with pytest.raises(ConfigError, match="trust"):
        voted([1.0], [1.0, 2.0], 1)
    with pytest.raises(ConfigError, match="k: is 3 of 2"):
        preferred([[1.0, 0.0]], [[1.0, 0.0]], 3)
    with pytest.raises(ConfigError, match="worse"):
        preferred([[1.0]], [[1.0], [1.0]], 1)
