"""Predictions of a study are made once, before the measurement, and their intervals hold as often as they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from models.errors import ConfigError
from search import foretold
from search.foretold import Foretold, judge, of_budgets, of_samples, of_sizes, register, registered, said_of


def population(problems: int, samples: int, alpha: float, beta: float, apart: float, seed: int) -> pd.DataFrame:
    """Samples of problems with rates of a Beta density, whose scores tell right from wrong by `apart` widths."""
    rng = np.random.default_rng(seed)
    rate, wrong = rng.beta(alpha, beta, problems), rng.dirichlet(np.full(6, 0.7), problems)
    right = rng.random((problems, samples)) < rate[:, None]
    other = 1 + np.array([rng.choice(6, samples, p=p) for p in wrong])
    score = expit(apart * right + rng.normal(0, 0.7, (problems, 1)) + rng.normal(0, 1, right.shape))
    problem, sample = np.indices(right.shape)
    return pd.DataFrame(dict(
        policy="p", params=1, task="t", level=np.nan, problem=problem.ravel(), sample=sample.ravel(),
        correct=right.ravel().astype(float), score=score.ravel(), answer=np.where(right, 0, other).ravel().astype(str),
    ))  # fmt: skip


def test_nine_in_ten_intervals_hold_over_populations_of_every_kind() -> None:
    """Densities from hard to easy, scores from useless to good: 48 predictions of 8 times the samples."""
    densities = [(0.3, 1.5), (0.1, 3), (1, 1), (2, 0.5), (0.05, 2), (5, 5)]
    found = []
    for seed, (alpha, beta) in enumerate(densities * 2):
        drawn = population(50, 32, alpha, beta, (0.3, 1, 2, 4)[seed % 4], seed)
        found.append(judge(of_samples(drawn[drawn["sample"] < 4], 32), drawn, drawn.head(0)))
    judged = pd.concat(found)
    assert set(judged["what"]) == {"coverage", "best_of_n", "majority", "weighted_vote"} and len(judged) == 48
    assert 0.8 <= judged["inside"].mean() <= 0.97  # 48 of 90 % ones: 0.8 to 0.97 is its central 93 %
    assert (judged["high"] - judged["low"]).mean() < 0.25  # and are no shrug
    said = said_of(judged)
    assert said.startswith("48 predictions, made before: ") and "coverage" in said


def test_the_best_score_is_a_right_ones_as_often_as_in_simulation() -> None:
    rng = np.random.default_rng(0)
    for right, apart in ((1, 0.0), (3, 1.5), (7, -1.0), (0, 2.0), (8, 2.0)):
        scores = rng.normal(size=(40_000, 8))
        scores[:, :right] += apart
        measured = (scores.argmax(1) < right).mean()
        assert foretold._best_right(8, np.array([apart]))[0, right] == pytest.approx(measured, abs=0.01)


def test_sizes_on_a_line_of_log_odds_are_foretold_on_it() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for params in (1000, 4000, 16_000, 64_000):
        for level, offset in ((1.0, 2.0), (2.0, 0.0)):
            rate = expit(offset + 0.5 * np.log(params / 16_000))
            right = rng.random((200, 20)) < rate
            problem, sample = np.indices(right.shape)
            rows.append(pd.DataFrame(dict(
                policy=str(params), params=params, task="t", level=level, problem=(problem + 1000 * level).ravel(),
                sample=sample.ravel(), correct=right.ravel().astype(float),
            )))  # fmt: skip
    samples = pd.concat(rows)
    (one,) = of_sizes(samples[samples["params"] < 64_000], "64000", 64_000)
    exact = np.mean([expit(offset + 0.5 * np.log(4)) for offset in (2.0, 0.0)])
    assert one.low < exact < one.high and abs(logit(one.predicted) - logit(exact)) < 0.15
    assert of_sizes(samples[samples["params"] < 16_000], "16000", 16_000) == []  # two sizes have no scatter


def test_a_searchs_largest_size_lies_between_no_gain_and_the_last_one_again() -> None:
    def cell(size: str, accuracy: float) -> pd.DataFrame:
        right = (np.arange(400) < 400 * accuracy).astype(float)
        return pd.DataFrame(dict(policy="p", params=1, task="t", size=size, problem=np.arange(400), correct=right))

    sizes = ("beam:samples=4", "beam:samples=16")
    searched = pd.concat([cell(sizes[0], 0.4), cell(sizes[1], 0.5)])
    (one,) = of_budgets(searched, "beam:samples=64", sizes)
    assert (one.what, one.at) == ("beam", "beam:samples=64")
    assert 0.45 < one.low < 0.5 < one.predicted < 0.6 < one.high < 0.65
    assert of_budgets(searched, "beam:samples=16", sizes[:1]) == []
    later = pd.concat([searched, cell("beam:samples=64", 0.9)])
    judged = judge([one], population(2, 4, 1, 1, 1, 0).assign(policy="q"), later)
    assert judged["measured"].item() == 0.9 and not judged["inside"].item()
    assert judged["score"].item() == pytest.approx(one.high - one.low + 20 * (0.9 - one.high))


def test_a_prediction_is_made_once_and_a_damaged_register_is_refused(tmp_path: Path) -> None:
    first = Foretold("p", 1, "t", "coverage", "64 samples", "8 samples", 0.5, 0.4, 0.6)
    file = tmp_path / f"cell{foretold.SUFFIX}"
    register(file, [])
    assert registered(file) == [] and not file.exists()
    register(file, [first])
    register(file, [Foretold("p", 1, "t", "coverage", "64 samples", "8 samples", 0.9, 0.8, 1.0)])
    assert registered(file) == [first]
    assert said_of(judge([first], pd.DataFrame(columns=["policy", "task"]), pd.DataFrame())).startswith("No prediction")
    file.write_text('[{"policy": "p"}]')
    with pytest.raises(ConfigError, match=r"foretold\.json: is damaged"):
        registered(file)
