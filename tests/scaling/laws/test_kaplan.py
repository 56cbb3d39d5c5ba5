"""Kaplan's laws against their own equations, and the critical batch against the runs that define it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq

from scaling.laws import fit
from scaling.laws.critical_batch import BATCH_TRADE_OFF, CRITICAL_BATCH, critical_batch
from scaling.laws.critical_batch import CONSTANTS as BATCHES
from scaling.laws.kaplan import CONSTANTS, KAPLAN, KAPLAN_PARAMS, KAPLAN_STEPS, KAPLAN_TOKENS


def test_loss_along_a_run_solves_its_implicit_equation():
    p = CONSTANTS[KAPLAN_STEPS.name]
    for params, steps, batch in [(1e6, 2e3, 5e4), (1e9, 2e5, 5e5), (3e7, 500.0, 1e8)]:

        def gap(loss, params=params, steps=steps, batch=batch):
            least = steps / (1 + p["B_star"] / (batch * loss ** (1 / p["alpha_B"])))
            return (p["Nc"] / params) ** p["alpha_N"] + (p["Sc"] / least) ** p["alpha_S"] - loss

        expected = brentq(gap, 1e-3, 1e3, xtol=1e-14, rtol=1e-14)
        loss = KAPLAN_STEPS(p, params_nonembed=params, steps=steps, batch_tokens=batch)
        assert loss == pytest.approx(expected, rel=1e-12)


def test_an_enormous_batch_trains_in_the_fewest_steps():
    p = CONSTANTS[KAPLAN_STEPS.name]
    loss = KAPLAN_STEPS(p, params_nonembed=1e8, steps=1e4, batch_tokens=1e20)
    assert loss == pytest.approx((p["Nc"] / 1e8) ** p["alpha_N"] + (p["Sc"] / 1e4) ** p["alpha_S"], rel=1e-12)


def test_joint_law_tends_to_the_law_of_one_resource():
    p = CONSTANTS[KAPLAN.name]
    alone = KAPLAN_PARAMS(dict(Nc=p["Nc"], alpha_N=p["alpha_N"]), params_nonembed=1e8)
    assert KAPLAN(p, params_nonembed=1e8, tokens=1e30) == pytest.approx(alone, rel=1e-9)
    alone = KAPLAN_TOKENS(dict(Dc=p["Dc"], alpha_D=p["alpha_D"]), tokens=1e8)
    assert KAPLAN(p, params_nonembed=1e40, tokens=1e8) == pytest.approx(alone, rel=1e-9)


def test_critical_batch_is_found_from_steps_to_a_loss():
    truth, rows = BATCHES[CRITICAL_BATCH.name], []
    for loss in (3.0, 3.5, 4.0, 4.5, 5.0):
        critical = float(CRITICAL_BATCH(truth, loss=loss))
        least = 1e4 * (3 / loss) ** 8
        for batch in np.geomspace(3e4, 3e6, 5):
            rows.append({"loss": loss, "batch_tokens": batch, "steps": least * (1 + critical / batch)})
    runs = pd.DataFrame(rows)
    levels, fitted = critical_batch(runs)
    assert len(levels) == 5
    assert fitted.params.B_star == pytest.approx(truth["B_star"], rel=1e-6)
    assert fitted.params.alpha_B == pytest.approx(truth["alpha_B"], rel=1e-6)
    with pytest.raises(ValueError, match="1 loss levels .* give at least 4 levels"):
        critical_batch(runs[runs["loss"] == 3.0])


def test_steps_and_examples_obey_the_hyperbola():
    fitted = fit(
        BATCH_TRADE_OFF,
        pd.DataFrame({"batch_tokens": [1e4, 1e5, 1e6, 1e7], "steps": 5e3 * (1 + 4e5 / np.array([1e4, 1e5, 1e6, 1e7]))}),
    )
    batch = np.array([2e4, 3e6])
    steps = BATCH_TRADE_OFF(fitted.params, batch_tokens=batch)
    product = (steps / fitted.params.S_min - 1) * (steps * batch / fitted.derived.E_min - 1)
    assert product == pytest.approx(1.0, rel=1e-9)
