"""Choosing a strategy per difficulty without looking at the answers, and the next sample's problem."""

from __future__ import annotations

import functools
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import betaln
from scipy.stats import beta as beta_distribution

from scaling.laws.coverage import expected_coverage
from search.allocation import (
    absolute_bins,
    allocate_sequentially,
    compute_optimal,
    difficulty,
    difficulty_bins,
    expected_gain,
    plan_samples,
)
from search.metrics import Samples, sample_efficiency


def test_bins_are_equal_in_size_and_the_hardest_comes_last() -> None:
    ease = pd.Series([0.1, 0.9, 0.5, 0.5, 0.0, 1.0, 0.3, 0.2, 0.8, 0.7], index=list("abcdefghij"))
    bins = difficulty_bins(ease)
    assert bins.value_counts().to_dict() == dict.fromkeys(range(1, 6), 2)
    assert bins["f"] == bins["b"] == 1 and bins["a"] == bins["e"] == 5
    assert ease.groupby(bins).mean().is_monotonic_decreasing
    with pytest.raises(ValueError, match="bins: is 11 for 10 problems"):
        difficulty_bins(ease, 11)


def test_absolute_bins_go_by_the_pass_rate_itself_so_that_all_problems_may_be_easy() -> None:
    ease = pd.Series([0.0, 0.09, 0.1, 0.49, 0.5, 1.0], index=list("abcdef"))
    assert absolute_bins(ease).to_dict() == dict(a=3, b=3, c=2, d=2, e=1, f=1)
    assert absolute_bins({"a": 0.9, "b": 0.7}).to_dict() == dict(a=1, b=1)
    assert absolute_bins(ease, [0.05, 0.3, 0.8]).to_dict() == dict(a=4, b=3, c=3, d=2, e=2, f=1)
    for edges in ((), (0.5, 0.1), (0.1, 0.1), (0.0, 0.5), (0.5, 1.1)):
        with pytest.raises(ValueError, match="edges: are"):
            absolute_bins(ease, edges)
    with pytest.raises(ValueError, match="ease: has a problem without a value"):
        absolute_bins({"a": float("nan")})


def test_difficulty_by_pass_rate_and_by_score() -> None:
    samples = Samples.of([[1, 1], [0, 0], [1, 0]], scores=[[0.2, 0.2], [0.9, 0.9], [0.5, 0.5]], problems="xyz")
    assert difficulty(samples, bins=3).to_dict() == dict(x=1, z=2, y=3)
    assert difficulty(samples, "score", bins=3).to_dict() == dict(y=1, z=2, x=3)


def results(problems: int = 400, seed: int = 0, edge: float = 0.35) -> tuple[pd.DataFrame, pd.Series]:
    """Deep search is better by `edge` on the easy half and worse by as much on the hard half; both grow with budget."""
    rng = np.random.default_rng(seed)
    bins = pd.Series(np.arange(problems) % 4 + 1, index=range(problems))
    sign = np.where(bins.to_numpy() <= 2, 1.0, -1.0)
    rows = []
    for budget, gain in ((4, 0.0), (16, 0.1), (64, 0.2), (256, 0.3)):
        base = 0.15 + gain
        rates = dict(best_of_n=np.full(problems, base), deep=base + edge * sign * (base > 0.2))
        for name, rate in rates.items():
            correct = rng.random(problems) < rate
            rows.append(pd.DataFrame(dict(problem=range(problems), strategy=name, budget=budget, correct=correct)))
    return pd.concat(rows, ignore_index=True), bins


def test_compute_optimal_chooses_per_difficulty_and_needs_less() -> None:
    table, bins = results()
    found = compute_optimal(table, bins)
    picks = found.chosen[found.chosen["budget"] >= 16].groupby("difficulty")["strategy"].unique()
    assert all(list(picks[label]) == ["deep"] for label in (1, 2))
    assert all(list(picks[label]) == ["best_of_n"] for label in (3, 4))
    top = found.table.iloc[-1]
    assert top["accuracy"] > top["best_single"] + 0.1 and top["low"] < top["accuracy"] < top["high"]
    assert top["best_of_n"] == pytest.approx(table.query("strategy == 'best_of_n' and budget == 256")["correct"].mean())
    both = pd.concat([table, found.rows])
    saved = sample_efficiency(both, "compute_optimal", "best_of_n", bootstrap=200)
    assert saved.ratio > 2 and saved.interval.low > 1
    assert "best_single" in found.summary() and "deep" in found.summary()
    assert found.by_bin.groupby("difficulty").size().eq(4).all()


def test_cross_validation_is_not_fooled_by_chance() -> None:
    """Of ten equal strategies the best in hindsight looks better than they are; the cross-validated choice does not."""
    rng = np.random.default_rng(0)
    gaps, hindsight = [], []
    for seed in range(8):
        table = pd.DataFrame(
            [
                dict(problem=p, strategy=f"s{s}", budget=1, correct=int(rng.random() < 0.5))
                for p in range(60)
                for s in range(10)
            ]
        )
        bins = pd.Series(np.arange(60) % 5, index=range(60))
        found = compute_optimal(table, bins, bootstrap=20, seed=seed)
        gaps.append(found.table["accuracy"].iloc[0] - 0.5)
        means = table.assign(bin=table["problem"] % 5).groupby(["bin", "strategy"])["correct"].mean()
        hindsight.append(means.groupby("bin").max().mean() - 0.5)
    assert abs(np.mean(gaps)) < 0.07 < 0.12 < np.mean(hindsight)  # 480 coin tosses: three standard errors of .023


