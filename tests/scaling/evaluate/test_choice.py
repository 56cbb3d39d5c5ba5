"""Scores of choices: five normalisations that disagree, Brier score, log loss, calibration, intervals over items."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scaling.evaluate.calibration import excess_calibration_error, expected_calibration_error
from scaling.evaluate.choice import Likelihoods, brier, log_loss
from scaling.evaluate.summary import mean_interval, summary

# five choices of which each normalisation prefers another; the fourth has three bytes to a character
FIVE = Likelihoods(
    logp=np.array([-1.0, -4.0, -3.0, -4.4, -5.0]),
    unconditional=np.array([-0.5, -4.0, -3.0, -4.4, -15.0]),
    greedy=np.array([True, False, False, False, False]),
    right_tokens=np.array([1, 0, 0, 0, 0]),
    tokens=np.array([1, 8, 3, 4, 5]),
    chars=np.array([1, 3, 6, 8, 5]),
    bytes=np.array([1, 3, 6, 24, 5]),
)


def test_each_normalisation_picks_its_own_choice() -> None:
    assert FIVE.picks() == {"raw": 0, "token": 1, "char": 2, "byte": 3, "unconditional": 4}


def test_of_equal_choices_the_first_is_picked_and_the_tie_is_told() -> None:
    equal = Likelihoods(*(np.repeat(value[:1], 2) for value in vars(FIVE).values()))
    assert equal.picks()["raw"] == 0 and equal.tied("raw") and not FIVE.tied("raw")


def test_brier_and_log_loss_are_those_of_the_renormalised_choices() -> None:
    p = FIVE.probabilities()
    assert p == pytest.approx(np.exp(FIVE.logp) / np.exp(FIVE.logp).sum(), rel=1e-12)
    assert brier(p, (2,)) == pytest.approx(sum((p[k] - (k == 2)) ** 2 for k in range(5)), rel=1e-12)
    assert brier(np.array([0.0, 1.0]), (0,)) == 2 and brier(np.array([0.5, 0.5]), (0, 1)) == 0
    assert log_loss(p, (0, 1)) == pytest.approx(-np.log(p[0] + p[1]), rel=1e-12)


def test_the_calibration_error_of_a_perfect_model_is_that_of_its_number_of_items() -> None:
    rng = np.random.default_rng(0)
    measured = []
    for _ in range(200):
        p = rng.random(200)
        measured.append(expected_calibration_error(p, rng.random(200) < p))
    centres = (np.arange(15) + 0.5) / 15
    expected = np.sqrt(2 / np.pi * centres * (1 - centres) * 200 / 15).sum() / 200  # of normal sums of each bin
    assert np.mean(measured) == pytest.approx(expected, rel=0.03) and expected > 0.08  # not 0
    rng = np.random.default_rng(1)  # not the stream that the perfect model's outcomes are drawn from
    p = rng.random(1000)
    excess, share = excess_calibration_error(p, rng.random(1000) < p)
    assert abs(excess) < 0.02 and share > 0.01
    excess, share = excess_calibration_error(p, rng.random(1000) < p**3)
    assert excess > 0.15 and share == 0


def test_the_interval_over_items_is_that_of_the_mean() -> None:
    values = np.random.default_rng(1).random(400) < 0.3
    mean, low, high = mean_interval(values, level=0.9, bootstrap=4000)
    half = 1.645 * np.sqrt(mean * (1 - mean) / 400)
    assert mean == values.mean()
    assert (low, high) == (pytest.approx(mean - half, abs=0.004), pytest.approx(mean + half, abs=0.004))


@pytest.mark.parametrize("n", [1, 20])
def test_an_interval_over_items_that_are_all_right_has_a_width(n: int) -> None:
    """Wilson's ends for n of n: n / (n + z^2) and 1; a bootstrap has none."""
    mean, low, high = mean_interval(np.ones(n, bool), level=0.9)
    assert (mean, high) == (1, 1) and low == pytest.approx(n / (n + 1.6448536**2))
    rows = pd.DataFrame({"task": "a", "correct": [True] * n, "chance": 0.5, "brier": [0.0] * n})
    table = summary(rows, bootstrap=50).set_index("metric")
    assert table.loc["accuracy", "low"] == low and table.loc["accuracy_above_chance", "low"] == 2 * low - 1
    assert table.loc["chance", "low"] == 0.5 or np.isnan(table.loc["chance", "low"])
    assert np.isnan(table.loc["brier", "low"]) if n == 1 else table.loc["brier", "low"] == 0


def test_the_summary_has_a_line_per_suite_and_metric_and_corrects_for_chance() -> None:
    rows = pd.DataFrame({
        "task": ["a"] * 4 + ["b"] * 2, "correct": [True, True, True, False, True, True],
        "chance": [0.5] * 4 + [0.0] * 2, "brier": [0.1, 0.2, 0.3, 0.4, None, None],
    })  # fmt: skip
    table = summary(rows, bootstrap=50).set_index(["task", "metric"])
    assert table.loc[("a", "accuracy"), "value"] == 0.75 and table.loc[("a", "accuracy_above_chance"), "value"] == 0.5
    assert table.loc[("a", "brier"), "value"] == pytest.approx(0.25) and ("b", "brier") not in table.index
    assert table.loc[("b", "accuracy"), "items"] == 2
