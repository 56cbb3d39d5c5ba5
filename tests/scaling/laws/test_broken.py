"""Learning curves: breaks, schedules, pruning and Farseer's surface."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scaling.laws import Values, fit
from scaling.laws.annealing import ANNEALING, areas
from scaling.laws.annealing import CONSTANTS as ANNEALED
from scaling.laws.broken import broken_law, select_breaks
from scaling.laws.farseer import FARSEER, farseer_starts, fit_farseer, from_published
from scaling.laws.pruning import pruning_envelope


def test_broken_law_is_the_published_product():
    law, x = broken_law(2, "x", "y", "samples"), np.geomspace(1e2, 1e9, 8)
    p = dict(a=0.1, b=5.0, c0=0.1, c1=0.3, d1=1e4, f1=0.5, c2=-0.2, s2=100.0, f2=0.8)
    y = 0.1 + 5 * x**-0.1 * (1 + (x / 1e4) ** 2) ** -0.15 * (1 + (x / 1e6) ** 1.25) ** 0.16
    assert law(p, x=x) == pytest.approx(y, rel=1e-12)
    assert law.derived["d2"](Values(p)) == pytest.approx(1e6)
    assert np.all(np.isfinite(law({**p, "f1": 1e-4}, x=x))), "a sharp break does not overflow"


def test_without_breaks_it_is_a_power_law_and_the_choice_is_none():
    x = np.geomspace(1e4, 1e8, 25)
    runs = pd.DataFrame(
        {"tokens": x, "loss": (1.5 + 30 * x**-0.25) * np.exp(0.002 * np.random.default_rng(1).standard_normal(25))}
    )
    fitted, errors = select_breaks(runs, most=1)
    assert set(errors["breaks"]) == {0, 1}
    assert errors.set_index("breaks")["objective"][1] <= errors.set_index("breaks")["objective"][0] * (1 + 1e-9)
    assert fitted.law.name == f"broken{errors.loc[errors['held_out_error'].idxmin(), 'breaks']}"


def test_a_break_in_the_data_is_chosen_over_none():
    x = np.geomspace(1e3, 1e9, 40)
    law = broken_law(1)
    y = law(dict(a=0.2, b=8.0, c0=0.02, c1=0.5, d1=1e5, f1=0.3), tokens=x)
    fitted, errors = select_breaks(pd.DataFrame({"tokens": x, "loss": y}), most=1)
    assert fitted.law.name == "broken1"
    assert fitted.params.d1 == pytest.approx(1e5, rel=1e-4)
    assert errors["held_out_error"].iloc[1] < 0.1 * errors["held_out_error"].iloc[0]


def test_areas_are_their_double_sum():
    rates, decay = np.concatenate([np.full(5, 1e-3), np.linspace(1e-3, 1e-5, 12)]), 0.9
    table = areas(rates, decay)
    for s in (0, 4, 9, 16):
        s2 = sum((rates[k - 1] - rates[k]) * decay ** (i - k) for i in range(1, s + 1) for k in range(1, i + 1))
        assert table["annealing_area"][s] == pytest.approx(s2, rel=1e-12, abs=1e-18)
        assert table["forward_area"][s] == pytest.approx(rates[: s + 1].sum(), rel=1e-12)
    with pytest.raises(ValueError, match="one learning rate per step"):
        areas([1e-3, np.nan])


def test_one_schedule_predicts_another():
    steps = np.arange(4000)
    cosine = areas(1e-3 * 0.5 * (1.1 + 0.9 * np.cos(np.pi * steps / 4000)))
    wsd = areas(np.where(steps < 3000, 1e-3, 1e-3 * (4000 - steps) / 1000))
    truth = ANNEALED[ANNEALING.name]

    def loss(table):
        return ANNEALING(truth, **{name: table[name].to_numpy() for name in table})

    seen = cosine.assign(loss=loss(cosine)).iloc[100::40]
    fitted = fit(ANNEALING, seen)
    predicted = ANNEALING(fitted.params, **{name: wsd[name].to_numpy() for name in wsd})
    assert predicted[100:] == pytest.approx(loss(wsd)[100:], rel=1e-8)


def test_best_share_falls_as_data_grow():
    """Two shares: the smaller one has the steeper power and the larger coefficient, so the curves cross at 1e6."""
    rows = [
        (d, f, c * d**b)
        for f, c, b in ((1.0, 10.0, -0.2), (0.5, 10.0 * 1e6**0.2, -0.4))
        for d in np.geomspace(1e4, 1e8, 6)
    ]
    runs = pd.DataFrame(rows, columns=["tokens", "share_kept", "loss"])
    table, fits = pruning_envelope(runs, [1e5, 1e7])
    assert table["share_kept"].tolist() == [1.0, 0.5] and set(fits) == {1.0, 0.5}
    assert table["slope"].tolist() == pytest.approx([-0.2, -0.4], abs=1e-6)
    with pytest.raises(ValueError, match="four data sizes"):
        pruning_envelope(runs.iloc[:2], 1e5)


PAPER = dict(a1=-0.124, b1=0.424, alpha=0.123, a2=88.01, b2=-6.287, beta=-0.1, a3=-0.021, b3=1.0, gamma=0.169)


def surface() -> pd.DataFrame:
    size, tokens = (a.ravel() for a in np.meshgrid(np.geomspace(1e8, 6e9, 7), np.geomspace(1e9, 2e11, 7)))
    q = PAPER
    loss = np.exp(q["a3"] * size ** q["gamma"] + q["b3"]) + np.exp(
        q["a2"] * size ** q["beta"] + q["b2"]
    ) * tokens ** -np.exp(q["a1"] * size ** q["alpha"] + q["b1"])
    return pd.DataFrame({"params_nonembed": size, "tokens": tokens, "loss": loss})


def test_farseer_is_the_published_formula_and_returns_its_constants():
    runs = surface()
    ours = FARSEER(from_published(**PAPER), params_nonembed=runs["params_nonembed"], tokens=runs["tokens"])
    assert ours == pytest.approx(runs["loss"].to_numpy(), rel=1e-11)
    fitted = fit_farseer(runs)
    for name in ("a1", "b1", "a2", "b2", "a3", "b3"):
        assert fitted.derived[name] == pytest.approx(PAPER[name], rel=1e-5), name
    assert fitted.certificate.condition < 1e6, "the published coordinates have 1e10"


def test_farseer_starts_are_near_the_surface_and_need_a_grid():
    starts = farseer_starts(surface())
    assert len(starts) == 8 and set(starts) == set(FARSEER.parameters)
    runs = surface()
    best = min(
        np.abs(FARSEER(start, params_nonembed=runs["params_nonembed"], tokens=runs["tokens"]) / runs["loss"] - 1).max()
        for start in starts.to_dict("records")
    )
    assert best < 0.01
    with pytest.raises(ValueError, match="1 sizes have 4 token counts"):
        farseer_starts(surface()[lambda t: t["params_nonembed"] < 1.5e8])


def test_a_straight_curve_passes_through_zero_bend_smoothly():
    runs, p = surface(), from_published(**PAPER)
    values = [
        FARSEER({**p, "beta": b}, params_nonembed=runs["params_nonembed"], tokens=runs["tokens"])
        for b in (-1.0001e-4, -0.9999e-4, 0.0, 1e-9)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert values[2] == pytest.approx(values[3], rel=1e-7)