def test_no_problem_is_judged_by_a_choice_it_took_part_in() -> None:
    """Changing one problem's outcomes changes what is chosen for the other fold only."""
    table, bins = results(problems=40)
    before = compute_optimal(table, bins, bootstrap=20).rows.set_index(["problem", "budget"])["correct"]
    flipped = table.assign(correct=np.where(table["problem"] == 7, ~table["correct"].astype(bool), table["correct"]))
    after = compute_optimal(flipped, bins, bootstrap=20).rows.set_index(["problem", "budget"])["correct"]
    same = before[7] == 1 - after[7].astype(float)
    assert same.all()  # the same strategy as before: its own outcomes do not choose it


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, b: (t, b.drop(3)), "bins: problem 3 has none"),
        (lambda t, b: (t, pd.Series(range(40), index=range(40))), "difficulty 0 has 1 problems for 2 folds"),
        (lambda t, b: (t[(t["problem"] != 3) | (t["budget"] == 9)], b), None),
    ],
)
def test_what_cannot_be_cross_validated_is_refused(change, words: str | None) -> None:
    table, bins = change(*results(problems=40))
    if words is None:
        assert len(compute_optimal(table, bins, bootstrap=20).rows) == 39 * 4
        return
    with pytest.raises(ValueError, match=words):
        compute_optimal(table, bins)


@given(st.floats(0.05, 8), st.floats(0.05, 8), st.integers(0, 50))
def test_the_expected_gain_is_what_one_more_sample_adds_to_coverage(alpha: float, beta: float, n: int) -> None:
    gain = expected_coverage(alpha, beta, n + 1) - expected_coverage(alpha, beta, n)
    assert expected_gain(alpha, beta, n) == pytest.approx(gain, rel=1e-6, abs=1e-12)
    density = beta_distribution(alpha, beta)
    if alpha > 0.5 and beta > 0.5:
        assert expected_gain(alpha, beta, n) == pytest.approx(
            quad(lambda p: p * (1 - p) ** n * density.pdf(p), 0, 1)[0], rel=1e-4
        )


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0.1, 4), st.floats(0.1, 4)), min_size=1, max_size=3), st.integers(0, 7))
def test_a_plan_is_the_best_of_all_splits(densities, total: int) -> None:
    alpha, beta = np.array(densities).T

    def worth(split) -> float:
        return float(expected_coverage(alpha, beta, np.array(split, float)).sum())

    splits = [split for split in product(range(total + 1), repeat=len(alpha)) if sum(split) == total]
    found = plan_samples(alpha, beta, total)
    assert found.sum() == total
    assert worth(found) == pytest.approx(max(map(worth, splits)), rel=1e-9)


def test_a_plan_keeps_to_the_largest_count_of_each_problem() -> None:
    assert list(plan_samples([5.0, 1.0], [1.0, 5.0], 10, most=[2, 3])) == [2, 3]
    with pytest.raises(ValueError, match="alpha, beta: are not all positive"):
        plan_samples([0.0], [1.0], 3)


def test_drawing_one_at_a_time_is_the_best_policy_there_is() -> None:
    """Dynamic programming over every policy of two problems and five samples against the rule, in expectation."""
    alpha, beta, total = (0.6, 1.3), (0.9, 2.2), 5

    @functools.cache
    def best(fails: tuple[int, int], open_: tuple[bool, bool], left: int) -> float:
        if not left or not any(open_):
            return 0.0
        values = []
        for i in (0, 1):
            if open_[i]:
                p = alpha[i] / (alpha[i] + beta[i] + fails[i])
                more = tuple(f + (j == i) for j, f in enumerate(fails))
                shut = tuple(o and j != i for j, o in enumerate(open_))
                values.append(p * (1 + best(fails, shut, left - 1)) + (1 - p) * best(more, open_, left - 1))
        return max(values)

    # every pair of outcome sequences with its probability under the densities, replayed by the rule
    expected = 0.0
    for first in product((0, 1), repeat=total):
        for second in product((0, 1), repeat=total):
            chance = 1.0
            for i, row in enumerate((first, second)):
                wins = sum(row)
                chance *= np.exp(betaln(alpha[i] + wins, beta[i] + total - wins) - betaln(alpha[i], beta[i]))
            expected += chance * allocate_sequentially([first, second], alpha, beta, total).solved.sum()
    assert expected == pytest.approx(best((0, 0), (True, True), total), rel=1e-9)


def test_equal_densities_go_round_and_informed_ones_solve_more() -> None:
    rng = np.random.default_rng(0)
    kind = rng.random(300) < 0.5
    rates = np.where(kind, rng.beta(4, 4, 300), rng.beta(0.3, 12, 300))
    correct = rng.random((300, 200)) < rates[:, None]
    plain = allocate_sequentially(correct, 0.5, 1.5, 900)
    unsolved = plain.counts[~plain.solved]
    assert unsolved.max() - unsolved.min() <= 1
    informed = allocate_sequentially(correct, np.where(kind, 4, 0.3), np.where(kind, 4, 12.0), 900)
    assert informed.solved.sum() > plain.solved.sum()
    assert len(informed.curve) == 901 and informed.curve[-1] == informed.solved.sum()
    batched = allocate_sequentially(correct, np.where(kind, 4, 0.3), np.where(kind, 4, 12.0), 900, batch=64)
    assert batched.counts.sum() == 900 and batched.solved.sum() > 0.95 * informed.solved.sum()


def test_recorded_samples_may_run_out() -> None:
    found = allocate_sequentially([[0, 0], [1, 0, 0]], 1.0, 1.0, 100)
    assert list(found.counts) == [2, 1] and list(found.solved) == [False, True] and found.exhausted == 1
    assert list(found.curve) == [0, 0, 1, 1]
