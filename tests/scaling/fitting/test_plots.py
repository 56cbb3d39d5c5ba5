"""Plots of a fit: every kind draws the runs it should, on given axes or its own."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from scaling.laws import CHINCHILLA, Law, fit

KINDS = ("predicted", "residuals", "isoflop", "contour", "profile")
SIZES = Law(
    name="sizes",
    formula="L = E + A / N**alpha",
    inputs=("params",),
    output="loss",
    predict=lambda p, x: p.E + p.A * x.params**-p.alpha,
    linear=("E", "A"),
    exponents=("alpha",),
    bounds=dict(E=(0, None), A=(0, None), alpha=(0, 2)),
)


@pytest.fixture(autouse=True)
def off_screen():
    before = mpl.get_backend()
    plt.switch_backend("Agg")
    yield
    plt.close("all")
    plt.switch_backend(before)


@pytest.fixture
def fitted(synthetic):
    return fit(CHINCHILLA, synthetic(40))


def marks(ax) -> int:
    """Points drawn: scatter offsets and markers of lines without a line."""
    scattered = sum(len(c.get_offsets()) for c in ax.collections if type(c).__name__ == "PathCollection")
    return scattered + sum(len(line.get_xdata()) for line in ax.lines if line.get_marker() == "o")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_draws_and_renders(fitted, kind):
    ax = fitted.plot(kind)
    ax.figure.canvas.draw()
    assert ax.get_xlabel() and ax.get_ylabel()
    if kind != "profile":
        assert marks(ax) == 40


@pytest.mark.parametrize("kind", KINDS)
def test_axes_that_are_given_are_used(fitted, kind):
    figure, ax = plt.subplots()
    settings = dict(mpl.rcParams)
    assert fitted.plot(kind, ax) is ax
    assert dict(mpl.rcParams) == settings and plt.get_fignums() == [figure.number]


def test_the_profile_plot_shows_the_parameter_asked_for(fitted):
    assert fitted.plot("profile", parameter="E").get_xlabel().startswith("E")
    with pytest.raises(ValueError, match="no parameter"):
        fitted.plot("profile", parameter="z")


def test_isoflop_curves_are_those_of_the_law(fitted):
    ax = fitted.plot("isoflop")
    curve = next(line for line in ax.lines if line.get_marker() == "None" and len(line.get_xdata()) > 20)
    params, loss = (np.asarray(values, float) for values in curve.get_data())
    implied = (loss - fitted.params.E - fitted.params.A * params**-fitted.params.alpha) / fitted.params.B
    compute = 6 * params * implied ** (-1 / fitted.params.beta)
    assert compute == pytest.approx(np.full(len(compute), compute[0]), rel=1e-6)


def test_a_budget_that_is_met_within_ten_per_cent_has_one_isoflop_curve(synthetic):
    budgets = np.repeat(np.geomspace(1e19, 1e21, 4), 6) * np.tile([1.0, 1.08, 1.02, 1.05, 1.0, 1.07], 4)
    params = np.sqrt(budgets / 120) * np.tile(np.geomspace(0.3, 3, 6), 4)
    runs = synthetic(24).assign(params=params, tokens=budgets / (6 * params))
    runs["loss"] = CHINCHILLA(dict(A=400.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36), **runs[["params", "tokens"]])
    ax = fit(CHINCHILLA, runs).plot("isoflop")
    curves = [line for line in ax.lines if line.get_marker() == "None" and len(line.get_xdata()) > 20]
    assert len(curves) == 4


def test_plots_that_need_two_inputs_say_so(synthetic):
    runs = synthetic(40)
    one = fit(SIZES, runs.assign(loss=SIZES(dict(E=1.8, A=400.0, alpha=0.3), params=runs["params"])))
    for kind in ("isoflop", "contour"):
        with pytest.raises(ValueError, match="needs a law of params and tokens"):
            one.plot(kind)
    assert marks(one.plot("residuals")) == marks(one.plot("predicted")) == 40
    with pytest.raises(ValueError, match="use 'residuals'"):
        one.plot("residual")


def test_a_table_of_one_size_still_has_its_plots(synthetic):
    runs = pd.concat([synthetic(30)]).assign(tokens=1e10, params=1e9)
    assert marks(fit(CHINCHILLA, runs).plot("predicted")) == 30
