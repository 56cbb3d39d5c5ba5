"""Profiles against the exact answer of a linear law, against the bootstrap, and where a parameter has no end."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scaling.fitting.covariance import sandwich
from scaling.fitting.profile import profile
from scaling.laws import CHINCHILLA, Law, fit

LINE = Law(
    name="line",
    formula="y = a + b x",
    inputs=("x",),
    output="y",
    predict=lambda p, x: p.a + p.b * x.x,
    linear=("a", "b"),
    bounds=dict(a=(None, None), b=(None, None)),
    space="raw",
    objective="gaussian",
)


@pytest.fixture
def line():
    rng = np.random.default_rng(0)
    x = np.linspace(0, 5, 30)
    return fit(LINE, pd.DataFrame({"x": x, "y": 1 + 0.4 * x + 0.2 * rng.standard_normal(30)}))


@pytest.mark.parametrize("name", ["a", "b"])
def test_the_profile_of_a_line_is_its_t_interval(line, name):
    """With the sandwich variance (White 1980, for the degrees of freedom) computed here by hand."""
    x, y = line.table.inputs["x"], line.table.measured
    design = np.stack([np.ones(30), x], 1)
    inverse = np.linalg.inv(design.T @ design)
    coefficients = inverse @ design.T @ y
    residual = y - design @ coefficients
    variance = inverse @ (design.T * residual**2) @ design @ inverse * 30 / 28
    k = ["a", "b"].index(name)
    half = stats.t.ppf(0.975, 28) * np.sqrt(variance[k, k])
    curve = profile(line, name)
    assert [curve.low, curve.high] == pytest.approx([coefficients[k] - half, coefficients[k] + half], rel=1e-3)
    assert curve.deviance.min() == 0 and np.all(np.diff(curve.values) > 0)


def test_profile_and_covariance_are_about_as_wide_as_the_bootstrap(chinchilla_runs):
    """One mean Huber curvature would make them half as wide: rows far from the optimum scatter more."""
    fitted = fit(CHINCHILLA, chinchilla_runs, bootstrap=600)
    for name in ("alpha", "beta", "E"):
        boot = np.subtract(*fitted.interval(0.9)[name])
        for method in ("normal", "profile"):
            assert np.subtract(*fitted.interval(0.9, method)[name]) == pytest.approx(boot, rel=0.3), (name, method)


def test_profiles_hold_the_truth(synthetic, truth):
    held = []
    for seed in range(8):
        intervals = fit(CHINCHILLA, synthetic(60, 0.003, seed)).interval(0.9, "profile")
        held += [intervals[name].low <= value <= intervals[name].high for name, value in truth.items()]
    assert np.mean(held) >= 0.8


def test_a_parameter_that_reaches_its_bound_ends_there(synthetic):
    curve = profile(fit(CHINCHILLA, synthetic(40, 0.02, E=0.05)), "E")
    assert curve.low == 0.0 and curve.high > 0.05


def covariance(fitted) -> float:
    """Variance of the fourth coordinate."""
    return float(sandwich(fitted.estimator, fitted.z, fitted.table.clusters)[1][3, 3])


def test_rows_of_one_run_widen_the_covariance(synthetic):
    runs = synthetic(40, 0.003)
    noise = np.repeat(np.random.default_rng(1).standard_normal(40), 5)
    many = runs.loc[runs.index.repeat(5)].reset_index(drop=True)
    many["loss"] *= np.exp(0.003 * noise + 1e-5 * np.random.default_rng(2).standard_normal(200))
    many["run"] = np.repeat(np.arange(40), 5)
    alone, together = (fit(CHINCHILLA, many, objective="gaussian", **k) for k in ({}, {"cluster": "run"}))
    assert covariance(together) > 3 * covariance(alone)


def test_an_unknown_or_fixed_parameter_is_refused(synthetic):
    fitted = fit(CHINCHILLA, synthetic(40), fixed={"E": 1.8})
    with pytest.raises(ValueError, match="did you mean|use 'alpha'"):
        profile(fitted, "alfa")
    with pytest.raises(ValueError, match="is fixed"):
        profile(fitted, "E")
