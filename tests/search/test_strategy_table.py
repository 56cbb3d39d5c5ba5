"""Strategies are compared at equal FLOPs, and no outcome decides which size a budget buys."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from models.errors import ConfigError
from search.findings import find, from_json
from search.strategies.catalogue import STRATEGIES, strategy_by_name
from search.strategy_table import budgets_from, strategy_rows, strategy_table

PRICE, SAMPLES, PROBLEMS = 100.0, 32, 60


@pytest.fixture(scope="module")
def samples() -> pd.DataFrame:
    """Two policies on one task: right answers have code 1, and scores that know a little."""
    rng = np.random.default_rng(0)
    rows = []
    for policy, params, shift in (("a", 1000, 0.0), ("b", 4000, 1.0)):
        for problem in range(PROBLEMS):
            rate = 1 / (1 + np.exp(-(rng.normal() - 1 + shift)))
            for sample in range(SAMPLES):
                right = float(rng.random() < rate)
                rows.append(dict(
                    policy=policy, params=params, task="t", problem=problem, sample=sample, correct=right,
                    score=float(np.clip(0.4 * right + 0.6 * rng.random(), 0, 1)), answer="yes" if right else "no",
                    generated_tokens=10, flops=PRICE * (1 + 3 * (policy == "b")),
                ))  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def searches() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = []
    for policy, params in (("a", 1000), ("b", 4000)):
        for strategy, size, price, rate in (
            ("beam", "beam:samples=4", 5 * PRICE, 0.5), ("beam", "beam:samples=16", 25 * PRICE, 0.4),
            ("astar", "astar:branch=2", 9 * PRICE, 0.6),
        ):  # fmt: skip
            for problem in range(PROBLEMS):
                rows.append(dict(
                    policy=policy, params=params, task="t", problem=problem, strategy=strategy, size=size,
                    correct=float(rng.random() < rate), flops=price,
                ))  # fmt: skip
    return pd.DataFrame(rows)


def test_budgets_start_at_the_cheapest_sample(samples: pd.DataFrame) -> None:
    assert budgets_from(samples, 3, 4.0) == pytest.approx([PRICE, 4 * PRICE, 16 * PRICE], rel=1e-3)


def test_a_budget_buys_as_many_samples_as_it_pays_for(samples: pd.DataFrame, searches: pd.DataFrame) -> None:
    rows = strategy_rows(samples, searches, [PRICE, 4 * PRICE, 16 * PRICE, 64 * PRICE])
    table = strategy_table(rows).set_index(["policy", "strategy", "budget"])
    assert (table["flops"] <= table.index.get_level_values("budget")).all()
    assert table.loc[("a", "best_of_n", 16 * PRICE), "size"] == "16 samples"
    assert table.loc[("b", "best_of_n", 16 * PRICE), "size"] == "4 samples"
    drawn = table.loc[("a", "best_of_n", 64 * PRICE)]  # 32
    assert drawn["size"] == "32 samples" and drawn["flops"] == pytest.approx(32 * PRICE)
    assert ("b", "best_of_n", PRICE) not in table.index
    one = samples[samples["policy"] == "a"]["correct"].mean()
    for strategy in ("best_of_n", "majority", "weighted_vote", "coverage"):
        assert table.loc[("a", strategy, PRICE), "accuracy"] == pytest.approx(one)


def test_the_largest_size_that_the_budget_pays_for_is_taken_even_if_it_is_worse(
    samples: pd.DataFrame, searches: pd.DataFrame
) -> None:
    rows = strategy_rows(samples, searches, [PRICE, 4 * PRICE, 16 * PRICE, 64 * PRICE])
    beam = rows[(rows["policy"] == "a") & (rows["strategy"] == "beam")]
    assert set(beam["budget"]) == {16 * PRICE, 64 * PRICE}
    assert set(beam[beam["budget"] == 16 * PRICE]["size"]) == {"beam:samples=4"}
    assert set(beam[beam["budget"] == 64 * PRICE]["size"]) == {"beam:samples=16"}


def test_every_finding_gives_its_numbers_whether_or_not_it_holds(
    samples: pd.DataFrame, searches: pd.DataFrame
) -> None:
    _, _, findings = find(samples, searches, budgets=4)
    assert len(findings.found) == 7
    for direction in findings.found:
        assert len(direction.seen) > 0, direction.title
        low, high = direction.finding.interval
        assert np.isnan(direction.holds) or 0 <= low <= direction.holds <= high <= 1
    text = findings.markdown()
    assert "| A* |" in text and "figures/strategies-1.png" in text and "coverage |" in text
    assert len(text.splitlines()) < 100  # a page that a reader finishes
    again = from_json(findings.to_json(), findings.table)
    assert again.markdown() == text and again.summary() == findings.summary()


def test_names_of_strategies_are_checked() -> None:
    assert strategy_by_name("beam:samples=8,width=2").width == 8
    assert strategy_by_name("greedy").width == 1
    for text, message in (
        ("baem:samples=8", "did you mean 'beam'"),
        ("beam:sample=8", "did you mean 'samples'"),
        ("beam", "needs samples"),
        ("beam:samples", "has no value"),
        ("beam:samples=many", "does not take"),
    ):
        with pytest.raises(ConfigError, match=message):
            strategy_by_name(text)
    assert len(STRATEGIES) >= 12
