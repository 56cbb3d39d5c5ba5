"""Hyper-parameter laws: judged by what their recommendation costs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scaling.laws.deepseek import CONSTANTS as DEEPSEEK
from scaling.laws.deepseek import DEEPSEEK_SCALE, DEEPSEEK_TOKENS, flops_per_token, near_optimal
from scaling.laws.step_law import CONSTANTS, STEP_BATCH, STEP_LEARNING_RATE, cell_optima, regret, step_law


def recommend(learning_rate, batch):
    return lambda params, tokens: (
        STEP_LEARNING_RATE(learning_rate, params_nonembed=params, tokens=tokens),
        STEP_BATCH(batch, tokens=tokens),
    )


def grids() -> pd.DataFrame:
    """Grids of factors of two around the optimum of the law at its documented constants, a paraboloid in each."""
    rows = []
    for params in (1e8, 3e8, 1e9):
        for tokens in (4e9, 2e10, 1e11):
            best = recommend(*CONSTANTS.values())(params, tokens)
            for i in range(-3, 4):
                for j in range(-3, 4):
                    lr, batch = best[0] * 2 ** (i + 0.3), best[1] * 2 ** (j - 0.2)
                    u, v = np.log(lr / best[0]), np.log(batch / best[1])
                    loss = 2.5 * (1 + 2e-3 * u * u + 1e-3 * u * v + 2e-3 * v * v)
                    rows.append((params, tokens, lr, batch, loss))
    return pd.DataFrame(rows, columns=["params_nonembed", "tokens", "learning_rate", "batch_tokens", "loss"])


def test_laws_come_back_from_cell_optima():
    learning_rate, batch, cells = step_law(grids())
    assert cells["used"].all()
    for fitted in (learning_rate, batch):
        for name, value in CONSTANTS[fitted.law.name].items():
            assert fitted.params[name] == pytest.approx(value, rel=1e-6)


def test_covariance_of_an_optimum_is_its_spread_over_noise():
    noise = 3e-4
    clean = grids().iloc[:49]
    optima = [
        cell_optima(
            clean.assign(
                loss=lambda t, s=s: t["loss"] * (1 + noise * np.random.default_rng(s).standard_normal(len(t)))
            ),
            near=1.0,
        ).iloc[0]
        for s in range(40)
    ]
    spread = np.std([np.log(one["learning_rate"]) for one in optima])
    assert np.mean([one["sd_learning_rate"] for one in optima]) == pytest.approx(spread, rel=0.35)


def test_cells_without_an_optimum_are_refused():
    edge = grids()[
        lambda t: (
            t["learning_rate"]
            > 2.2
            * STEP_LEARNING_RATE(
                CONSTANTS[STEP_LEARNING_RATE.name], params_nonembed=t["params_nonembed"], tokens=t["tokens"]
            )
        )
    ]
    cells = cell_optima(edge, near=1.0)
    assert not cells["used"].any() and (cells["reason"] == "off the grid").all()
    with pytest.raises(ValueError, match="0 of 9 cells"):
        step_law(edge, near=1.0)


def test_regret_of_the_truth_is_nothing_and_of_a_bad_rule_is_not():
    best, bad = recommend(*CONSTANTS.values()), lambda params, tokens: (1e-6, 1e3)
    assert regret(best, grids())["regret"].max() < 1e-12
    assert regret(bad, grids())["regret"].min() > 0.01


def test_regret_on_the_released_grids_is_near_the_published_rules(published):
    """The fitted rule costs about what the published one does, .1 % on average, though its exponents differ."""
    runs = published("steplaw_dense.csv").rename(columns={"N": "params_nonembed", "D": "tokens", "lr": "learning_rate"})
    runs = runs[runs["params_nonembed"] <= 4.3e8].assign(batch_tokens=2048 * runs["bs_seq"])
    learning_rate, batch, cells = step_law(runs, loss="smooth_loss")
    assert cells["used"].all() and len(cells) == 12
    ours = regret(recommend(learning_rate.params, batch.params), runs, loss="smooth_loss")["regret"]
    theirs = regret(recommend(*CONSTANTS.values()), runs, loss="smooth_loss")["regret"]
    assert ours.mean() < 1.1 * theirs.mean() < 0.0015
    assert ours.max() <= theirs.max()


def test_left_out_cells_are_served_as_well(published):
    runs = published("steplaw_dense.csv").rename(columns={"N": "params_nonembed", "D": "tokens", "lr": "learning_rate"})
    runs = runs[runs["params_nonembed"] <= 4.3e8].assign(batch_tokens=2048 * runs["bs_seq"])
    largest = runs["params_nonembed"] == runs["params_nonembed"].max()
    learning_rate, batch, _ = step_law(runs[~largest], loss="smooth_loss")
    held_out = regret(recommend(learning_rate.params, batch.params), runs[largest], loss="smooth_loss")["regret"]
    assert held_out.max() < 0.01


def test_deepseek_scale_times_tokens_is_the_budget():
    """The published constants are rounded to four digits, exponents that sum to one: 1e-3 over five decades."""
    flops = np.array([1e17, 1e20, 1e22])
    product = DEEPSEEK_SCALE(DEEPSEEK[DEEPSEEK_SCALE.name], flops=flops) * DEEPSEEK_TOKENS(
        DEEPSEEK[DEEPSEEK_TOKENS.name], flops=flops
    )
    assert product == pytest.approx(flops, rel=1e-3)
    assert flops_per_token(n_layers=2, d_model=10, seq_len=5) == 72 * 2 * 100 + 12 * 2 * 10 * 5


def test_near_optimal_runs_of_each_budget_are_kept():
    runs = pd.DataFrame({"flops": [1e18] * 3 + [1e19] * 2, "loss": [3.0, 3.005, 3.1, 2.0, 2.1]})
    assert near_optimal(runs).index.tolist() == [0, 1, 3]
