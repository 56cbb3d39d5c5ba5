"""Grids of samples against judgements, against loops; and no gain for a choice that luck made."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from models.errors import ConfigError
from search.metrics.splits import at_budget, best_elsewhere, judged_grid


def best_by_hand(correct: list[float], scores: list[float], k: int) -> float:
    """The mean over subsets of k of the share of right ones among those of the highest score."""
    found = []
    for some in combinations(range(len(correct)), k):
        top = max(scores[i] for i in some)
        found.append(np.mean([correct[i] for i in some if scores[i] == top]))
    return float(np.mean(found))


def test_sure_judgements_give_the_best_of_every_subset() -> None:
    rng = np.random.default_rng(0)
    correct, scores = rng.integers(0, 2, (3, 5)).astype(float), rng.integers(0, 3, (3, 5)).astype(float)
    pools = [np.repeat(row[:, None], 4, 1) for row in scores]  # every judgement of a sample says the same
    found = judged_grid(list(correct), pools, (1, 3), draws=2)
    for i, j, k in np.ndindex(3, 2, 5):
        assert found[i, j, k] == pytest.approx(best_by_hand(correct[i].tolist(), scores[i].tolist(), k + 1), abs=1e-12)


def test_noisy_judgements_give_the_average_over_all_draws_of_them() -> None:
    correct, pool = [1.0, 0.0], np.array([[2.0, 1.0], [2.0, 0.0]])
    exact = []
    for count in (1, 2):
        values = []
        for drawn in product((0, 1), repeat=2 * count):
            means = [float(pool[i, list(drawn[i * count : (i + 1) * count])].mean()) for i in (0, 1)]
            values.append(best_by_hand(correct, means, 2))
        exact.append(np.mean(values))
    many = 150
    found = judged_grid([correct] * many, [pool] * many, (1, 2), draws=4)[:, :, 1]
    assert np.abs(found.mean(0) - exact).max() < 4 * 0.5 / (4 * many) ** 0.5
    assert exact[0] == 0.625 and exact[1] > exact[0]


def test_a_budget_buys_between_whole_numbers_what_lies_between() -> None:
    values = np.arange(24, dtype=float).reshape(2, 3, 4)
    found = at_budget(values, [3.0, 6.0, 20.0], 9.0)
    np.testing.assert_allclose(found[:, 0], values[:, 0, 2])
    np.testing.assert_allclose(found[:, 1], (values[:, 1, 0] + values[:, 1, 1]) / 2)
    assert np.isnan(found[:, 2]).all() and np.isnan(at_budget(values, [2.0, 3.0, 9.0], 9.0)[:, 0]).all()
    np.testing.assert_allclose(at_budget(values, [3.0] * 3, 12.0), values[:, :, 3])


def test_what_is_best_differs_or_does_not_and_luck_gains_nothing() -> None:
    small = np.tile([0.5, 0.4, np.nan], (6, 1))
    large = np.tile([0.5, 0.6, 0.8], (6, 1))
    gains, chosen = best_elsewhere(small, large)
    np.testing.assert_allclose(gains, np.tile([0.1, 0.3], (6, 1)))  # at small, the nearest to the third is the second
    assert chosen == [(0, 2), (0, 2)]
    same, _ = best_elsewhere(large, large)
    assert not same.any()
    rng = np.random.default_rng(1)
    lucky = [best_elsewhere(*rng.random((2, 20, 4)))[0].mean() for _ in range(200)]
    assert abs(np.mean(lucky)) < 4 * np.std(lucky) / 200**0.5


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="judgements: are of 1 problems"):
        judged_grid([[1.0], [0.0]], [[[1.0]]], (1,))
    with pytest.raises(ConfigError, match="counts"):
        judged_grid([[1.0]], [[[1.0]]], (0,))
    with pytest.raises(ConfigError, match="judgements: are"):
        judged_grid([[1.0, 0.0]], [[[1.0]]], (1,))
