"""The multi-power law: the published sum, from schedules to curves that were not fitted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scaling.laws import fit
from scaling.laws.annealing import ANNEALING, areas
from scaling.laws.multi_power import CONSTANTS, MULTI_POWER, PUBLISHED, drops, multi_power_law

TRUTH = CONSTANTS[MULTI_POWER.name]
STEPS = 3000
PEAK = 3e-4


def schedules() -> dict[str, np.ndarray]:
    steps = np.arange(STEPS)
    return {
        "cosine": PEAK * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * steps / STEPS))),
        "constant": np.full(STEPS, PEAK),
        "two_step": np.where(steps < 2000, PEAK, 0.3 * PEAK),
        "wsd": np.where(steps < 2400, PEAK, PEAK * np.maximum(1 - (steps - 2400) / 600, 0.1)),
    }


def published(rates: np.ndarray, t: int, warmup: float = 0.0) -> float:
    """The law as it is printed, one term a step."""
    p, total = TRUTH, 0.0
    for k in range(1, t + 1):
        x = rates[k] ** -p["gamma"] * rates[k : t + 1].sum()
        total += (rates[k - 1] - rates[k]) * (1 - (1 + p["C"] * x) ** -p["beta"])
    return p["L0"] + p["A"] * (rates[: t + 1].sum() + warmup) ** -p["alpha"] - p["B"] * total


def test_the_law_is_the_published_sum():
    rates = schedules()["cosine"][::50]
    many = multi_power_law(1200)
    table = drops(rates, pieces=1200, warmup_area=0.02)
    assert many(TRUTH, **table) == pytest.approx([published(rates, t, 0.02) for t in range(len(rates))], rel=1e-12)


def test_larger_published_models_end_lower_and_all_of_them_gain_what_their_drops_give():
    table = drops(schedules()["cosine"], [STEPS - 1], 60, 0.3)
    law, ends = multi_power_law(60), {}
    for size, p in PUBLISHED.items():
        held = table.assign(**{f"drop_{i}": 0.0 for i in range(60)})
        ends[size] = float(law(p, **table)[0])
        most = p["B"] * table.filter(like="drop_").to_numpy().sum()  # G is at most 1
        assert 0 < float(law(p, **held)[0]) - ends[size] < most
    assert ends["25M"] > ends["100M"] > ends["400M"]


def test_a_few_pieces_stand_for_thousands_of_steps():
    rates = schedules()["cosine"]
    at = np.arange(100, STEPS, 100)
    coarse, fine = (multi_power_law(n)(TRUTH, **drops(rates, at, n)) for n in (24, 600))
    assert coarse == pytest.approx(fine, rel=2e-4)


def test_a_schedule_that_was_not_fitted_is_predicted_better_than_by_the_annealing_law():
    at, law = np.arange(100, STEPS, 60), multi_power_law(12)
    noise = np.exp(1e-3 * np.random.default_rng(0).standard_normal(len(at)))
    curves = {name: drops(rates, at, 12).assign(loss=lambda t: law(TRUTH, **t)) for name, rates in schedules().items()}
    shown = ("cosine", "constant", "two_step")
    seen = pd.concat([curves[name].assign(loss=curves[name]["loss"] * noise) for name in shown])
    fitted = fit(law, seen)
    error = np.abs(law(fitted.params, **curves["wsd"].drop(columns="loss")) / curves["wsd"]["loss"] - 1).mean()
    old = {n: areas(rates).iloc[at].assign(loss=curves[n]["loss"].to_numpy()) for n, rates in schedules().items()}
    annealed = fit(ANNEALING, pd.concat([old[name] for name in shown]))
    line = ANNEALING(annealed.params, **old["wsd"].drop(columns="loss"))
    assert error < 1e-3 and error < np.abs(line / old["wsd"]["loss"] - 1).mean() / 1.7


def test_a_schedule_without_a_drop_gains_nothing_from_drops():
    table = drops(np.full(50, 1e-3), pieces=3)
    assert table[[f"drop_{i}" for i in range(3)]].to_numpy().max() == 0
    with pytest.raises(ValueError, match="learning_rates: not a sequence of positive numbers"):
        drops([1e-3, 0.0])
