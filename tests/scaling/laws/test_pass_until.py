"""Count likelihoods of success rates: the binomial family against brute force, and laws of single instances."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.optimize import minimize

from scaling.fitting.grouped import GroupedFit, fit_groups
from scaling.laws import fit
from scaling.laws.pass_until import PASS_UNTIL, fit_instances, unbiased_rate
from scaling.laws.saturation import SATURATION

SIZES = np.geomspace(3e7, 2e9, 8)


def truth(params, N0=4e8, alpha=0.6):
    return np.exp(-((params / N0) ** -alpha))


def simplex(cost, starts):
    options = dict(xatol=1e-10, fatol=1e-11, maxiter=5000)
    return min((minimize(cost, s, method="Nelder-Mead", options=options) for s in starts), key=lambda r: r.fun).x


@pytest.mark.parametrize("seed", range(3))
def test_binomial_fit_is_the_maximum_likelihood(seed):
    rng = np.random.default_rng(seed)
    trials = rng.integers(200, 4000, len(SIZES))
    passes = rng.binomial(trials, truth(SIZES))
    fitted = fit(PASS_UNTIL, dict(params=SIZES, pass_rate=passes / trials, trials=trials), trials="trials")
    log_scale, alpha = simplex(
        lambda z: -np.sum(stats.binom.logpmf(passes, trials, truth(SIZES, np.exp(z[0]), z[1]))), [[20, 0.5], [18, 1.0]]
    )
    assert np.log(fitted.params.N0) == pytest.approx(log_scale, rel=1e-6)
    assert fitted.params.alpha == pytest.approx(alpha, rel=1e-5)


def test_beta_binomial_fit_is_the_maximum_likelihood_at_its_concentration():
    rng = np.random.default_rng(5)
    trials = np.full(24, 400)
    samples = np.repeat(2.0 ** np.arange(8), 3)
    mean = SATURATION(dict(Fmax=0.8, p=0.1), samples=samples)
    hits = rng.binomial(trials, rng.beta(30 * mean, 30 * (1 - mean)))
    fitted = fit(
        SATURATION,
        dict(samples=samples, accuracy=hits / trials, trials=trials),
        trials="trials",
        objective="beta_binomial",
    )

    def cost(z):
        f = z[0] * (1 - (1 - z[1]) ** samples)
        if not (0 < z[0] <= 1 and 0 < z[1] < 1):
            return np.inf
        return -np.sum(stats.betabinom.logpmf(hits, trials, f * np.exp(z[2]), (1 - f) * np.exp(z[2])))

    height, rate, log_size = simplex(cost, [[0.7, 0.2, 3.0], [0.8, 0.1, 4.0]])
    assert [fitted.params.Fmax, fitted.params.p] == pytest.approx([height, rate], rel=1e-4)
    assert np.log(fitted.objective.scale) == pytest.approx(log_size, abs=2e-3)


def test_sampling_until_r_passes_has_the_same_optimum_as_a_fixed_number_of_samples():
    rng = np.random.default_rng(2)
    r = 5
    samples = rng.negative_binomial(r, truth(SIZES)) + r
    fitted = fit(PASS_UNTIL, dict(params=SIZES, pass_rate=r / samples, m=samples), trials="m")
    log_scale, alpha = simplex(
        lambda z: -np.sum(stats.nbinom.logpmf(samples - r, r, truth(SIZES, np.exp(z[0]), z[1]))), [[20, 0.5], [18, 1.0]]
    )
    assert np.log(fitted.params.N0) == pytest.approx(log_scale, rel=1e-6)
    assert fitted.params.alpha == pytest.approx(alpha, rel=1e-5)


def test_the_interval_of_a_rate_is_that_of_its_trials_and_of_the_law():
    """Inside the fitted sizes the law is known to a hundredth, so binomial scatter decides; far out nothing is sure."""
    inside = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        passes = rng.binomial(1000, truth(SIZES))
        fitted = fit(PASS_UNTIL, dict(params=SIZES, pass_rate=passes / 1000, trials=1000), trials="trials")
        new = np.geomspace(5e7, 1.5e9, 12)
        band = fitted.predict(params=new)
        share = rng.binomial(1000, truth(new)) / 1000
        inside += list((band.low <= share) & (share <= band.high))
        alone = 2 * 1.645 * np.sqrt(truth(new) * (1 - truth(new)) / 1000)
        assert np.all(band.high - band.low < 3 * alone + 0.005)
        far = fitted.predict(params=1e11)
        assert 0.9 < far.low < far.mean < far.high <= 1
    assert np.mean(inside) >= 0.85


def test_a_perfect_fit_of_counts_has_a_finite_gradient_and_agreeing_starts():
    trials = np.full(len(SIZES), 10_000)
    rate = np.round(truth(SIZES) * 10_000) / 10_000
    certificate = fit(PASS_UNTIL, dict(params=SIZES, pass_rate=rate, trials=trials), trials="trials").certificate
    assert np.isfinite(certificate.gradient_norm) and certificate.agreed > 0.2
    one = fit(SATURATION, dict(samples=[1, 2, 4, 8], accuracy=[0.5] * 4, trials=[10**6] * 4), trials="trials")
    assert np.isfinite(one.certificate.gradient_norm)


def test_models_that_never_passed_still_inform_the_fit():
    trials = np.full(len(SIZES), 1000)
    passes = np.random.default_rng(3).binomial(trials, truth(SIZES, N0=8e9))
    assert (passes == 0).sum() >= 2
    fitted = fit(PASS_UNTIL, dict(params=SIZES, pass_rate=passes / trials, trials=trials), trials="trials")
    assert np.log(fitted.params.N0) == pytest.approx(np.log(8e9), abs=1.0)


def test_unbiased_rate_has_the_true_mean():
    rng = np.random.default_rng(4)
    m = rng.negative_binomial(3, 0.2, 200_000) + 3
    assert unbiased_rate(3, m).mean() == pytest.approx(0.2, abs=5e-4)
    assert (3 / m).mean() > 0.24
    assert np.isnan(unbiased_rate(1, 7))


def instances(seed=0):
    rng, rows = np.random.default_rng(seed), []
    for problem in range(6):
        N0, alpha = np.exp(rng.uniform(np.log(1e8), np.log(3e9))), rng.uniform(0.4, 1.2)
        for params in SIZES:
            trials = 2000
            rows.append(
                dict(
                    problem=f"p{problem}",
                    params=params,
                    samples=trials,
                    N0=N0,
                    alpha=alpha,
                    pass_rate=rng.binomial(trials, truth(params, N0, alpha)) / trials,
                )
            )
    return pd.DataFrame(rows)


def test_instances_predict_the_test_better_than_one_law_for_their_mean():
    runs = instances()
    one = runs.groupby("problem").first()
    expected = truth(2e10, one["N0"], one["alpha"]).mean()
    by_instance = fit_instances(runs).predict(params=2e10).mean
    mean = runs.groupby("params", as_index=False)[["pass_rate", "samples"]].mean()
    together = fit(PASS_UNTIL, mean, trials="samples").predict(params=2e10, calibrated=False).mean
    assert abs(by_instance - expected) < 0.02
    assert abs(by_instance - expected) < abs(together - expected)


def test_group_weights_and_dropped_groups():
    runs = instances()
    fitted = fit_groups(
        PASS_UNTIL,
        runs,
        group="problem",
        trials="samples",
        weights={f"p{k}": 1 + k for k in range(6)},
        keep=lambda f: "too hard" if f.params.N0 > 1.5e9 else "",
    )
    assert set(fitted.fits) | set(fitted.dropped) == {f"p{k}" for k in range(6)}
    assert fitted.dropped and "too hard" in fitted.summary()
    share = np.array([fitted.weights[name] for name in fitted.fits])
    values = np.array([f.law(f.params, params=1e9) for f in fitted.fits.values()])
    assert fitted.predict(params=1e9).mean == pytest.approx(np.average(values, weights=share), rel=1e-12)
    assert fitted.covered == pytest.approx(share.sum() / 21)
    again = GroupedFit.from_json(fitted.to_json())
    assert again.predict(params=1e10) == fitted.predict(params=1e10) and again.dropped == fitted.dropped
    with pytest.raises(ValueError, match="is not a saved grouped fit"):
        GroupedFit.from_json(fitted.fits["p0"].to_json() if "p0" in fitted.fits else "{}")
    with pytest.raises(ValueError, match="none of 6 groups"):
        fit_groups(PASS_UNTIL, runs, group="problem", trials="samples", keep=lambda f: "no")
    with pytest.raises(ValueError, match="no weight for group"):
        fit_groups(PASS_UNTIL, runs, group="problem", trials="samples", weights={"p0": 1.0})
