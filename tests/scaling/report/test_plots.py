import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.errors import ConfigError
from scaling import report
from scaling.fitting.fit import fit
from scaling.laws.chinchilla import CHINCHILLA
from scaling.report import claim, style
from scaling.report.frontier import flops_per_token, isoflop_curves, optimal_path
from tests.scaling.report import synthetic


@pytest.fixture(scope="module")
def runs():
    """A notebook's table: no columns but the contract's."""
    return pd.DataFrame(synthetic.sweep_rows())


@pytest.fixture(scope="module")
def law(runs):
    return fit(CHINCHILLA, runs, bootstrap=60)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_every_plot_draws_into_given_axes_and_returns_them(runs, law):
    curves = {row["trial"]: pd.DataFrame(synthetic.curve(row)) for row in runs.to_dict("records")[:3]}
    predicted = pd.DataFrame({"mean": [1.7], "low": [1.6], "high": [1.8], "measured": [1.72], "inside": [True],
                             "factor": [8.0], "flops": [1.2e13]})  # fmt: skip
    calls = [
        lambda ax: report.plot_isoflops(runs, ax),
        lambda ax: report.plot_frontier(runs, law, ax),
        lambda ax: report.plot_surface(law, runs, ax),
        lambda ax: report.plot_scaling(law, runs, predicted, ax),
        lambda ax: report.plot_predictions(predicted, runs, law, ax),
        lambda ax: report.plot_intervals(predicted, ax),
        lambda ax: report.plot_training(curves, runs, ax),
    ]
    for call in calls:
        ax = Figure().subplots()
        assert call(ax) is ax
        assert ax.get_xlabel()
    axes = Figure().subplots(2, 2)
    assert report.plot_residuals(law, runs, axes) is axes
    assert plt.get_fignums() == []  # pyplot's state belongs to the user


@pytest.mark.parametrize("ends", [(np.nan, np.nan), (-np.inf, np.inf), (0.0, np.inf)])
def test_predictions_whose_interval_has_no_end_are_drawn_without_a_bar(runs, law, ends):
    predicted = pd.DataFrame({"mean": [1.7, 1.6], "low": [1.6, ends[0]], "high": [1.8, ends[1]],
                             "measured": [1.72, 1.61], "inside": [True, False], "factor": [8.0, 30.0],
                             "flops": [1.2e13, 1.3e13]})  # fmt: skip
    ax = report.plot_predictions(predicted, runs, law, Figure().subplots())
    assert np.isfinite([*ax.get_xlim(), *ax.get_ylim()]).all()
    for ax in (report.plot_intervals(predicted, Figure().subplots()), report.plot_scaling(law, runs, predicted)):
        ax.figure.canvas.draw()


def test_plots_make_their_own_axes_when_given_none(runs, law):
    assert isinstance(report.plot_isoflops(runs), Axes)
    assert report.plot_residuals(law, runs).shape == (2, 2)


def test_a_table_that_cannot_be_drawn_names_the_cause(runs):
    with pytest.raises(ConfigError, match="no column 'loss'"):
        report.plot_isoflops(runs.drop(columns="loss"))
    with pytest.raises(ConfigError, match="no finished row"):
        report.plot_isoflops(runs.assign(status="failed"))
    with pytest.raises(ConfigError, match="no compute budget has runs of two sizes"):
        report.plot_isoflops(runs.head(1))
    with pytest.raises(ConfigError, match="fewer than two budgets"):
        report.plot_frontier(runs.head(3))


def test_isoflop_minima_are_near_the_true_optimum(runs):
    for curve in isoflop_curves(runs):
        if curve.used:
            sizes = np.geomspace(3e3, 3e5, 2000)
            best = sizes[np.argmin(synthetic.true_loss(sizes, curve.budget / synthetic.flops_per_token(sizes)))]
            assert np.log(curve.best / best) == pytest.approx(0, abs=0.35)  # a parabola in ln N is not the law
            assert synthetic.flops_per_token(curve.best) * curve.best_tokens == pytest.approx(curve.budget, rel=0.05)


