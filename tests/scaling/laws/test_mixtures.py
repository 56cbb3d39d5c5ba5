"""Mixtures of domains, of experts and of bits: the identities each law must keep."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scaling.laws import fit
from scaling.laws.mixtures import best_mixture, mixture_law
from scaling.laws.moe import CONSTANTS as MOE
from scaling.laws.moe import FINE_GRAINED, ROUTED
from scaling.laws.precision import CONSTANTS as PRECISION_AT
from scaling.laws.precision import DEGRADATION, PRECISION
from scaling.laws.sparse import CONSTANTS as SPARSE
from scaling.laws.sparse import SPARSE_WEIGHTS

DOMAINS = ("web", "code", "books")


def mixtures(slopes, floor, scale, seed=0):
    shares = np.random.default_rng(seed).dirichlet(np.ones(3), 12)
    table = pd.DataFrame(shares, columns=list(DOMAINS))
    return table.assign(loss=floor + scale * np.exp(shares @ np.array([*slopes, 0.0])))


def test_best_mixture_is_the_minimum_over_the_simplex():
    fits = [
        fit(mixture_law(DOMAINS), mixtures(*truth))
        for truth in (((-2.0, 0.5), 1.5, 1.0), ((0.7, -1.5), 1.2, 0.8), ((1.0, 1.2), 1.0, 0.6))
    ]
    best = best_mixture(fits, weights=[1.0, 2.0, 1.0])
    assert sum(best.values()) == pytest.approx(1, abs=1e-9)

    def total(shares):
        return sum(
            w * one.law(one.params, **dict(zip(DOMAINS, shares.T, strict=True)))
            for w, one in zip([1, 2, 1], fits, strict=True)
        )

    grid = np.array([(i, j, 100 - i - j) for i in range(101) for j in range(101 - i)]) / 100
    values = total(grid)
    assert total(np.array([list(best.values())]))[0] <= values.min() + 1e-9
    assert list(best.values()) == pytest.approx(grid[np.argmin(values)], abs=0.02)


def test_a_simplex_determines_the_mixing_law_up_to_its_reference():
    fitted = fit(mixture_law(DOMAINS), mixtures((-2.0, 0.5), 1.5, 1.0))
    assert [fitted.params.t_web, fitted.params.t_code, fitted.params.k] == pytest.approx([-2.0, 0.5, 1.0], rel=1e-6)
    assert not fitted.certificate.not_identified
    with pytest.raises(ValueError, match="two or more different columns"):
        mixture_law(["web", "web"])


def test_expert_benefit_saturates_and_one_expert_is_dense():
    p = MOE[ROUTED.name]
    start = 1 / (1 / p["spread"] + 1 / p["E_max"])
    assert start == pytest.approx(1.847, rel=1e-12)
    n, e = np.log10(1e9), np.log10(start)
    dense = 10 ** (p["a"] * n + p["b"] * e + p["c"] * n * e + p["d"])
    assert ROUTED(p, params=1e9, experts=1) == pytest.approx(dense, rel=1e-12)
    many = ROUTED(p, params=1e8, experts=np.array([1.0, 64, 512, 1e7, 1e9]))
    assert np.all(np.diff(many) < 0) and many[-1] == pytest.approx(many[-2], rel=1e-5)


def test_finer_experts_lower_the_loss_towards_a_limit():
    p = MOE[FINE_GRAINED.name]
    losses = FINE_GRAINED(p, params=1e9, tokens=2e10, granularity=np.array([1.0, 4, 16, 1e12]))
    assert np.all(np.diff(losses) < 0)
    assert losses[-1] == pytest.approx(p["c"] + p["a"] * 1e9 ** -p["alpha"] + p["b"] * 2e10 ** -p["beta"], rel=1e-6)


def test_no_sparsity_is_a_dense_power_law():
    p = SPARSE[SPARSE_WEIGHTS.name]
    dense = (p["a_S"] + p["c_S"]) * 1e8 ** -p["b_N"] + (p["a_D"] / 1e10) ** p["b_D"] + p["c"]
    assert SPARSE_WEIGHTS(p, params=1e8, tokens=1e10, sparsity=0.0) == pytest.approx(dense, rel=1e-12)


def test_full_precision_costs_nothing_and_few_bits_cost_parameters():
    p = PRECISION_AT[PRECISION.name]
    full = p["E"] + p["A"] * 1e9 ** -p["alpha"] + p["B"] * 1e10 ** -p["beta"]
    bits = dict(activation_bits=200, cache_bits=200)
    assert PRECISION(p, params=1e9, tokens=1e10, weight_bits=200, **bits) == pytest.approx(full, rel=1e-12)
    fewer = 1e9 * (1 - np.exp(-4 / p["gamma_w"]))
    assert PRECISION(p, params=1e9, tokens=1e10, weight_bits=4, **bits) == pytest.approx(
        p["E"] + p["A"] * fewer ** -p["alpha"] + p["B"] * 1e10 ** -p["beta"], rel=1e-12
    )


def test_overtrained_small_models_suffer_most_from_quantisation():
    p = PRECISION_AT[DEGRADATION.name]
    losses = DEGRADATION(p, params=np.array([1e8, 1e8, 1e9]), tokens=np.array([1e11, 1e10, 1e10]), post_bits=4)
    assert losses[0] > losses[1] > losses[2] > 0
