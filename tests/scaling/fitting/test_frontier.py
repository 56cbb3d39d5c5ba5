"""IsoFLOP frontiers: how budgets are read, how they are weighted, and what may be planned with them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from models.errors import ConfigError
from scaling.fitting.frontier import between_budgets, budget_groups
from scaling.laws import isoflop_minima, plan


def parabolas(budgets, minima, noise=(), sizes: int = 7, seed: int = 0) -> pd.DataFrame:
    """Runs of isoFLOP budgets whose losses are parabolas in ln N around the minima, with relative noise per budget."""
    rng, rows = np.random.default_rng(seed), []
    for index, (flops, best) in enumerate(zip(budgets, minima, strict=True)):
        for x in np.linspace(-1.2, 1.2, sizes):
            params = best * np.exp(x)
            scatter = noise[index] * rng.standard_normal() if len(noise) else 0.0
            rows.append((params, flops / (6 * params), flops, 3.0 - 0.1 * index + 0.05 * x * x + scatter))
    return pd.DataFrame(rows, columns=["params", "tokens", "flops", "loss"])


def test_two_budgets_without_noise_do_not_decide_the_exponent():
    """N* = C^.5 with a scatter of 0.3 between budgets; two budgets are met exactly by a parabola."""
    budgets = np.array([1e18, 1e19, 1e20, 1e21])
    minima = np.sqrt(budgets) / 50 * np.exp([0.0, 0.3, -0.3, 0.0])
    frontier = isoflop_minima(parabolas(budgets, minima, noise=(0.003, 0.0, 0.0, 0.003)), bootstrap=400)
    low, high = frontier.interval(0.95).a
    assert low < 0.5 < high and high - low > 0.2
    # 1 / sd^2 alone would draw a line through the two exact budgets, with an exponent of 0.24
    assert abs(frontier.params.a - 0.5) < 0.1 and frontier.between > 0.1


def test_the_variance_between_budgets_is_the_one_that_explains_the_scatter():
    rng = np.random.default_rng(0)
    log_c, own = np.linspace(40, 50, 200), np.full(200, 0.05)
    minima = 0.5 * log_c + 0.2 * rng.standard_normal(200) + own * rng.standard_normal(200)
    assert between_budgets(log_c, minima, own) == pytest.approx(0.2, rel=0.15)
    assert between_budgets(log_c, 0.5 * log_c + 0.01 * rng.standard_normal(200), own) == 0.0
    assert between_budgets(log_c[:2], minima[:2], own[:2]) == 0.0


def test_intervals_of_exponents_hold_the_truth_as_often_as_they_say():
    held = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        budgets = np.geomspace(1e18, 1e21, 5)
        minima = np.sqrt(budgets) / 50 * np.exp(0.15 * rng.standard_normal(5))
        frontier = isoflop_minima(parabolas(budgets, minima, noise=(0.002,) * 5, seed=seed), bootstrap=300)
        low, high = frontier.interval(0.9).a
        held.append(low <= 0.5 <= high)
    assert np.mean(held) >= 0.8


def test_llama_3_sizes_are_the_published_ones(published):
    runs = published("llama3_isoflop.csv")
    runs["params"] = runs["flops"] / 6 / runs["tokens"]
    frontier = isoflop_minima(runs)
    assert frontier.params.a == pytest.approx(0.4632, abs=0.01) and frontier.params.b == pytest.approx(0.5368, abs=0.01)
    assert frontier.optimum(3.8e25)[1] == pytest.approx(16.1e12, rel=0.1)
    low, high = frontier.interval(0.9).a
    assert low < 0.4632 < high


def test_budgets_derived_from_sizes_and_tokens_do_not_merge(published):
    """6 N D spreads over 0.93 to 1.35 times the budget, and no gap is wider than those inside."""
    runs = published("marin_dclm.csv")
    bare = runs.drop(columns="budget")
    frontier = isoflop_minima(bare, bootstrap=50)
    assert len(frontier.table) == 7 and list(frontier.table["sizes"]) == [5, 10, 15, 10, 15, 15, 15]
    params, tokens = bare["params"].to_numpy(float), bare["tokens"].to_numpy(float)
    codes = budget_groups(6 * params * tokens, params, tokens)
    assert runs.groupby(codes)["budget"].nunique().tolist() == [1] * 7
    assert "flops within a factor 1.44 were read as one budget; name a column with budget=" in frontier.summary()
    named = isoflop_minima(runs, bootstrap=50)
    assert len(named.table) == 7 and named.table["flops"].is_monotonic_increasing
    assert "read as one" not in named.summary()


def test_runs_of_several_budgets_are_no_budget_and_a_column_that_names_them_is_found():
    rng, budgets = np.random.default_rng(1), 1e18 * 1.3 ** np.arange(8)
    runs = parabolas(budgets, np.sqrt(budgets) / 50).assign(group=np.repeat(np.arange(8), 7))
    runs["tokens"] *= rng.uniform(0.8, 1.25, len(runs))
    bare = runs.drop(columns=["flops", "group"])
    with pytest.raises(ConfigError, match=r"flops differ by a factor .*, which is no one budget.*budget="):
        isoflop_minima(bare, bootstrap=20)
    for name in ("isoflop", "Flop_Budget"):
        found = isoflop_minima(bare.assign(**{name: runs["group"]}), bootstrap=20)
        assert len(found.table) == 8 and f"budgets are those of the column '{name}'" in found.summary()
    wide = parabolas([1e18, 4e18, 1.6e19], [1e8, 2e8, 4e8])
    gaps = isoflop_minima(wide.assign(budget=[None] * 3 + [1.0] * 18), bootstrap=20)
    assert "budget names no budget for 3 of 21 rows" in gaps.summary()
    two = isoflop_minima(wide.head(14), bootstrap=20).summary()
    assert "no interval: 2 budgets have a minimum, at least 3 are needed" in two


def test_a_size_trained_twice_for_the_same_budget_stays_in_it():
    runs = parabolas([1e18, 1.3e18], [1e7, 1.1e7])
    again = pd.concat([runs, runs.assign(tokens=runs["tokens"] * 1.02, flops=runs["flops"] * 1.02)])
    codes = budget_groups(*(again[name].to_numpy(float) for name in ("flops", "params", "tokens")))
    assert len(np.unique(codes)) == 2 and np.bincount(codes).tolist() == [14, 14]


def test_a_frontier_can_be_planned_with():
    budgets = np.geomspace(1e18, 1e21, 4)
    frontier = isoflop_minima(parabolas(budgets, np.sqrt(budgets) / 50), bootstrap=60)
    best = plan(frontier, 1e22)
    assert best.params == pytest.approx(np.sqrt(1e22) / 50, rel=1e-6)
    assert best.params * best.tokens * 6 == pytest.approx(1e22)
    assert best.intervals.params.low <= best.params <= best.intervals.params.high and best.reach == pytest.approx(10)
    assert "loss" not in best.summary() and "extrapolated" in best.summary()
    for ask in (lambda: plan(frontier, 1e22, level=0.5), lambda: frontier.interval(level=0.5)):
        with pytest.raises(ConfigError, match="did you mean 'interval'"):
            ask()
    with pytest.raises(ConfigError, match="interval: 95 is not a probability"):
        frontier.interval(95)
    for wrong in ({"loss": 2.0}, {"flops": 1e20, "inference_tokens": 1e9}, {}):
        with pytest.raises(ConfigError, match="an isoFLOP frontier knows sizes for a budget and no loss"):
            plan(frontier, **wrong)
