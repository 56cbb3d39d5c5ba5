"""Plans against brute force: a dense scan of every size at the same cost, a bisection of the budget for a loss."""

from __future__ import annotations

import numpy as np
import pytest

from scaling.laws import CHINCHILLA, fit, plan
from scaling.laws.chinchilla import optimal_params


@pytest.fixture
def fitted(synthetic):
    return fit(CHINCHILLA, synthetic(), bootstrap=60, seed=1)


def scan(params, flops, inference_tokens=0.0, cost_per_token=6.0):
    """Best (N, D, loss) over 400,001 sizes at a fixed cost of training and serving."""
    sizes = np.geomspace(1e5, 1e13, 400_001)
    tokens = (flops - 2 * sizes * inference_tokens) / (cost_per_token * sizes)
    loss = np.where(tokens > 0, CHINCHILLA(params, params=sizes, tokens=np.maximum(tokens, 1.0)), np.inf)
    best = int(np.argmin(loss))
    return sizes[best], tokens[best], loss[best]


@pytest.mark.parametrize("flops", [1e20, 1e23, 5.76e23])
@pytest.mark.parametrize("inference_tokens", [0.0, 1e11, 1e13])
def test_the_best_size_is_that_of_a_dense_scan(fitted, flops, inference_tokens):
    best = plan(fitted, flops=flops, inference_tokens=inference_tokens)
    params, tokens, loss = scan(fitted.params, flops, inference_tokens)
    assert [best.params, best.tokens] == pytest.approx([params, tokens], rel=1e-3)
    assert best.loss <= loss * (1 + 1e-12)


def test_the_cheapest_budget_for_a_loss_is_that_of_a_bisection(fitted):
    low, high = 1e18, 1e26
    for _ in range(60):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if scan(fitted.params, middle, 1e12)[2] > 2.2 else (low, middle)
    assert plan(fitted, loss=2.2, inference_tokens=1e12).flops == pytest.approx(high, rel=1e-4)


def test_intervals_are_the_quantiles_of_every_resample_planned_alone(fitted):
    best = plan(fitted, flops=1e22, interval=0.8)
    largest = float((fitted.table.inputs["params"] * fitted.table.inputs["tokens"]).max())
    assert best.reach == pytest.approx(1e22 / 6 / largest)
    assert ("extrapolated" in best.summary()) == (best.reach > 1)
    alone = [optimal_params(draw, 1e22) for _, draw in fitted.samples.iterrows()]
    assert list(best.intervals.params) == pytest.approx(list(np.quantile(alone, [0.1, 0.9])), rel=1e-4)
    target = plan(fitted, loss=2.2, interval=0.8)
    low, high = target.intervals.flops
    assert low < target.flops < high