def test_a_minimum_at_the_edge_is_not_used():
    rows = synthetic.sweep_rows(noise=0.0, ratios=(60, 3000))
    assert not any(curve.used for curve in isoflop_curves(pd.DataFrame(rows)))


def test_one_budget_alone_still_has_its_minimum(runs):
    curve = max(isoflop_curves(runs), key=lambda c: len(c.params))
    alone = runs[np.abs(runs["flops"] / curve.budget - 1) < 0.05]
    (single,) = isoflop_curves(alone)
    assert single.used
    assert single.best == pytest.approx(curve.best, rel=1e-9)


def test_cost_per_token_follows_the_runs_and_tends_to_a_multiple_of_the_size(runs):
    sizes = runs["params"].unique().astype(float)
    assert flops_per_token(runs, sizes) == pytest.approx(synthetic.flops_per_token(sizes), rel=1e-3)
    assert flops_per_token(runs, np.array([1e12])) == pytest.approx([6e12], rel=0.05)


def test_optimal_path_is_the_brute_force_optimum(runs, law):
    path = optimal_path(law, runs, np.array([1e11, 1e12, 1e13]))
    for row in path.itertuples():
        sizes = np.geomspace(1e3, 1e7, 40_001)
        tokens = row.flops / flops_per_token(runs, sizes)
        loss = law.law.predict(law.params, pd.DataFrame({"params": sizes, "tokens": tokens}))
        assert row.params == pytest.approx(sizes[np.argmin(loss)], rel=2e-3)
        assert row.loss == pytest.approx(loss.min(), rel=1e-8)


def test_held_out_runs_take_no_part_in_the_curves(runs):
    with_role = pd.concat([runs, pd.DataFrame([synthetic.held_out_row()])], ignore_index=True)
    with_role["role"] = np.where(with_role["trial"] == "9f0064abcdef", "held out", "fitted")
    lines = [len(report.plot_isoflops(table, Figure().subplots()).lines) for table in (runs, with_role)]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("kind", ["count", "flops", "loss"])
@pytest.mark.parametrize("decades", [0.1, 0.4, 0.7, 1.2, 2.0, 3.0, 6.0])
@pytest.mark.parametrize("low", [1.3, 8.7e3, 4.4e18])
def test_log_axes_always_have_a_few_distinct_labels(kind, decades, low):
    figure = Figure(figsize=(7, 4))
    ax = figure.subplots()
    ax.set_xlim(low, low * 10**decades)
    style.log_axis(ax, "x", kind)
    figure.draw_without_rendering()
    inside = [t for t in ax.xaxis.get_major_ticks() if low <= t.get_loc() <= low * 10**decades]
    labels = [t.label1.get_text() for t in inside]
    assert 2 <= len(labels) <= 10
    assert len(set(labels)) == len(labels)
    assert not any("$" in label or "×" in label for label in labels)


def test_the_theme_leaves_the_users_settings_alone():
    before = dict(mpl.rcParams)
    with style.theme("dark"):
        assert style.is_dark(Figure().subplots())
    assert dict(mpl.rcParams) == before
    assert not style.is_dark(Figure(facecolor="white").subplots())


def test_colours_of_a_ramp_differ_from_either_paper():
    for name in ("light", "dark"):
        with style.theme(name):
            ax = Figure().subplots()
            colours = style.ramp(ax)(np.linspace(0, 1, 32))[:, :3]
            paper = np.array(mpl.colors.to_rgb(ax.get_facecolor()))
            assert np.abs(colours - paper).max(axis=1).min() > 0.25


def test_measurements_of_a_claim_have_readable_numbers_on_logarithmic_axes_and_names_in_the_order_of_their_ends():
    lines = {f"line {i}": {"x": [3e10, 2.4e11], "y": [3 + i / 8, 2 + i / 8]} for i in range(6)}
    figure = Figure()
    claim._draw([{"x": "compute C (FLOPs)", "y": "loss", "log": "x", "lines": lines}], figure)
    figure.canvas.draw()
    (ax,) = figure.axes
    assert {"5e10", "1e11", "2e11"} <= {label.get_text() for label in ax.get_xticklabels()}
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [f"line {i}" for i in reversed(range(6))]
