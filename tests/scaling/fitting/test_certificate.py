"""Degenerate tables are flagged, never printed as answers."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from scaling.laws import CHINCHILLA, Law, UnitWarning, fit


def test_a_sound_table_raises_no_flag(synthetic):
    certificate = fit(CHINCHILLA, synthetic()).certificate
    assert certificate.ok, certificate.warnings


def test_an_irreducible_loss_at_zero_is_a_bound(synthetic):
    fitted = fit(CHINCHILLA, synthetic(E=0.0), bootstrap=50)
    if fitted.params.E < 1e-6:
        assert "E" in fitted.certificate.active_bounds
    exact = fit(CHINCHILLA, synthetic(E=0.0, noise=0.0), bootstrap=50)
    assert exact.certificate.active_bounds == ("E",)
    assert np.isnan(exact.interval(0.9)["E"].low)
    assert "on its bound" in exact.summary()


def test_an_exponent_beyond_its_range_is_a_bound(synthetic):
    fitted = fit(CHINCHILLA, synthetic(alpha=2.5, A=4e19))
    assert "alpha" in fitted.certificate.active_bounds
    intervals = fitted.interval(0.9)
    assert np.isnan(intervals["alpha"].low) and np.isnan(intervals["a"].low)  # a = beta / (alpha + beta)
    assert "a          " in fitted.summary() and "(from a parameter on its bound)" in fitted.summary()


def test_a_term_that_the_rows_do_not_show_is_not_identified(synthetic):
    certificate = fit(CHINCHILLA, synthetic(A=1e-9)).certificate
    assert {"A", "alpha"} <= {*certificate.not_identified, *certificate.active_bounds}
    assert not certificate.ok


def test_one_size_only_cannot_tell_the_size_term(synthetic, truth):
    runs = synthetic().assign(params=1e9)
    noise = np.exp(0.003 * np.random.default_rng(1).standard_normal(len(runs)))
    runs["loss"] = CHINCHILLA(truth, params=runs["params"], tokens=runs["tokens"]) * noise
    fitted = fit(CHINCHILLA, runs, bootstrap=30)
    assert {"A", "alpha"} <= set(fitted.certificate.not_identified)
    assert "params does not vary" in fitted.certificate.warnings
    assert np.isnan(fitted.interval(0.9)["alpha"].low)


def test_sizes_tied_to_tokens_cannot_separate_the_terms(synthetic, truth):
    runs = synthetic()
    runs["params"] = runs["tokens"] / 20
    noise = np.exp(0.003 * np.random.default_rng(1).standard_normal(len(runs)))
    runs["loss"] = CHINCHILLA(truth, params=runs["params"], tokens=runs["tokens"]) * noise
    certificate = fit(CHINCHILLA, runs).certificate
    assert certificate.not_identified or certificate.active_bounds
    assert not certificate.ok


def test_too_few_points_give_no_interval(synthetic):
    fitted = fit(CHINCHILLA, synthetic(6), bootstrap=30)
    assert "6 distinct points for 5 parameters" in fitted.certificate.no_interval
    assert all(np.isnan(interval.low) for interval in fitted.interval(0.95).values())
    assert np.isnan(fitted.predict(params=1e10, tokens=1e11).low)
    with pytest.raises(ValueError, match="4 rows for 5 parameters"):
        fit(CHINCHILLA, synthetic(4))


def test_repeated_rows_are_counted_and_do_not_narrow_the_interval(synthetic):
    runs = synthetic(40)
    once = fit(CHINCHILLA, runs, bootstrap=200).interval(0.9)["a"]
    fitted = fit(CHINCHILLA, pd.concat([runs] * 4), bootstrap=200)
    assert fitted.certificate.duplicates == 120
    thrice = fitted.interval(0.9)["a"]
    assert thrice.high - thrice.low > 0.8 * (once.high - once.low)
    few = fit(CHINCHILLA, pd.concat([synthetic(7)] * 10))
    assert few.certificate.no_interval


def test_one_outlier_is_named_and_hardly_moves_the_fit(synthetic):
    runs = synthetic()
    clean = fit(CHINCHILLA, runs, bootstrap=100)
    runs.loc[7, "loss"] *= 10
    fitted = fit(CHINCHILLA, runs, bootstrap=100)
    assert fitted.certificate.outliers == ("row 7",)
    low, high = clean.interval(0.999)["alpha"]
    assert low < fitted.params.alpha < high


def test_a_column_of_words_is_told_so(synthetic):
    runs = synthetic()
    runs["tokens"] = [f"{value / 1e9:.1f}B" for value in runs["tokens"]]
    with pytest.raises(ValueError, match=r"^row 0: tokens is .*B \(60 such rows\): give a positive number$"):
        fit(CHINCHILLA, runs)


@pytest.mark.parametrize(
    ("column", "value"),
    [("loss", np.nan), ("loss", -1.0), ("loss", 0.0), ("tokens", np.inf), ("params", 0.0), ("params", "many")],
)
def test_a_bad_value_is_refused_by_row(synthetic, column, value):
    runs = synthetic().astype({column: object})
    runs.loc[7, column] = value
    with pytest.raises(ValueError, match=f"^row 7: {column} is .*: drop the row or give a positive number$"):
        fit(CHINCHILLA, runs)


def test_tokens_in_billions_are_noticed(synthetic):
    runs = synthetic()
    runs["tokens"] /= 1e9
    with pytest.warns(UnitWarning, match="tokens.*billions"):
        fit(CHINCHILLA, runs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(CHINCHILLA, synthetic())


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


@pytest.mark.parametrize(("x_unit", "y_unit"), [(1.0, 1.0), (1e9, 1.0), (1e-12, 1e6), (1e15, 1e15), (1.0, 1e-9)])
def test_the_units_of_a_column_do_not_decide_what_is_identified(x_unit, y_unit):
    x = np.linspace(1, 5, 20)
    y = 1 + 0.4 * x + 0.02 * np.random.default_rng(0).standard_normal(20)
    certificate = fit(LINE, {"x": x * x_unit, "y": y * y_unit}).certificate
    assert certificate.ok, certificate.warnings
    stuck = fit(LINE, {"x": np.full(20, 3.0) * x_unit, "y": y * y_unit}).certificate
    assert stuck.not_identified


def test_constant_losses_are_not_an_answer(synthetic):
    flat = fit(CHINCHILLA, synthetic().assign(loss=2.5))
    assert flat.certificate.no_interval and not flat.certificate.ok
    assert "no interval" in flat.summary()  # beta / (alpha + beta) of two zeros is no error
