"""Imperfect verifiers: closed forms against simulation and against each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.laws import fit
from scaling.laws.imperfect_verifier import (
    RESAMPLING,
    VERIFIED_ACCURACY,
    accepted_right,
    expected_reward,
    gaussian_best_of_n,
    optimal_attempts,
    verified_ceiling,
    verifier_rates,
)

RATE = st.floats(0.02, 0.98)


def simulate(p, c, s, attempts, n=200_000, seed=0):
    """Share of n problems whose accepted answer is right, and whose accepted answer is wrong."""
    rng = np.random.default_rng(seed)
    right = rng.random((n, attempts)) < p
    accepted = rng.random((n, attempts)) < np.where(right, c, 1 - s)
    first = np.argmax(accepted, axis=1)
    answered = accepted.any(axis=1)
    correct = right[np.arange(n), first]
    return np.mean(answered & correct), np.mean(answered & ~correct)


@pytest.mark.parametrize(("p", "c", "s", "k"), [(0.2, 0.9, 0.8, 1), (0.2, 0.9, 0.8, 6), (0.6, 0.5, 0.95, 3)])
def test_resampling_until_accepted_matches_simulation(p, c, s, k):
    right, wrong = simulate(p, c, s, k)
    assert accepted_right(c, s, p, k) == pytest.approx(right, abs=4e-3)
    assert expected_reward(p, c, s, k, penalty=2.0)[0] == pytest.approx(right - 2 * wrong, abs=8e-3)


@settings(max_examples=50, deadline=None)
@given(RATE, RATE, RATE)
def test_unlimited_attempts_reach_the_posterior_and_no_more(p, c, s):
    ceiling = verified_ceiling(p, c, s)
    assert ceiling == pytest.approx(VERIFIED_ACCURACY(dict(f=(1 - s) / c), pass_rate=p), rel=1e-9)
    assert accepted_right(c, s, p, 1e7) == pytest.approx(ceiling, rel=1e-9)
    assert np.all(np.diff(accepted_right(c, s, p, np.arange(1, 50))) >= 0)


def test_a_mixture_of_tasks_has_the_ceiling_of_its_parts_not_of_its_mean():
    rates = np.array([0.02, 0.9])
    parts = [verified_ceiling(p, 0.9, 0.9) for p in rates]
    assert verified_ceiling(rates, 0.9, 0.9) == pytest.approx(np.mean(parts))
    assert verified_ceiling(rates, 0.9, 0.9, weights=[3, 1]) == pytest.approx(np.average(parts, weights=[3, 1]))
    assert verified_ceiling([0.0, 0.5], 1.0, 1.0) == pytest.approx(0.5)


def test_costly_false_positives_make_the_best_number_of_attempts_finite():
    rates = np.random.default_rng(1).beta(0.4, 1.0, 300)
    best = [optimal_attempts(rates, 0.95, 0.7, penalty, most=500) for penalty in (0.0, 0.5, 1.0, 50.0)]
    assert best[0] > best[1] > best[2] > best[3] == 0
    reward = expected_reward(rates, 0.95, 0.7, np.arange(1, 400), 1.0)
    assert best[2] == int(np.argmax(reward)) + 1
    assert optimal_attempts([0.2], 0.9, 1.0, penalty=100.0) > 50


def test_completeness_and_soundness_are_recovered_from_accuracies():
    rng = np.random.default_rng(2)
    p, k = rng.uniform(0.05, 0.7, 50), rng.choice([1, 2, 4, 16], 50)
    trials = 2000
    hits = rng.binomial(trials, accepted_right(0.85, 0.9, p, k))
    fitted = fit(
        RESAMPLING,
        dict(pass_rate=p, samples=k, accuracy=hits / trials, n=np.full(50, trials)),
        objective="binomial",
        trials="n",
    )
    assert [fitted.params.c, fitted.params.s] == pytest.approx([0.85, 0.9], abs=0.01)


def test_verifier_rates_from_verdicts():
    right = np.repeat([True, False], [100, 400])
    accepted = np.concatenate([np.arange(100) < 80, np.arange(400) < 20])
    rates = verifier_rates(right, accepted)
    assert (rates.completeness, rates.soundness) == (0.8, 0.95)
    assert rates.completeness_interval.low < 0.8 < rates.completeness_interval.high < 0.88
    with pytest.raises(ValueError, match="all 3 answers are right"):
        verifier_rates([1, 1, 1], [1, 0, 1])


def test_best_of_n_with_a_gaussian_verifier_matches_simulation():
    rng = np.random.default_rng(3)
    right = rng.random((100_000, 8)) < 0.3
    best = np.argmax(rng.standard_normal(right.shape) + 1.5 * right, axis=1)
    assert gaussian_best_of_n(0.3, 1.5, 8) == pytest.approx(right[np.arange(len(right)), best].mean(), abs=5e-3)
    assert gaussian_best_of_n(0.3, -2.0, [1, 2])[0] == pytest.approx(0.3, abs=1e-12)
