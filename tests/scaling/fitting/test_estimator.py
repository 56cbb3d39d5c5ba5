"""The estimator against the simplest oracles: finite differences, scipy, and identities any estimator must keep."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from scipy.optimize import minimize, nnls

from scaling.fitting import start_grid
from scaling.fitting.derivatives import Taylor
from scaling.fitting.estimator import Estimator, cholesky_step
from scaling.fitting.objectives import OBJECTIVES, Objective
from scaling.fitting.start_grid import StartGrid
from scaling.laws import CHINCHILLA, Law, fit

SIGMOID = Law(
    name="sigmoid",
    formula="y = low + (high - low) / (1 + exp(-k (x - x0)))",
    inputs=("x",),
    output="y",
    predict=lambda p, x: p.low + p.height / (1 + np.exp(-p.k * (x.x - p.x0))),
    linear=("low", "height"),
    bounds=dict(low=(0, 1), height=(0, 1), k=(0, None), x0=(None, None)),
    space="raw",
    objective="gaussian",
    start=dict(k=(0.3, 1.0, 3.0, 10.0), x0=(-2.0, -1.0, 0.0, 1.0, 2.0)),
)


def expressions(p):
    a, b, c = p
    x = np.array([0.5, 1.3, 2.0])
    return {
        "powers": a * x**-b + c,
        "quotient": a / (b + x * c),
        "tanh": np.tanh(a * x - b) * c,
        "logs": np.log(a + x * b) - np.log1p(c),
        "expm1": np.expm1(-a * x) * np.sqrt(b) + c**3.0,
        "where": np.where(x > 1, a * b, np.exp(c) * x),
        "maximum": np.maximum(a * x, b) * c,
        "nested": (a + (b * x) ** (c / 2)) ** (1 / a),
        "logaddexp": np.logaddexp(a * x, b) + np.logaddexp(0.0, -c * x) * np.logaddexp(b * x, 1.5),
        "squares": a**2 * b - (c - a) / b,
    }


@pytest.mark.parametrize("name", list(expressions([0.7, 1.1, 0.4])))
def test_derivatives_match_finite_differences(name):
    point = np.array([0.7, 1.1, 0.4])
    seeds = [Taylor(np.array([v]), {i: 1.0}) for i, v in enumerate(point)]
    exact = expressions(seeds)[name]
    shape = (3,)

    def value(p):
        return np.broadcast_to(expressions(p)[name], shape)

    steps, h = np.eye(3), 1e-4
    for i in range(3):
        slope = (value(point + h * steps[i]) - value(point - h * steps[i])) / (2 * h)
        assert np.broadcast_to(exact.gradient.get(i, 0.0), shape) == pytest.approx(slope, rel=1e-6, abs=1e-7)
        for j in range(i, 3):
            both, apart = h * (steps[i] + steps[j]), h * (steps[i] - steps[j])
            mixed = (value(point + both) - value(point + apart) - value(point - apart) + value(point - both)) / (
                4 * h * h
            )
            assert np.broadcast_to(exact.hessian.get((i, j), 0.0), shape) == pytest.approx(mixed, rel=1e-5, abs=1e-5)


def estimator(runs, objective):
    inputs = {name: runs[name].to_numpy() for name in ("params", "tokens")}
    return Estimator(CHINCHILLA, inputs, runs["loss"].to_numpy(), objective, np.ones(len(runs)))


def test_special_functions_of_scipy_have_their_derivatives():
    at, step = 2.3, 1e-4
    value = special.gammaln(Taylor(np.array([at]), {0: 1.0}, {}, 2))
    around = special.gammaln(np.array([at - step, at, at + step]))
    assert value.gradient[0] == pytest.approx((around[2] - around[0]) / (2 * step), rel=1e-7)
    assert value.hessian[0, 0] == pytest.approx((around[2] - 2 * around[1] + around[0]) / step**2, rel=1e-5)


@pytest.mark.parametrize("space", ["log", "raw"])
@pytest.mark.parametrize("kind", ["huber", "gaussian", "student_t"])
def test_objective_gradient_and_hessian_match_finite_differences(synthetic, kind, space):
    problem = estimator(synthetic(), Objective(kind, space, 0.02))
    z = np.array([[6.1, 7.4, 1.7, 0.35, 0.35]])
    _, gradient, hessian, _ = problem.expand(z)
    h = 1e-6
    for k, step in enumerate(np.eye(5) * h):
        slope = (problem.value(z + step) - problem.value(z - step)) / (2 * h)
        assert gradient[0, k] == pytest.approx(slope[0], rel=1e-5, abs=1e-8)
        column = (problem.expand(z + step)[1] - problem.expand(z - step)[1]) / (2 * h)
        assert hessian[0, k] == pytest.approx(column[0], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kind", ["binomial", "beta_binomial"])
def test_count_likelihoods_have_matching_slopes(kind):
    objective = Objective(kind, "logit", 12.0)
    f, share, trials = np.linspace(0.1, 0.9, 9), np.linspace(0, 1, 9), np.full(9, 20.0)
    _, slope, curvature, positive = objective.terms(f, share, trials)
    h = 1e-6
    value = [objective.terms(f + s, share, trials, order=0) for s in (-h, h)]
    assert slope == pytest.approx((value[1] - value[0]) / (2 * h), rel=1e-5, abs=1e-5)
    slopes = [objective.terms(f + s, share, trials)[1] for s in (-h, h)]
    assert curvature == pytest.approx((slopes[1] - slopes[0]) / (2 * h), rel=1e-4)
    assert np.all(positive > 0)


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_batched_elimination_solves_linear_systems(seed):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((4, 5, 5))
    matrix, gradient = root @ root.transpose(0, 2, 1) + 0.1 * np.eye(5), rng.standard_normal((4, 5))
    step, decrease, definite = cholesky_step(matrix, gradient, np.zeros((4, 5), bool))
    assert definite.all()
    assert step == pytest.approx(-np.linalg.solve(matrix, gradient[..., None])[..., 0], rel=1e-6, abs=1e-8)
    assert decrease == pytest.approx(-0.5 * np.sum(step * gradient, axis=1))
    indefinite = matrix.copy()
    indefinite[:, 2, 2] -= 1e3
    assert not cholesky_step(indefinite, gradient, np.zeros((4, 5), bool))[2].any()


@pytest.mark.parametrize("objective", ["huber", "gaussian", "student_t", "lad"])
def test_no_optimum_is_above_scipys(synthetic, objective):
    runs = synthetic(40, 0.01)
    fitted = fit(CHINCHILLA, runs, objective=objective)
    problem = fitted.estimator
    best = min(
        minimize(
            lambda z: problem.value(z[None])[0],
            start,
            method="Nelder-Mead",
            options=dict(maxiter=4000, xatol=1e-10, fatol=1e-16),
        ).fun
        for start in ([6.0, 7.0, 1.7, 0.35, 0.35], [5.0, 8.0, 1.8, 0.3, 0.4])
    )
    assert fitted.certificate.objective <= best * (1 + 1e-9)


def test_the_best_cell_of_a_reweighting_is_that_of_a_loop_over_all_cells(synthetic, monkeypatch):
    runs = synthetic(30, noise=0.01)
    e = fit(CHINCHILLA, runs).estimator
    monkeypatch.setattr(start_grid, "CELL_ELEMENTS", 200)  # cells come in many stretches
    monkeypatch.setattr(start_grid, "FEATURE_ELEMENTS", 2000)
    grid, rng = StartGrid(e), np.random.default_rng(0)
    weights, robust = rng.multinomial(30, np.full(30, 1 / 30), size=3).astype(float), rng.uniform(0.5, 1, 30)
    found = e.coordinates.to_params(grid.best_cells(weights, robust))
    for w, cell in zip(weights * robust, found, strict=True):
        best = {}
        for alpha, beta in itertools.product(CHINCHILLA.starts("alpha"), CHINCHILLA.starts("beta")):
            basis = np.stack([runs["params"] ** -alpha, runs["tokens"] ** -beta, np.ones(30)], 1)
            scale = np.sqrt(w) / runs["loss"].to_numpy()
            size = np.linalg.norm(basis * scale[:, None], axis=0)
            best[alpha, beta] = nnls(basis * scale[:, None] / size, runs["loss"].to_numpy() * scale)[1]
        assert tuple(cell[3:]) == pytest.approx(min(best, key=best.get))


def test_noiseless_runs_give_the_truth_back(synthetic):
    fitted = fit(CHINCHILLA, synthetic(noise=0.0))
    for name, value in dict(A=400.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36).items():
        assert fitted.params[name] == pytest.approx(value, rel=1e-8)


def test_a_weight_of_two_is_the_row_twice(synthetic):
    runs = synthetic(40)
    weights = np.where(np.arange(40) % 3 == 0, 2.0, 1.0)
    doubled = pd.concat([runs, runs[weights == 2]])
    one, two = fit(CHINCHILLA, runs, weights=weights), fit(CHINCHILLA, doubled)
    assert one.certificate.objective == pytest.approx(two.certificate.objective, rel=1e-12)
    assert one.params.beta == pytest.approx(two.params.beta, rel=1e-8)


def test_units_of_the_inputs_do_not_move_the_exponents(synthetic):
    runs = synthetic(40)
    one, two = fit(CHINCHILLA, runs), fit(CHINCHILLA, runs.assign(params=runs["params"] * 1000))
    assert two.params.alpha == pytest.approx(one.params.alpha, rel=1e-7)
    assert two.certificate.objective == pytest.approx(one.certificate.objective, rel=1e-10)


def test_bootstrap_solves_each_resample_as_a_fit_of_its_rows(synthetic):
    runs = synthetic(40)
    fitted = fit(CHINCHILLA, runs)
    counts = np.random.default_rng(3).multinomial(40, np.full(40, 1 / 40), size=3)
    for weights in counts:
        rows = runs.loc[np.repeat(runs.index, weights)]
        alone = fit(CHINCHILLA, rows)
        together = fitted.estimator.solve(fitted.z[None], weights[None].astype(float))
        assert together.value[0] == pytest.approx(alone.certificate.objective, rel=1e-9)


def test_the_same_seed_gives_the_same_draws(synthetic):
    fitted = fit(CHINCHILLA, synthetic(), bootstrap=40, seed=7)
    again = fit(CHINCHILLA, synthetic(), bootstrap=40, seed=7)
    assert np.array_equal(fitted.draws.z, again.draws.z)
    assert not np.array_equal(fitted.draws.z, fitted.resampled(40, seed=8).draws.z)


@pytest.mark.parametrize("kind", ["row", "stratified", "cluster", "wild", "parametric"])
def test_every_bootstrap_has_about_the_true_spread(synthetic, kind):
    runs = synthetic(100).assign(run=np.arange(100) // 2, size=np.arange(100) % 2)
    fitted = fit(CHINCHILLA, runs, cluster="run", strata="size", objective="gaussian")
    spread = fitted.resampled(300, kind=kind).samples["a"].std()
    truth = np.std([fit(CHINCHILLA, synthetic(100, seed=s), objective="gaussian").derived.a for s in range(1, 30)])
    assert 0.6 * truth < spread < 1.6 * truth


def test_a_law_in_ten_lines_without_power_laws_is_fitted():
    rng = np.random.default_rng(0)
    x = np.linspace(-4, 4, 60)
    y = 0.25 + 0.6 / (1 + np.exp(-1.7 * (x - 0.4))) + 0.005 * rng.standard_normal(60)
    fitted = fit(SIGMOID, pd.DataFrame({"x": x, "y": y}))
    assert fitted.params.k == pytest.approx(1.7, abs=0.1)
    assert fitted.params.x0 == pytest.approx(0.4, abs=0.03)
    assert fitted.certificate.agreed > 0.5


def test_fixed_parameters_stay_and_are_not_counted(synthetic):
    fitted = fit(CHINCHILLA, synthetic(), fixed={"beta": 0.36, "E": 1.8})
    assert fitted.params.beta == 0.36 and fitted.params.E == 1.8
    assert fitted.certificate.parameters == 3
    assert fitted.certificate.objective >= fit(CHINCHILLA, synthetic()).certificate.objective


def test_cross_validated_and_mad_widths_are_wider_than_the_default(synthetic):
    runs = synthetic(60, 0.01)
    assert fit(CHINCHILLA, runs, delta="mad").objective.scale == pytest.approx(0.01, rel=0.5)
    assert fit(CHINCHILLA, runs, delta="cv").objective.scale in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


def test_objectives_are_all_reachable_by_name():
    for kind in OBJECTIVES:
        assert Objective(kind).kind == kind
    with pytest.raises(ValueError, match="did you mean 'huber'"):
        Objective("hubert")


def test_lad_meets_as_many_rows_as_it_has_parameters(synthetic):
    assert fit(CHINCHILLA, synthetic(60, 0.01), objective="lad").certificate.ties >= 5


def test_binomial_fit_matches_logistic_regression_by_scipy():
    law = dataclasses.replace(
        SIGMOID,
        predict=lambda p, x: 1 / (1 + np.exp(-p.k * (x.x - p.x0))),
        linear=(),
        bounds=dict(k=(0, None), x0=(None, None)),
        objective="binomial",
    )
    rng = np.random.default_rng(0)
    x = np.linspace(-3, 3, 30)
    hits = rng.binomial(50, 1 / (1 + np.exp(-1.3 * (x - 0.5))))
    fitted = fit(law, pd.DataFrame({"x": x, "y": hits / 50, "m": 50}), trials="m")

    def negative(p):
        prob = 1 / (1 + np.exp(-p[0] * (x - p[1])))
        return -np.sum(hits * np.log(prob) + (50 - hits) * np.log1p(-prob))

    oracle = minimize(negative, [1.0, 0.0], method="Nelder-Mead", options=dict(xatol=1e-9, fatol=1e-12)).x
    assert [fitted.params.k, fitted.params.x0] == pytest.approx(list(oracle), rel=1e-5)
