"""Laws about the best of what was tried: capacity, density over time, budgets and cost frontiers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

from scaling.fitting.quantile import quantile_regression, records
from scaling.laws import fit
from scaling.laws.densing import LOSS_OF_SIZE, densing_frontier, effective_params
from scaling.laws.downstream import TASK_SIGMOID
from scaling.laws.generative_verifier import genrm_cost, genrm_frontier
from scaling.laws.kinetics import best_at, cost_frontier, decoding_cost
from scaling.laws.knowledge_capacity import bits_learned, capacity_frontier
from scaling.laws.retrieval import RETRIEVAL, allocate, retrieval_law
from scaling.laws.rl_compute import RL_COMPUTE
from scaling.laws.saturation import SATURATION, saturation_point


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_quantile_regression_minimises_the_pinball_loss(quantile):
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.uniform(0, 10, 60), np.ones(60)])
    y, w = 2 * x[:, 0] + 1 + rng.gumbel(size=60), rng.uniform(0.5, 2, 60)

    def pinball(b):
        r = y - x @ b
        return np.sum(w * np.where(r > 0, quantile * r, (quantile - 1) * r))

    found = quantile_regression(x, y, quantile, w)
    rough = min(
        (
            minimize(pinball, start, method="Nelder-Mead", options=dict(xatol=1e-9, fatol=1e-12, maxiter=9999))
            for start in ([2, 1], [1, 3], found)
        ),
        key=lambda r: r.fun,
    )
    assert pinball(found) <= rough.fun * (1 + 1e-9)
    # in a column of other units the line is the same
    assert quantile_regression(x * [1e9, 1], y, quantile, w) == pytest.approx(found / [1e9, 1], rel=1e-6)


def test_records_are_the_running_maximum_in_time():
    assert list(records([3, 1, 2, 4, 5], [1.0, 0.5, 2.0, 1.5, 3.0])) == [1, 2, 4]
    assert list(records([1, 1, 2], [1.0, 2.0, 2.0])) == [1]


def capacity_runs(seed=0):
    """Models that store up to 2 bits per parameter, most of them less; the largest know all there is."""
    rng = np.random.default_rng(seed)
    params = np.repeat(np.geomspace(1e5, 3e7, 9), 6)
    data = np.full(len(params), 2e7)
    reached = np.where(
        rng.random(len(params)) < 0.4, rng.uniform(0.97, 1.0, len(params)), rng.uniform(0.3, 1.0, len(params))
    )
    return pd.DataFrame(dict(params=params, data_bits=data, bits=np.minimum(2 * params * reached, 0.99 * data)))


def test_capacity_is_the_frontier_and_not_the_mean():
    runs = capacity_runs()
    found = capacity_frontier(runs)
    assert pytest.approx(2.0, rel=0.03) == found.R
    assert found.low <= found.R <= found.high
    assert found.limited < len(runs)
    limited = runs[runs["bits"] < 0.95 * runs["data_bits"]]
    assert (limited["bits"] / limited["params"]).mean() < 1.75
    with pytest.raises(ValueError, match="capacity is not reached"):
        capacity_frontier(runs.assign(bits=runs["data_bits"]))


def test_bits_learned_are_the_prior_minus_the_loss():
    assert bits_learned([10.0, 10.0, 3.0], np.log(2) * np.array([0.0, 4.0, 5.0])) == pytest.approx([10, 6, 0])


def test_density_doubles_as_in_the_world_it_was_drawn_from():
    rng = np.random.default_rng(4)
    time = np.sort(rng.uniform(0, 24, 150))
    best = np.exp(np.log(2) / 3.3 * time - 2)
    runs = pd.DataFrame(dict(time=time, density=best * np.exp(-rng.exponential(0.8, len(time)))))
    found = densing_frontier(runs.sample(frac=1, random_state=0))
    assert found.doubling == pytest.approx(3.3, rel=0.1)
    assert found.low < 3.3 < found.high
    moved = densing_frontier(runs.assign(time=runs["time"] + 1000))
    assert moved.doubling == pytest.approx(found.doubling, rel=1e-6)
    with pytest.raises(ValueError, match="models set a record"):
        densing_frontier(dict(time=[0.0, 1, 2], density=[3.0, 2, 1]))


def test_effective_size_of_a_reference_model_is_its_own():
    rng = np.random.default_rng(0)
    params, tokens = np.exp(rng.uniform(16, 24, 30)), np.exp(rng.uniform(23, 27, 30))
    law = dict(a=30.0, alpha=0.08, beta=0.05)
    loss = LOSS_OF_SIZE(law, params=params, tokens=tokens)
    accuracy = TASK_SIGMOID(dict(a=-0.7, x0=1.5, k=3.0, b=0.95), bpb=loss)
    first = fit(LOSS_OF_SIZE, dict(params=params, tokens=tokens, loss=loss))
    second = fit(TASK_SIGMOID, dict(bpb=loss, accuracy=accuracy))
    at = TASK_SIGMOID(second.params, bpb=LOSS_OF_SIZE(law, params=3e9, tokens=1e12))
    assert effective_params(at, first, second, tokens=1e12) == pytest.approx(3e9, rel=1e-5)
    assert np.isnan(effective_params(0.99, first, second, tokens=1e12))


def test_genrm_budget_exponents_are_recovered_and_edges_rejected():
    solutions, verdicts = (2.0 ** grid.ravel() for grid in np.meshgrid(np.arange(0, 10, 0.5), np.arange(0, 10, 0.5)))
    cost = genrm_cost(solutions, verdicts, 1.0)
    # at every cost the accuracy is best where S = 1.2 C^.57
    accuracy = 0.5 + 0.03 * np.log(cost) - 0.01 * (np.log(solutions) - np.log(1.2) - 0.57 * np.log(cost)) ** 2
    found = genrm_frontier(dict(solutions=solutions, verifications=verdicts, accuracy=accuracy), 1.0)
    assert found.solutions.params.a == pytest.approx(0.57, abs=0.05)
    assert found.verifications.params.a == pytest.approx(0.43, abs=0.06)
    assert (~found.table["used"]).any() and found.table["used"].sum() >= 6
    assert set(found.table["reason"][found.table["used"]]) == {""}
    with pytest.raises(ValueError, match="have a best split inside the grid"):
        genrm_frontier(dict(solutions=solutions, verifications=verdicts, accuracy=-solutions), 1.0)


def test_cost_frontier_holds_no_row_that_another_beats():
    rng = np.random.default_rng(1)
    runs = pd.DataFrame(dict(eflops=np.exp(rng.uniform(0, 5, 200)), accuracy=rng.random(200)))
    frontier = cost_frontier(runs)
    for row in runs.itertuples():
        beaten = ((runs.eflops <= row.eflops) & (runs.accuracy >= row.accuracy)).sum() > 1
        assert (row.Index in frontier.index) != beaten
    budgets = [0.5, 10.0, 200.0]
    chosen = best_at(runs, budgets)
    assert list(chosen["budget"]) == [10.0, 200.0]
    assert list(chosen["accuracy"]) == [runs[runs.eflops <= b].accuracy.max() for b in budgets[1:]]


def test_reading_the_cache_dominates_long_generations():
    long = decoding_cost(4e9, 36, 32, 8, 128, prompt=512, generated=16384)
    assert long.bytes * 562.5 / long.eflops > 0.94
    shared = decoding_cost(4e9, 36, 32, 8, 128, prompt=4096, generated=256, samples=16)
    alone = decoding_cost(4e9, 36, 32, 8, 128, prompt=4096, generated=256)
    assert shared.flops == pytest.approx(16 * alone.flops) and shared.bytes < 16 * alone.bytes


def test_retrieval_allocation_picks_the_best_affordable_setting():
    rng = np.random.default_rng(2)
    grid = np.array([(d, s, t) for d in (1, 5, 20, 100) for s in (1, 4, 16) for t in (1, 2, 5)], float)
    table = pd.DataFrame(grid, columns=["documents", "shots", "iterations"]).assign(
        i_documents=0.3, i_shots=0.1, i_iterations=0.0
    )
    truth = dict(a_documents=0.3, a_shots=0.1, a_iterations=0.2, b_documents=0.0, b_shots=0.0, b_iterations=0.0, c=-1.5)
    exact = RETRIEVAL(truth, **table)
    noisy = 1 / (1 + np.exp(-(np.log(exact / (1 - exact)) + 0.05 * rng.standard_normal(len(exact)))))
    fitted = fit(RETRIEVAL, table.assign(accuracy=noisy), fixed=dict(b_documents=0.0, b_shots=0.0, b_iterations=0.0))
    cost = (table["documents"] * 100 + table["shots"] * 400) * table["iterations"]
    choice = allocate(fitted, table, cost, 5000, measured=exact)
    assert cost[choice.row] <= 5000 and 0 <= choice.regret < 0.02
    with pytest.raises(ValueError, match="below the cheapest"):
        allocate(fitted, table, cost, 10)


def test_one_task_does_not_determine_the_effect_of_informativeness():
    rng = np.random.default_rng(3)
    table = {axis: rng.choice([1.0, 4, 16], 40) for axis in ("documents", "shots", "iterations")}
    table |= dict(i_documents=np.full(40, 0.3), i_shots=np.full(40, 0.1), i_iterations=np.zeros(40))
    truth = dict(a_documents=0.3, a_shots=0.1, a_iterations=0.2, b_documents=0.5, b_shots=0.5, b_iterations=0.0, c=-1.5)
    certificate = fit(RETRIEVAL, {**table, "accuracy": RETRIEVAL(truth, **table)}).certificate
    assert {"b_documents", "b_iterations"} <= set(certificate.not_identified)
    assert not certificate.supports_interval


def test_retrieval_with_an_offset_accepts_zero_shots():
    law = retrieval_law(offset=1.0)
    inputs = dict(documents=5.0, shots=0.0, iterations=1.0, i_documents=0.3, i_shots=0.1, i_iterations=0.0)
    assert np.isfinite(law(dict.fromkeys(law.parameters, 0.1), **inputs))


def test_saturation_fit_predicts_where_samples_stop_paying():
    rng = np.random.default_rng(5)
    samples, trials = np.array([1, 2, 4, 8, 16, 32]), 4000
    hits = rng.binomial(trials, SATURATION(dict(Fmax=0.8, p=0.15), samples=samples))
    p = fit(
        SATURATION,
        dict(samples=samples, accuracy=hits / trials, n=np.full(6, trials)),
        objective="binomial",
        trials="n",
    ).params
    assert abs(saturation_point(p.Fmax, p.p, 0.005) - saturation_point(0.8, 0.15, 0.005)) <= 2
    assert saturation_point(0.8, 0.001, 0.5) == 0
    with pytest.raises(ValueError, match="0 < p < 1"):
        saturation_point(0.8, 1.0, 0.01)


def test_a_reward_curve_that_has_not_bent_is_not_given_an_asymptote():
    flops = np.geomspace(1e18, 1e20, 12)
    truth = dict(A=0.9, R0=0.2, Cmid=1e23, B=1.0)
    noise = 0.002 * np.random.default_rng(0).standard_normal(12)
    early = fit(RL_COMPUTE, dict(flops=flops, reward=RL_COMPUTE(truth, flops=flops) + noise))
    assert not early.certificate.ok
    later = np.geomspace(1e20, 1e26, 24)
    noise = 0.002 * np.random.default_rng(0).standard_normal(24)
    late = fit(RL_COMPUTE, dict(flops=later, reward=RL_COMPUTE(truth, flops=later) + noise))
    assert pytest.approx(0.9, abs=0.01) == late.params.A and late.certificate.ok
