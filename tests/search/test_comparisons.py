"""Pairs of strategies on the same problems at equal FLOPs, against plain loops over what each problem gave."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from search.comparisons import ALL, compare, section

PROBLEMS, SAMPLES = 6, 4


def drawn(policy: str, params: int, seed: int) -> pd.DataFrame:
    """Four samples of six problems, each of 10 FLOPs; problems in no order."""
    rng = np.random.default_rng(seed)
    problem, sample = np.indices((PROBLEMS, SAMPLES)).reshape(2, -1)
    right = (rng.random(problem.size) < 0.4).astype(float)
    rows = pd.DataFrame(dict(
        policy=policy, params=params, task="t", problem=problem, sample=sample, correct=right,
        score=rng.random(right.size), answer=np.where(right > 0, "0", rng.integers(1, 3, right.size).astype(str)),
        flops=10.0,
    ))  # fmt: skip
    return rows.sample(frac=1, random_state=seed)


def found(policy: str, params: int, strategy: str, size: str, flops: float, seed: int) -> pd.DataFrame:
    correct = np.random.default_rng(seed).integers(0, 2, PROBLEMS).astype(float)
    rows = pd.DataFrame(dict(
        policy=policy, params=params, task="t", problem=np.arange(PROBLEMS), strategy=strategy, size=size,
        correct=correct, flops=flops,
    ))  # fmt: skip
    return rows.sample(frac=1, random_state=seed)


def best_of(samples: pd.DataFrame, k: int) -> np.ndarray:
    """The accuracy of the best-scored of k, the mean over all subsets."""
    means = []
    for _, rows in samples.groupby("problem"):
        pairs = list(zip(rows["score"], rows["correct"], strict=True))
        means.append(np.mean([max(some)[1] for some in itertools.combinations(pairs, k)]))
    return np.array(means)


def test_differences_are_those_of_the_same_problems_at_the_nearest_flops() -> None:
    samples = pd.concat([drawn("a", 10, 0), drawn("b", 20, 1)])
    beam = [found(p, n, "beam", f"beam:{i}", cost, 10 * n + i) for p, n in (("a", 10), ("b", 20))
            for i, cost in enumerate((12.0, 31.0, 900.0))]  # fmt: skip
    dvts = [found("a", 10, "dvts", f"dvts:{i}", cost, 50 + i) for i, cost in enumerate((11.0, 29.0))]
    searches = pd.concat([*beam, *dvts])
    pairs = (("beam", "best_of_n"), ("dvts", "beam"), ("mcts", "beam"))
    rows = compare(samples, searches, pairs)
    assert rows[["first", "second", "policy"]].to_numpy().tolist() == [
        ["beam", "best_of_n", "a"], ["beam", "best_of_n", "b"], ["beam", "best_of_n", ALL],
        ["dvts", "beam", "a"], ["dvts", "beam", ALL],
    ]  # fmt: skip
    assert rows["first_size"].tolist()[:2] == ["beam:1"] * 2  # 900 FLOPs are more than all samples cost
    assert rows["second_size"].tolist()[:2] == ["3 samples"] * 2
    gaps = []
    for place, policy in enumerate("ab"):
        mine = searches[(searches["policy"] == policy) & (searches["size"] == "beam:1")].sort_values("problem")
        gaps.append(mine["correct"].to_numpy() - best_of(samples[samples["policy"] == policy], 3))
        assert rows["difference"][place] == pytest.approx(gaps[-1].mean())
        assert rows["low"][place] <= rows["difference"][place] <= rows["high"][place]
    assert rows["difference"][2] == pytest.approx(np.mean(gaps)) and rows["problems"][2] == PROBLEMS
    assert (rows["first_size"][3], rows["second_size"][3]) == ("dvts:1", "beam:1")
    assert "| beam | best_of_n |" in section(rows) and "mcts" not in section(rows)


def test_an_interval_holds_for_nine_in_ten_draws_of_the_problems() -> None:
    """Of 100 studies whose two sides are equally often right; within four standard errors of .9."""
    inside = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        right = (rng.random((2, 60)) < 0.5).astype(float)
        sides = [
            pd.DataFrame(dict(policy="a", params=1, task="t", problem=np.arange(60), strategy=name, size=name,
                              correct=row, flops=5.0)) for name, row in zip(("beam", "dvts"), right, strict=True)
        ]  # fmt: skip
        one = sides[0].assign(sample=0, score=0.5, answer="0")
        row = compare(one, pd.concat(sides), (("dvts", "beam"),)).iloc[0]
        inside += row["low"] <= 0 <= row["high"]
    assert abs(inside / 100 - 0.9) < 4 * np.sqrt(0.09 / 100)


def test_sides_of_unequal_flops_are_not_compared() -> None:
    samples = drawn("a", 10, 0)
    searches = pd.concat([found("a", 10, "beam", "beam:0", 10.0, 1), found("a", 10, "dvts", "dvts:0", 16.0, 2)])
    assert not len(compare(samples, searches, (("dvts", "beam"),)))
    assert "no pair" in section(compare(samples, searches, (("dvts", "beam"),)))


def test_sides_that_are_right_on_the_same_problems_differ_by_nothing_whatever_the_order_of_rows() -> None:
    """The interval of a paired difference: without the pairing it would be as wide as that of a mean."""
    beam = found("a", 10, "beam", "beam:0", 10.0, 1)
    dvts = beam.assign(strategy="dvts", size="dvts:0").sample(frac=1, random_state=9)
    assert 0 < beam["correct"].mean() < 1 and not (beam["problem"].to_numpy() == dvts["problem"].to_numpy()).all()
    row = compare(drawn("a", 10, 0), pd.concat([beam, dvts]), (("dvts", "beam"),)).iloc[0]
    assert row["low"] == row["difference"] == row["high"] == 0
