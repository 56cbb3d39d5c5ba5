"""Compute multipliers: planted ones come back, their intervals hold, and what cannot be compared is said."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from models.errors import ConfigError
from scaling.fitting.multiplier import compute_multipliers

TRUE = {"dense": 1.0, "better": 1.3, "worse": 0.8}
BUDGETS = (1e13, 2e13, 4e13, 8e13)


def sweep(seed: int = 0, noise: float = 0.003, exponent: dict[str, float] | None = None) -> pd.DataFrame:
    """IsoFLOP runs of architectures that use compute TRUE times as well, on one text."""
    rng, rows = np.random.default_rng(seed), []
    for name, factor in TRUE.items():
        for flops in BUDGETS:
            lowest = 1.4 + 60 * (factor * flops) ** -(exponent or {}).get(name, 0.12)
            for ratio in np.geomspace(0.4, 2.5, 5):
                size = 0.02 * flops**0.5 * ratio
                loss = (lowest + 0.05 * np.log(ratio) ** 2) * np.exp(noise * rng.standard_normal())
                rows.append(
                    {"architecture": name, "params": size, "tokens": flops / 6 / size, "flops": flops, "loss": loss}
                )
    return pd.DataFrame(rows)


def test_planted_multipliers_come_back_to_the_digit_without_noise():
    found = compute_multipliers(sweep(noise=1e-7), baseline="dense", resamples=50)
    assert found.floor == "shared" and found.flops == pytest.approx(8e13)
    for name, factor in TRUE.items():
        assert found.table.multiplier[name] == pytest.approx(factor, rel=2e-3)
    assert found.table.floor["dense"] == pytest.approx(1.4, rel=0.01)
    assert "8e+13 FLOP" in found.summary() and "better" in found.summary()


def test_the_multiplier_grows_with_compute_where_the_exponent_is_better():
    runs = sweep(noise=1e-7, exponent={"better": 0.125})
    at = [
        compute_multipliers(runs, baseline="dense", flops=c, resamples=20).table.multiplier["better"]
        for c in (1e13, 8e13)
    ]
    want = [(1.3 * c) ** (0.125 / 0.12) / c for c in (1e13, 8e13)]
    assert at == pytest.approx(want, rel=0.01)


def test_nominal_90_percent_intervals_of_noisy_sweeps_hold_the_truth():
    """24 sweeps x 2 architectures: a share of 90 % has a standard error of 4 to 6 %."""
    held = []
    for seed in range(24):
        table = compute_multipliers(sweep(seed), baseline="dense", resamples=100).table
        held += [table.low[name] <= TRUE[name] <= table.high[name] for name in ("better", "worse")]
    assert 0.78 <= np.mean(held) <= 0.99


def test_a_loss_below_the_floor_of_the_baseline_has_no_multiplier():
    runs = sweep(noise=1e-7)
    runs.loc[runs["architecture"] == "better", "loss"] -= 1.3
    found = compute_multipliers(runs, baseline="dense", floor="own", resamples=20)
    assert np.isinf(found.table.multiplier["better"])


def test_a_budget_without_a_minimum_is_named_and_too_few_are_refused():
    runs = sweep()
    edge = (runs["architecture"] == "worse") & (runs["flops"] == 1e13)
    runs.loc[edge, "loss"] = np.linspace(4, 3, 5) + 0.1 * np.linspace(-1, 1, 5) ** 2
    found = compute_multipliers(runs, baseline="dense", resamples=20)
    assert found.table.budgets["worse"] == "3 of 4" and found.floor == "shared" and not found.errors
    assert "! worse at 1e+13 FLOP: the minimum is on the edge of the sizes" in found.summary()
    few = runs[(runs["architecture"] != "worse") | (runs["flops"] > 2e13)]
    with pytest.raises(ConfigError, match="worse has 2 budgets with a minimum, and 3 are needed"):
        compute_multipliers(few, baseline="dense")
    with pytest.raises(ConfigError, match="baseline: is 'mlp'"):
        compute_multipliers(runs, baseline="mlp")
