"""The reference numbers of Chinchilla's approach 3 on its 240 runs, to the digits published with them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scaling.laws import CHINCHILLA, chinchilla_envelope, fit, isoflop_minima, plan
from scaling.laws.chinchilla import optimal_params

TRUTH = dict(A=406.4, B=410.7, E=1.69, alpha=0.34, beta=0.28)


def test_point_fit_reproduces_the_reference(chinchilla_runs):
    fitted = fit(CHINCHILLA, chinchilla_runs)
    assert fitted.certificate.objective <= 1.018274017801e-3 * (1 + 1e-9)
    assert pytest.approx(477.825868, abs=1e-4) == fitted.params.A
    assert pytest.approx(2143.41736, abs=1e-3) == fitted.params.B
    assert pytest.approx(1.817218099, abs=1e-8) == fitted.params.E
    assert fitted.params.alpha == pytest.approx(0.347310499, abs=1e-8)
    assert fitted.params.beta == pytest.approx(0.367172433, abs=1e-8)


def test_certificate_of_the_reference_fit_is_clean(chinchilla_runs):
    certificate = fit(CHINCHILLA, chinchilla_runs).certificate
    assert certificate.agreed > 0.5
    assert certificate.gradient_norm < 1e-6
    assert not certificate.active_bounds and not certificate.not_identified
    assert certificate.supports_interval


def test_optimum_at_the_chinchilla_budget(chinchilla_runs):
    best = plan(fit(CHINCHILLA, chinchilla_runs), flops=5.76e23)
    assert best.params == pytest.approx(7.319e10, rel=1e-4)
    assert best.tokens_per_param == pytest.approx(17.92, abs=0.005)
    assert best.loss == pytest.approx(1.973912, abs=1e-6)


def test_bootstrap_standard_errors(chinchilla_runs):
    fitted = fit(CHINCHILLA, chinchilla_runs, bootstrap=4000, seed=0)
    error = fitted.samples.std()
    for name, expected in dict(A=124.5, E=0.0257, alpha=0.0154, beta=0.0206).items():
        assert error[name] == pytest.approx(expected, rel=0.06), name
    assert fitted.draws.agreed > 0.99


def test_huber_width_moves_beta_as_published(chinchilla_runs):
    assert fit(CHINCHILLA, chinchilla_runs, delta=1e-4).params.beta == pytest.approx(0.3654, abs=6e-5)
    assert fit(CHINCHILLA, chinchilla_runs, delta=1e-2).params.beta == pytest.approx(0.3815, abs=6e-5)
    assert fit(CHINCHILLA, chinchilla_runs, objective="gaussian").params.beta == pytest.approx(0.4059, abs=6e-5)


def test_closed_form_optimum_agrees_with_the_search(synthetic):
    fitted = fit(CHINCHILLA, synthetic())
    best = plan(fitted, flops=1e22)
    assert best.params == pytest.approx(optimal_params(fitted.params, 1e22), rel=1e-5)
    assert 6 * best.params * best.tokens == pytest.approx(1e22, rel=1e-12)


def isoflop_grid(noise=0.0, seed=0) -> pd.DataFrame:
    """Seven budgets of nine sizes around the optimum of a known law."""
    rng, rows = np.random.default_rng(seed), []
    for flops in np.geomspace(1e18, 1e21, 7):
        params = optimal_params(pd.Series(TRUTH), flops) * np.geomspace(0.4, 2.5, 9)
        rows.append(pd.DataFrame({"params": params, "tokens": flops / (6 * params), "flops": flops}))
    table = pd.concat(rows, ignore_index=True)
    loss = CHINCHILLA(TRUTH, params=table["params"], tokens=table["tokens"])
    return table.assign(loss=loss * np.exp(noise * rng.standard_normal(len(table))))


def test_isoflop_parabolas_recover_the_exponent():
    truth = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
    frontier = isoflop_minima(isoflop_grid(), bootstrap=50)
    assert frontier.params.a == pytest.approx(truth, abs=2e-3)
    assert frontier.params.b == pytest.approx(1 - truth, abs=2e-3)
    low, high = isoflop_minima(isoflop_grid(noise=0.001), bootstrap=300).interval(0.95)["a"]
    assert low < truth < high


def test_isoflop_minimum_on_the_edge_is_rejected():
    runs = isoflop_grid()
    budgets = np.unique(runs["flops"])
    first = (runs["flops"] == budgets[0]) & (runs["params"] > optimal_params(pd.Series(TRUTH), budgets[0]) * 1.2)
    keep = (runs["flops"] != budgets[0]) | first
    frontier = isoflop_minima(runs[keep], bootstrap=50)
    assert not frontier.table["used"].iloc[0] and frontier.table["reason"].iloc[0]
    assert frontier.table["used"].iloc[1:].all()


def test_envelope_of_curves_recovers_the_exponent():
    curves = []
    for trial, params in enumerate(np.geomspace(1e7, 1e10, 25)):
        tokens = np.geomspace(params, params * 400, 80)
        curves.append(
            pd.DataFrame(
                {
                    "trial": trial,
                    "params": params,
                    "tokens": tokens,
                    "loss": CHINCHILLA(TRUTH, params=params, tokens=tokens),
                }
            )
        )
    frontier = chinchilla_envelope(pd.concat(curves), bootstrap=50)
    assert frontier.params.a == pytest.approx(TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"]), abs=0.01)
    assert frontier.interval(0.9)["a"].low < frontier.params.a < frontier.interval(0.9)["a"].high
