"""Coverage laws: likelihoods against brute force, exact identities, and extrapolation in the number of samples."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from scipy.integrate import quad
from scipy.optimize import minimize

from scaling.laws import fit
from scaling.laws.coverage import (
    COVERAGE_BETA,
    COVERAGE_POWER,
    BetaBinomial,
    expected_coverage,
    fit_beta_binomial,
    pass_at_k,
    power_law_ols,
)


def counts(alpha, beta, samples, problems, seed):
    rates = np.random.default_rng(seed).beta(alpha, beta, problems)
    return rates, np.random.default_rng(seed + 1).binomial(samples, rates)


def brute_force(samples, correct):
    """The maximum of the beta-binomial likelihood by simplex search from several points."""

    def cost(z):
        return -np.sum(stats.betabinom.logpmf(correct, samples, *np.exp(z)))

    options = dict(xatol=1e-9, fatol=1e-11, maxiter=4000)
    found = [minimize(cost, start, method="Nelder-Mead", options=options) for start in ([0, 0], [-2, 1], [1, 3])]
    return np.exp(min(found, key=lambda r: r.fun).x)


@pytest.mark.parametrize(
    ("alpha", "beta", "samples", "problems", "seed"),
    [(0.3, 2.0, 100, 150, 3), (2.0, 5.0, 40, 80, 4), (0.1, 20.0, 200, 200, 5), (0.6, 0.4, 8, 60, 6)],
)
def test_beta_binomial_finds_the_maximum_likelihood(alpha, beta, samples, problems, seed):
    _, correct = counts(alpha, beta, samples, problems, seed)
    fitted = fit_beta_binomial(samples, correct)
    best = brute_force(samples, correct)
    assert [fitted.alpha, fitted.beta] == pytest.approx(best, rel=1e-5)
    assert fitted.gradient < 1e-8  # digamma differences round at 1e-16 x beta
    whole = np.sum(stats.betabinom.logpmf(correct, samples, fitted.alpha, fitted.beta))
    assert fitted.log_likelihood + np.sum(np.log(special.binom(samples, correct))) == pytest.approx(whole, rel=1e-10)


def test_unequal_numbers_of_samples_are_weighted_by_their_likelihood():
    rng = np.random.default_rng(8)
    samples = rng.integers(2, 200, 120)
    correct = rng.binomial(samples, rng.beta(0.5, 3.0, 120))
    fitted = fit_beta_binomial(samples, correct)
    assert [fitted.alpha, fitted.beta] == pytest.approx(brute_force(samples, correct), rel=1e-5)


def test_stopping_at_the_first_success_does_not_bias_the_fit():
    rng = np.random.default_rng(9)
    rates = rng.beta(0.8, 3.0, 3000)
    first = rng.geometric(rates)
    samples = np.minimum(first, 200)
    fitted = fit_beta_binomial(samples, (first <= 200).astype(int))
    assert fitted.alpha / (fitted.alpha + fitted.beta) == pytest.approx(0.8 / 3.8, rel=0.05)
    # the naive mean of c / n is biased upwards on the same counts
    assert np.mean((first <= 200) / samples) > 1.15 * 0.8 / 3.8


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_coverage_extrapolates_a_hundredfold_in_samples(seed):
    rates, correct = counts(0.3, 2.0, 100, 400, 20 + 2 * seed)
    fitted = fit_beta_binomial(100, correct, bootstrap=200)
    for k in (1_000, 10_000):
        truth = np.mean(1 - (1 - rates) ** k)
        low, high = fitted.interval(k, 0.98)
        assert fitted.coverage(k) == pytest.approx(truth, abs=0.04)
        assert low < truth < high
        # the law that has no tail of hard problems is the one to beat
        per_problem = np.mean(1 - (1 - correct / 100) ** k)
        assert abs(fitted.coverage(k) - truth) < abs(per_problem - truth)


def test_tail_exponent_of_missed_problems_is_alpha():
    k = np.array([1e6, 1e7])
    missed = 1 - expected_coverage(0.4, 3.0, k)
    assert np.log(missed[0] / missed[1]) / np.log(10) == pytest.approx(0.4, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.2, 5), st.floats(0.2, 20), st.integers(1, 300))
def test_expected_coverage_is_the_integral_over_rates(alpha, beta, k):
    missed, _ = quad(lambda u: (1 - stats.beta.ppf(u, alpha, beta)) ** k, 0, 1, limit=400)
    assert expected_coverage(alpha, beta, k) == pytest.approx(1 - missed, abs=1e-6)


@pytest.mark.parametrize(
    ("correct", "samples", "says"),
    [
        (np.zeros(20), 10, "missed by every sample"),
        (np.full(20, 10), 10, "solved by every sample"),
        ([0, 10] * 10, 10, "always or never"),
        ([29, 30, 31, 30, 29, 31], 100, "no spread"),
        ([0, 1, 1, 0, 1], 1, "at least two"),
    ],
)
def test_counts_that_determine_no_density_are_flagged(correct, samples, says):
    fitted = fit_beta_binomial(samples, correct, bootstrap=50)
    assert says in fitted.problem and says in fitted.summary()
    assert np.isnan(fitted.interval(100).low)


def test_impossible_counts_name_the_problem():
    with pytest.raises(ValueError, match="problem 1: 11 right of 10"):
        fit_beta_binomial(10, [3, 11])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_with_a_success(case):
    n, c, k = case
    subsets = list(combinations([1] * c + [0] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(np.mean([any(s) for s in subsets]), abs=1e-12)


def test_power_law_of_a_power_law_is_exact_in_both_estimators():
    k = np.unique(np.geomspace(1, 500, 12).round())
    coverage = COVERAGE_POWER(dict(a=-1.7, b=-0.35), samples=k)
    for found in (power_law_ols(k, coverage), fit(COVERAGE_POWER, dict(samples=k, coverage=coverage)).params):
        assert [found.a, found.b] == pytest.approx([-1.7, -0.35], rel=1e-8)
    with pytest.raises(ValueError, match="row 0: coverage is 1"):
        power_law_ols([1, 2], [1.0, 0.5])


def test_beta_law_and_likelihood_agree_on_many_problems():
    samples, k = 400, np.unique(np.geomspace(1, 200, 14).round())
    _, correct = counts(0.5, 4.0, samples, 5000, 40)
    coverage = pass_at_k(samples, correct[:, None], k).mean(0)
    curve = fit(COVERAGE_BETA, dict(samples=k, coverage=coverage)).params
    density = fit_beta_binomial(samples, correct)
    assert [curve.alpha, curve.beta] == pytest.approx([density.alpha, density.beta], rel=0.05)


def test_a_density_comes_back_from_its_file_to_the_last_digit(tmp_path):
    _, correct = counts(0.3, 2.0, 100, 60, 3)
    for bootstrap in (0, 30):
        fitted = fit_beta_binomial(100, correct, bootstrap=bootstrap)
        fitted.to_json(tmp_path / "density.json")
        again = BetaBinomial.from_json(tmp_path / "density.json")
        assert again.alpha == fitted.alpha and np.array_equal(again.draws, fitted.draws)
        assert repr(again.interval(1000)) == repr(fitted.interval(1000)) and again.summary() == fitted.summary()
    with pytest.raises(ValueError, match="is not a saved beta-binomial"):
        BetaBinomial.from_json("{}")
