"""Per-query targets: what is asked for is kept, attempts are those that it takes, and hard queries get theirs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ConfigError
from search.posttrain.rejection import equal_attempts, hard_targets, kept_to, to_targets, uniform_targets


class Coins:
    """Queries that are right with given chances, and a record of what was asked."""

    def __init__(self, rates: np.ndarray, seed: int = 0) -> None:
        self.rates, self.rng = rates, np.random.default_rng(seed)
        self.asked: list[tuple[int, bool]] = []

    def __call__(self, queries: np.ndarray) -> np.ndarray:
        right = self.rng.random(len(queries)) < self.rates[queries]
        self.asked += list(zip(queries.tolist(), right.tolist(), strict=True))
        return right


def test_attempts_stop_at_the_target_or_at_the_most_as_a_loop_over_them_says() -> None:
    coins, targets = Coins(np.array([0.0, 0.3, 0.9, 1.0, 0.5])), np.array([2, 3, 4, 2, 0])
    found = to_targets(coins, targets, most=12)
    for query in range(5):
        answers = [right for asked, right in coins.asked if asked == query]
        assert found.attempts[query] == len(answers) and found.right[query] == sum(answers)
        reached = found.right[query] == targets[query]
        assert reached or len(answers) == 12
        assert not reached or not answers or answers[-1]  # nothing is drawn beyond the target
    assert found.right[0] == 0 and found.attempts.tolist()[3:] == [2, 0]


def test_attempts_to_targets_are_those_of_the_negative_binomial() -> None:
    rates = np.repeat([0.2, 0.5, 0.8], 2000)
    found = to_targets(Coins(rates), np.full(6000, 3), most=10**4)
    for rate in (0.2, 0.5, 0.8):
        attempts, error = found.attempts[rates == rate], np.sqrt(3 * (1 - rate)) / rate / np.sqrt(2000)
        assert abs(attempts.mean() - 3 / rate) < 4 * error


@settings(max_examples=60)
@given(rates=st.lists(st.floats(0, 1), min_size=1, max_size=30), more=st.integers(0, 200))
def test_targets_add_up_and_fall_with_the_rate(rates: list[float], more: int) -> None:
    total = len(rates) + more
    hard, uniform = hard_targets(np.array(rates), total), uniform_targets(len(rates), total)
    assert hard.sum() == uniform.sum() == total and hard.min() >= 1 and np.ptp(uniform) <= 1
    order = np.argsort(rates, kind="stable")
    assert (np.diff(hard[order]) <= 1).all()  # a remainder at most goes the other way
    weight = 1 - np.array(rates) if min(rates) < 1 else np.ones(len(rates))
    assert np.abs(hard - 1 - weight / weight.sum() * more).max() <= 1 + 1e-9


def test_the_hard_ones_have_the_shares_that_were_computed_for_beta_rates() -> None:
    """Rates of Beta(0.7, 0.7): queries right less than 3 times in 10 are 0.083, 0.339 and 0.594 of the three sets."""
    rng = np.random.default_rng(0)
    rates = np.clip(rng.beta(0.7, 0.7, 20_000), 1e-3, 1)
    hard, total = rates < 0.3, 10 * 20_000
    vanilla = equal_attempts(Coins(rates), len(rates), total, most=40)
    shares = [vanilla.right[hard].sum() / vanilla.right.sum()]
    targets = uniform_targets(len(rates), total), hard_targets(rates, total)
    shares += [one[hard].sum() / total for one in targets]
    assert shares[0] == pytest.approx(0.083, abs=0.01) and shares[1] == pytest.approx(hard.mean())
    assert shares[1] == pytest.approx(0.339, abs=0.02) and shares[2] == pytest.approx(0.594, abs=0.05)
    assert vanilla.attempts.max() == pytest.approx(20, abs=1)  # a mean rate of a half


def test_a_smaller_set_is_a_uniform_choice_and_what_is_not_there_is_refused() -> None:
    right = np.array([5, 0, 3])
    kept = np.array([kept_to(np.random.default_rng(i), right, 4) for i in range(400)])
    assert (kept <= right).all() and (kept.sum(1) == 4).all() and abs(kept[:, 0].mean() - 2.5) < 0.15
    with pytest.raises(ConfigError, match="total: is 9, of 8 answers"):
        kept_to(np.random.default_rng(0), right, 9)
    with pytest.raises(ConfigError, match="total: is 1: give at least one for each of 2"):
        hard_targets(np.array([0.5, 0.5]), 1)
    with pytest.raises(ConfigError, match="rates: are no shares"):
        hard_targets(np.array([0.5, 1.5]), 9)
