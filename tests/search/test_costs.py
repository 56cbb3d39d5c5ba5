"""Costs: eFLOPs at a device's own price, the ledger's at the same, keys read, verified attempts, and budgets saved."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.laws.generative_verifier import genrm_cost
from scaling.laws.imperfect_verifier import optimal_attempts, verified_ceiling
from search.ledger import Cost
from search.metrics import Samples, eflops, genrm_grid, intensity, outcomes, sample_efficiency, verified_curve
from search.metrics.cost import (
    amortised,
    attended,
    budget_to_reach,
    intensities,
    ledger_eflops,
    measured_intensity,
    queries_to_pay,
)
from search.metrics.verification import first_accepted
from tests.search import recorded


def test_eflops_of_the_published_device() -> None:
    document = recorded.vectors("kinetics_vectors.json")
    assert intensity("kinetics") == document["I_flops_per_byte"]
    for v in document["vectors"]:
        shape = (v["params"], v["layers"], v["heads"], v["kv_heads"], v["head_dim"], v["L_in"], v["L_out"], v["N"])
        cost = eflops(*shape)
        assert cost.flops / 1e12 == pytest.approx(v["compute_TFLOP"], abs=6e-7)
        assert cost.eflops / 1e12 == pytest.approx(v["eFLOPs_T"], abs=6e-7)
        assert intensity("kinetics") * cost.bytes / 1e12 == pytest.approx(v["memory_TFLOP_equiv"], abs=6e-7)
        here = eflops(*shape, device="TPU v5p")
        assert here.flops == cost.flops and here.eflops == here.flops + intensity("v5p") * here.bytes
        assert here.eflops < cost.eflops


def test_every_device_has_its_own_price_and_an_unknown_one_is_named() -> None:
    assert intensity("NVIDIA H200") == pytest.approx(989e12 / 4.8e12) == intensity("h200")
    assert intensity("TPU v5 lite") == intensity("v5e") and intensity("cpu") < 10 < min(
        value for name, value in intensities().items() if name != "cpu"
    )
    with pytest.raises(ValueError, match="device: 'h20' is not known: did you mean 'h200'"):
        intensity("h20")
    assert measured_intensity(size=256, values=2**20, repeats=2) > 0


def test_a_ledger_is_priced_like_a_generation() -> None:
    assert ledger_eflops(Cost(flops=1000, bytes=10), "kinetics") == 1000 + 562.5 * 10
    assert ledger_eflops(Cost(flops=1000, bytes=10), 2.0) == 1020


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 80))
def test_sparse_attention_reads_the_integral_of_what_each_token_may_see(prompt, generated, budget) -> None:
    points = prompt + (np.arange(20 * generated) + 0.5) / 20
    assert attended(prompt, generated, budget) == pytest.approx(np.minimum(budget, points).sum() / 20, abs=2e-2)
    assert attended(prompt, generated) == prompt * generated + generated**2 / 2
    if prompt <= budget <= prompt + generated:
        assert attended(prompt, generated, budget) == budget * generated - 0.5 * (budget - prompt) ** 2


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=7), st.integers(0, 100))
def test_the_first_accepted_is_the_mean_over_all_orders(pairs, seed: int) -> None:
    from itertools import permutations

    correct, accepted = np.array(pairs).T
    ks = range(1, len(pairs) + 1)
    right, wrong = first_accepted(correct, accepted, list(ks))
    for k in ks[:4]:
        firsts = [
            next((correct[i] for i in order if accepted[i]), None) for order in permutations(range(len(pairs)), k)
        ]
        assert right[k - 1] == pytest.approx(np.mean([first == 1 for first in firsts]), abs=1e-12)
        assert wrong[k - 1] == pytest.approx(np.mean([first == 0 for first in firsts]), abs=1e-12)


@pytest.fixture(scope="module")
def judged() -> tuple[Samples, np.ndarray]:
    """Problems of two kinds, and a verifier of completeness .9 and soundness .95."""
    rng = np.random.default_rng(0)
    rates = rng.choice([0.02, 0.3], 300)
    correct = rng.random((300, 256)) < rates[:, None]
    accepted = np.where(correct, rng.random((300, 256)) < 0.9, rng.random((300, 256)) < 0.05)
    return Samples.of(correct, accepted=accepted), rates


def test_a_false_positive_rate_puts_a_ceiling_on_accuracy_and_a_finite_best_number_of_attempts(judged) -> None:
    samples, rates = judged
    found = verified_curve(samples, penalty=1.0)
    assert found.rates.completeness == pytest.approx(0.9, abs=0.01)
    assert found.rates.soundness == pytest.approx(0.95, abs=0.005)
    ceiling = verified_ceiling(rates, 0.9, 0.95)
    last = found.table.iloc[-1]
    # the ceiling is reached by the recorded verdicts and predicted from the rates, both within a point
    assert last["accuracy"] == pytest.approx(ceiling, abs=0.01) and found.ceiling == pytest.approx(ceiling, abs=0.01)
    assert (found.table["predicted"] - found.table["accuracy"]).abs().max() < 0.005
    assert last["reward"] == pytest.approx(last["accuracy"] - last["false"])
    assert 1 < found.best_k < 256
    exact = optimal_attempts(rates, 0.9, 0.95, 1.0)
    assert exact / 1.5 < found.predicted_best_k < exact * 1.5 and exact / 2 < found.best_k < exact * 2


def test_verdicts_and_solutions_share_a_budget() -> None:
    rng = np.random.default_rng(0)
    correct = rng.random((60, 32)) < rng.beta(1, 2, (60, 1))
    verdicts = [np.where(rng.random((32, 8)) < np.where(row, 0.7, 0.3)[:, None], 1.0, 0.0) for row in correct]
    verdicts[0][0] = np.nan
    samples = Samples.of(correct, answers=np.where(correct, 0, rng.integers(1, 4, (60, 32))))
    grid = genrm_grid(samples, verdicts)
    at = grid.set_index(["solutions", "verifications"])["accuracy"]
    assert len(grid) == 6 * 5 and at[1, 1] == pytest.approx(correct.mean()) == at[1, 0]
    assert at[32, 8] > at[32, 1] > at[1, 1]  # more verdicts pick better, more solutions give more to pick from
    assert list(genrm_cost(grid["solutions"], grid["verifications"], 2.0)[:2]) == [1, 2]


def test_the_budget_for_an_accuracy_lies_between_two_measured_ones() -> None:
    budgets, accuracy = [1, 10, 100, 1000], [0.1, 0.3, 0.2, 0.5]
    assert budget_to_reach(budgets, accuracy, 0.2) == pytest.approx(10**0.5)
    assert budget_to_reach(budgets, accuracy, 0.3) == 10 and budget_to_reach(budgets, accuracy, 0.05) == 1
    assert budget_to_reach(budgets, accuracy, 0.4) == pytest.approx(10**2.5)  # the running maximum stays at .3
    assert budget_to_reach(budgets, accuracy, 0.6) == np.inf
    assert budget_to_reach(budgets[::-1], accuracy[::-1], 0.4) == pytest.approx(10**2.5)


def curves(shift: float, problems: int = 200, seed: int = 0) -> pd.DataFrame:
    """Two strategies, one of which needs `shift` times less; correct is drawn, the same problems for both."""
    rng = np.random.default_rng(seed)
    budgets, ease = 2.0 ** np.arange(10), rng.normal(0, 1, problems)
    rows = []
    for name, factor in (("best_of_n", 1.0), ("beam", shift)):
        rate = 1 / (1 + np.exp(-(ease[:, None] + 0.6 * np.log(budgets * factor) - 2)))
        correct = rng.random(rate.shape) < rate
        rows += [
            dict(problem=p, strategy=name, budget=b, correct=int(correct[p, j]))
            for p in range(problems)
            for j, b in enumerate(budgets)
        ]
    return pd.DataFrame(rows)


def test_sample_efficiency_finds_a_known_ratio_inside_its_interval() -> None:
    inside = 0
    for seed in range(10):
        found = sample_efficiency(curves(3.0, seed=seed), "beam", target=0.6, bootstrap=200)
        inside += found.interval.low <= 3.0 <= found.interval.high
        assert found.ratio == pytest.approx(found.baseline_budget / found.budget)
    assert inside >= 7
    usual = sample_efficiency(curves(3.0), "beam")
    assert usual.target == pytest.approx(outcomes(curves(3.0), "best_of_n").mean().max())
    never = sample_efficiency(curves(0.01), "beam", bootstrap=100)
    assert never.ratio == 0 and never.budget == np.inf and never.interval.low == 0
    with pytest.raises(ValueError, match="strategy: 'bean' has no rows: did you mean 'beam'"):
        sample_efficiency(curves(1.0, problems=5), "bean")


def test_a_budget_at_which_a_problem_is_missing_does_not_count() -> None:
    table = curves(1.0, problems=6)
    table = table[~((table["problem"] == 3) & (table["budget"] == 512) & (table["strategy"] == "beam"))]
    assert 512 not in outcomes(table, "beam").columns and 512 in outcomes(table, "best_of_n").columns


def test_tokens_spent_ahead_are_shared_by_the_queries_and_pay_where_both_ways_cost_the_same() -> None:
    assert amortised(60, 20, [1, 3, 60]).tolist() == [80, 40, 21]
    spent = [60 + 20 * queries for queries in range(1, 6)]  # ahead once, and 20 tokens of each query
    assert (amortised(60, 20, range(1, 6)) * range(1, 6)).tolist() == spent
    assert queries_to_pay(60, 20, 50) == 2 and spent[1] == 2 * 50
    assert queries_to_pay(60, 50, 50) == queries_to_pay(60, 51, 50) == float("inf")
