"""Measures over models against closed forms and planted truths."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import spearmanr

from models.errors import ConfigError
from scaling.evaluate.measures.breakthrough import CAP, breakthroughness, linearity
from scaling.evaluate.measures.correlation import (
    cluster_interval,
    item_correlations,
    pearson,
    shuffled_agreement,
    spearman,
    trajectory_agreement,
)
from scaling.evaluate.measures.inverse import slopes
from scaling.evaluate.measures.item_response import fit_items, logit_linear, reevaluated, spread_models
from scaling.evaluate.measures.leakage import Overlap, recall_and_precision
from scaling.evaluate.measures.signal import monotonicity, ranking_consistency, signal_to_noise
from scaling.evaluate.measures.specialisation import generalisation_gap, specialisation_index, transfer


@pytest.mark.parametrize("n", [3, 7])
def test_a_line_is_linear_and_a_step_a_breakthrough(n: int) -> None:
    line, step = np.arange(n + 1) / n, np.array([0.0] * n + [1.0])
    assert breakthroughness(line) == pytest.approx(n) and linearity(line) == pytest.approx(1)
    assert breakthroughness(step) == CAP and linearity(step) == pytest.approx(n**-0.5)
    assert breakthroughness(line[::-1]) == pytest.approx(-n) and linearity(step[::-1]) == pytest.approx(-(n**-0.5))
    assert breakthroughness(np.ones(n)) == linearity(np.ones(n)) == 0


def test_the_tenth_power_of_a_smooth_curve_is_a_breakthrough() -> None:
    """Ten steps that all have to be right, over eight sizes."""
    curve = expit(np.linspace(-3, 3, 8))
    assert breakthroughness(curve) < 9 and breakthroughness(curve**10) == pytest.approx(94.1, abs=0.05)
    assert linearity(curve) > 0.9 and linearity(curve**10) == pytest.approx(0.607, abs=5e-4)


def test_signal_is_told_from_noise() -> None:
    assert monotonicity([1, 2, 4, 8], [10, 20, 30, 40]) == pytest.approx(1)
    assert monotonicity([1, 1, 1], [1, 2, 3]) == 0
    rng = np.random.default_rng(0)
    base = rng.random(500)
    together = np.stack([base, base + 0.1, base + 0.2 + 0.01 * rng.random(500)])
    apart = np.stack([base, base, rng.permutation(base + 0.2)])
    assert signal_to_noise(together) > 20 * signal_to_noise(apart) > 0
    assert signal_to_noise(np.stack([base, base])) == 0
    assert ranking_consistency([[1, 2, 3], [2, 3, 4], [4, 3, 2]]) == pytest.approx(0)


def answers(ability: np.ndarray, difficulty: np.ndarray, slope: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (rng.random((len(ability), len(difficulty))) < expit(slope * (ability[:, None] - difficulty))).astype(float)


def test_abilities_and_difficulties_come_back_from_answers() -> None:
    rng = np.random.default_rng(0)
    ability, difficulty = rng.normal(size=40), rng.normal(size=150)
    slope = np.exp(0.3 * rng.normal(size=150))
    fit = fit_items(answers(ability, difficulty, slope, rng))
    assert pearson(fit.ability, ability) > 0.97 and pearson(fit.difficulty, difficulty) > 0.9
    known = fit_items(answers(ability, difficulty, slope, rng), ability)
    assert np.abs(known.difficulty - difficulty).mean() < 0.5 and (known.ability == ability).all()


def test_a_harder_version_is_estimated_from_a_few_models_that_ran() -> None:
    """A prior of mean 0 on the difficulties would be more than 5 points off; a free mean is not."""
    rng = np.random.default_rng(1)
    ability = rng.normal(size=24)
    slope = np.exp(0.3 * rng.normal(size=(2, 800)))
    old = answers(ability, rng.normal(size=800), slope[0], rng)
    new = answers(ability, 1 + rng.normal(size=800), slope[1], rng)
    ran = spread_models(old.mean(1), 5)
    shown = np.full_like(new, np.nan)
    shown[ran] = new[ran]
    rest = np.setdiff1d(np.arange(24), ran)
    for estimate in (reevaluated(old, shown), logit_linear(old, shown)):
        assert np.abs(estimate - new.mean(1))[rest].mean() < 0.035
        assert estimate[ran] == pytest.approx(new[ran].mean(1))
    with pytest.raises(ConfigError, match="1 of 24 models were run"):
        reevaluated(old, np.where(np.arange(24)[:, None] == 3, new, np.nan))


def test_the_checker_finds_what_was_planted_by_kind_of_edit() -> None:
    rng = np.random.default_rng(2)

    def items(count: int) -> list[list[str]]:
        return [[f"w{i}" for i in rng.integers(5000, size=40)] for _ in range(count)]

    test, corpus = items(200), items(300)
    planted = np.arange(200) < 100
    for rate, least in ((0.0, 1.0), (0.02, 0.98), (0.1, 0.6)):
        edited = [[w if rng.random() >= rate else "changed" for w in item] for item in test[:100]]
        overlap = Overlap.of(" ".join(document) for document in corpus + edited)
        recall, precision = recall_and_precision(overlap.flagged([" ".join(item) for item in test]), planted)
        assert recall >= least and precision == 1
    short = Overlap.of(["2+3=5", "a b c"])
    assert short.share("A, B; c!") == 1 and short.share("a b") == 0
    letters = Overlap.of(["abcdefgh"], n=4, characters=True)
    assert letters.share("bcdef") == 1 and letters.share("bcdeX") == 0.5 and not letters.flagged(["XXXXX"])[0]


def test_correlations_are_those_of_scipy_and_a_constant_says_nothing() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.random(30), rng.integers(4, size=30)
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert pearson(x, np.ones(30)) == 0
    stages = rng.random((2, 30, 5))
    stages[1, :, 0] = 1.0
    expected = [[0 if s == 1 and i == 0 else spearmanr(stages[s, :, i], x).statistic for i in range(5)] for s in (0, 1)]
    assert item_correlations(stages, x) == pytest.approx(np.array(expected))


def test_mass_that_moves_between_wrong_choices_lowers_the_correlation_along_the_chain() -> None:
    """The planted truth: the right choice's mass rises with compute for every item; that of a wrong one wanders."""
    rng = np.random.default_rng(4)
    compute = np.arange(12.0)
    right = 0.02 * np.exp(0.25 * compute)[:, None] * np.exp(0.1 * rng.random((12, 200)))
    wrong = np.exp(rng.normal(np.log(0.15), 0.8, (12, 200)))
    choices = right / (right + wrong)
    stages = np.stack([np.log(right), choices, -2 * (1 - choices) ** 2, choices > 0.5])
    found = item_correlations(stages, compute).mean(1)
    assert found[0] > 0.95 and found[0] > found[1] >= found[2] - 1e-9 > found[3] + 0.05


