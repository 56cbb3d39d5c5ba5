"""The next run: closed-form narrowing against refits and brute force, budgets kept, and Epoch's 600,000 runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scaling.fitting.covariance import sandwich
from scaling.fitting.design import design, deviation, runs_needed
from scaling.laws import CHINCHILLA, fit

TARGET = dict(params=7e10, tokens=1.4e12)


@pytest.fixture
def fitted(synthetic):
    return fit(CHINCHILLA, synthetic(60), objective="gaussian")


@pytest.fixture
def candidates():
    rng = np.random.default_rng(1)
    sizes = (np.exp(rng.uniform(np.log(low), np.log(high), 30)) for low, high in ((3e7, 2e10), (5e8, 5e11)))
    table = pd.DataFrame(dict(zip(("params", "tokens"), sizes, strict=True)))
    return table.assign(flops=6 * table["params"] * table["tokens"])


def after(fitted, rows, target):
    """Standard deviation of the target once rows [m, F] are added, by inverting the information matrix."""
    _, covariance, row = sandwich(fitted.estimator, fitted.z)
    information = np.linalg.inv(covariance) + rows.T @ rows / row
    return np.sqrt(target @ np.linalg.inv(information) @ target)


def gradient(fitted, **inputs):
    """Gradient of the log loss in the estimator's coordinates, by central differences."""
    steps = 1e-6 * np.eye(5)
    value = [
        np.log(fitted.outputs(fitted.z + sign * steps, {k: np.array([v]) for k, v in inputs.items()})[:, 0])
        for sign in (1, -1)
    ]
    return (value[0] - value[1]) / 2e-6


def test_the_first_run_is_the_best_of_all_by_brute_force(fitted, candidates):
    goal = gradient(fitted, **TARGET)
    now = deviation(fitted, TARGET)
    sd = [
        after(fitted, gradient(fitted, params=p, tokens=t)[None], goal)
        for p, t in zip(candidates["params"], candidates["tokens"], strict=True)
    ]
    rate = np.log(now / np.array(sd)) / candidates["flops"].to_numpy()
    chosen = design(fitted, TARGET, candidates)
    assert chosen["params"][0] == candidates["params"][int(np.argmax(rate))]
    assert chosen["deviation"][0] == pytest.approx(sd[int(np.argmax(rate))], rel=1e-4)
    assert chosen["per_flop"][0] == pytest.approx(rate.max(), rel=1e-3)


def test_runs_chosen_one_after_the_other_add_up(fitted, candidates):
    chosen = design(fitted, "alpha", candidates, count=4)
    rows = np.array([gradient(fitted, params=p, tokens=t) for p, t in zip(chosen["params"], chosen["tokens"])])
    assert chosen["deviation"].iloc[-1] == pytest.approx(after(fitted, rows, np.eye(5)[3]), rel=1e-3)
    assert (chosen["narrowing"] < 1).all() and (np.diff(chosen["deviation"]) < 0).all()


def test_the_volume_of_the_region_falls_by_what_is_said(fitted, candidates):
    chosen = design(fitted, "all", candidates, count=3)
    rows = np.array([gradient(fitted, params=p, tokens=t) for p, t in zip(chosen["params"], chosen["tokens"])])
    _, covariance, row = sandwich(fitted.estimator, fitted.z)
    before, behind = (
        np.linalg.slogdet(np.linalg.inv(covariance)),
        np.linalg.slogdet(np.linalg.inv(covariance) + rows.T @ rows / row),
    )
    assert chosen["deviation"].iloc[-1] == pytest.approx(np.exp((before[1] - behind[1]) / 10), rel=1e-3)


def test_a_refit_with_the_chosen_runs_is_narrower_than_with_the_worst(fitted, synthetic, truth, candidates):
    equal = candidates.assign(flops=1.0)  # the same price, so that narrowing alone decides
    best = design(fitted, TARGET, equal).iloc[0]
    worst = min(
        equal.to_dict("records"),
        key=lambda r: (
            -after(fitted, gradient(fitted, params=r["params"], tokens=r["tokens"])[None], gradient(fitted, **TARGET))
        ),
    )

    def width(run):
        more = pd.DataFrame({name: [run[name]] * 10 for name in ("params", "tokens")})
        noise = np.exp(0.003 * np.random.default_rng(5).standard_normal(10))
        more["loss"] = CHINCHILLA(truth, params=more["params"], tokens=more["tokens"]) * noise
        again = fit(CHINCHILLA, pd.concat([synthetic(60), more]), objective="gaussian", bootstrap=150)
        return np.std(np.log(again.outputs(again.draws.z, {k: np.array([v]) for k, v in TARGET.items()})))

    assert width(best) < 0.9 * width(worst)


def test_budgets_are_kept_and_explained(fitted, candidates):
    budget = float(np.sort(candidates["flops"])[2])
    chosen = design(fitted, TARGET, candidates, count=50, budget=budget)
    assert chosen["flops"].sum() <= budget
    with pytest.raises(ValueError, match="pays for none of 30 runs"):
        design(fitted, TARGET, candidates, budget=1.0)
    assert len(design(fitted, "a", count=2)) == 2
    with pytest.raises(ValueError, match="is not a free quantity"):
        design(fitted, "gamma", candidates)
    with pytest.raises(ValueError, match="needs 'tokens'"):
        design(fitted, dict(params=1e9), candidates)


def test_half_the_width_takes_four_times_the_runs(fitted):
    low, high = fitted.interval(0.9)["alpha"]
    assert runs_needed(fitted, "alpha", (high - low) / 2, 0.9) == 240
    with pytest.raises(ValueError, match="not positive"):
        runs_needed(fitted, "alpha", 0.0)
    with pytest.raises(ValueError, match="is not in the fit"):
        runs_needed(fitted, "zeta", 0.1)


def test_epochs_six_hundred_thousand_runs(chinchilla_runs):
    """Besiroglu et al. 2024: Hoffmann's interval of a (.454 to .455 at 80 %) would take nearly 600,000 runs."""
    fitted = fit(CHINCHILLA, chinchilla_runs, bootstrap=1000)
    assert 4e5 < runs_needed(fitted, "a", 0.001, 0.8) < 9e5


def test_a_fit_without_intervals_cannot_be_designed_from(synthetic):
    with pytest.raises(ValueError, match="no interval"):
        design(fit(CHINCHILLA, synthetic(6)), "alpha")