def test_intervals_over_runs_are_wider_than_over_their_checkpoints() -> None:
    rng = np.random.default_rng(5)
    runs = np.repeat(np.arange(6), 8)
    values = rng.normal(size=6)[runs] + 0.01 * rng.normal(size=48)
    low, high = cluster_interval(runs, lambda rows: float(values[rows].mean()))
    naive = cluster_interval(np.arange(48), lambda rows: float(values[rows].mean()))
    assert high - low > 2 * (naive[1] - naive[0])
    with pytest.raises(ConfigError, match="two or more independent runs"):
        cluster_interval(np.zeros(4), lambda rows: 0.0)


def test_curves_that_merely_rise_agree_no_more_than_shuffled_ones() -> None:
    rng = np.random.default_rng(6)
    steps = rng.random((8, 5))
    small = np.cumsum(steps, 1)
    large = np.cumsum(steps + 0.1 * rng.random((8, 5)), 1)
    other = np.cumsum(rng.random((8, 5)), 1)
    null = shuffled_agreement(small, large, 200)
    assert trajectory_agreement(small, large) > np.quantile(null, 0.99)
    assert trajectory_agreement(small, other) < np.quantile(shuffled_agreement(small, other, 200), 0.99)


@pytest.mark.parametrize(
    ("curve", "trend"),
    [
        ([0.2, 0.4, 0.6, 0.8, 0.9], "standard"),
        ([0.9, 0.7, 0.5, 0.4, 0.2], "inverse"),
        ([0.8, 0.5, 0.2, 0.5, 0.8], "U-shaped"),
        ([0.2, 0.5, 0.8, 0.5, 0.2], "inverted U"),
        ([0.5, 0.5, 0.5, 0.5, 0.5], "none"),
    ],
)
def test_the_trend_is_what_the_intervals_of_the_slopes_say(curve: list[float], trend: str) -> None:
    rng = np.random.default_rng(7)
    values = (rng.random((5, 400)) < np.asarray(curve)[:, None]).astype(float)
    assert slopes(values, [1e3, 1e4, 1e5, 1e6, 1e7]).trend == trend


def test_the_slope_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(8)
    values, sizes = rng.random((6, 50)), np.array([1e3, 1e3, 1e4, 1e4, 1e5, 1e6])
    found = slopes(values, sizes, bootstrap=200)
    assert found.whole[0] == pytest.approx(np.polyfit(np.log10(sizes), values.mean(1), 1)[0])
    assert found.whole[1] < found.whole[0] < found.whole[2]


def test_a_specialist_is_described_by_what_its_target_gained_and_the_rest_lost() -> None:
    """Losses in nats of a general model of three domains, and of one specialised to each."""
    before = np.array([2.0, 1.0, 1.5])
    after = np.array([[1.0, 1.5, 2.5], [2.0, 0.5, 1.5], [3.0, 2.0, 1.5]])
    gained = transfer(before, after)
    np.testing.assert_array_equal(gained, [[1, -0.5, -1], [0, 0.5, 0], [-1, -1, 0]])
    assert specialisation_index(1.0, 0.75) == pytest.approx(4 / 7)  # the first: 1 nat for 3/4 of the others
    assert specialisation_index(0.5, 0.0) == 1  # the second lost nothing
    assert specialisation_index(0.0, 1.0) == specialisation_index(-2.0, 1.0) == specialisation_index(0, 0) == 0
    assert specialisation_index(0.5, -0.3) == 1  # what the rest gained is no reason to be called more special
    gaps = [generalisation_gap(row, i) for i, row in enumerate(after)]
    assert gaps == pytest.approx(np.exp([2.0 - 1.0, 1.75 - 0.5, 2.5 - 1.5]))
    assert generalisation_gap([0.7] * 4, 2) == pytest.approx(1)


def test_a_specialist_needs_domains_to_compare_and_finite_losses() -> None:
    for refused in (
        lambda: generalisation_gap([1.0], 0),
        lambda: generalisation_gap([1.0, np.nan], 0),
        lambda: generalisation_gap([1.0, 2.0], 2),
        lambda: transfer([1.0, 2.0], [[1.0, 2.0, 3.0]]),
        lambda: specialisation_index(np.inf, 0.0),
    ):
        with pytest.raises(ConfigError):
            refused()
