"""The joint plan of training and test-time compute equals a scan over sizes, samples and strategies."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import scaling
from scaling.laws.testtime import TEST_TIME
from search.frontier import Option, joint_plan

LOSS = dict(A=400.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36)
MOST = 200  # samples, to keep the scan short
VOTE = dict(c=3.0, L0=2.2, f=0.5, b=0.9)
COVER = dict(c=3.0, L0=2.1, f=0.0, b=0.3)


def accuracy_fit(truth: dict, noise: float = 0.0) -> scaling.Fit:
    rng = np.random.default_rng(1)
    loss, samples = np.repeat(np.linspace(2.0, 3.0, 8), 9), np.tile(2.0 ** np.arange(9), 8)
    values = TEST_TIME(truth, loss=loss, samples=samples) + noise * rng.standard_normal(len(loss))
    return scaling.fit("test_time", pd.DataFrame(dict(loss=loss, samples=samples, accuracy=np.clip(values, 0, 1))))


@pytest.fixture(scope="module")
def training() -> scaling.Fit:
    rng = np.random.default_rng(0)
    params, tokens = np.exp(rng.uniform(17, 23, 60)), np.exp(rng.uniform(20, 26, 60))
    loss = scaling.laws.CHINCHILLA(LOSS, params=params, tokens=tokens) * np.exp(0.002 * rng.standard_normal(60))
    return scaling.fit("chinchilla", dict(params=params, tokens=tokens, loss=loss), bootstrap=50)


@pytest.fixture(scope="module")
def options() -> list[Option]:
    return [Option("vote", accuracy_fit(VOTE), 400), Option("search", accuracy_fit(COVER), 400, verifier_flops=2e11)]


def predicted(training: scaling.Fit, option: Option, params, tokens, samples) -> np.ndarray:
    loss = training.law(training.params, params=params, tokens=tokens)
    return option.accuracy.law(option.accuracy.params, loss=loss, samples=samples)


def scan(training, options, problems, flops=None, train_flops=None, inference_flops=None) -> tuple[float, str]:
    """The best accuracy over a dense grid of sizes for every strategy and number of samples."""
    best = (-1.0, "")
    grid = np.exp(np.linspace(np.log(1e6), np.log(1e12), 1500))
    for option in options:
        for samples in range(1, MOST + 1):
            sizes = grid
            if inference_flops is not None:  # the largest that can be served is a candidate of its own
                largest = (
                    (inference_flops / (samples * problems) - option.verifier_flops) / option.tokens_per_sample / 2
                )
                sizes = np.append(grid, largest * (1 - 1e-12)) if largest > 0 else grid
            cost = samples * problems * (2 * sizes * option.tokens_per_sample + option.verifier_flops)
            if flops is not None:
                tokens = (flops - cost) / (6 * sizes)
            else:
                tokens = np.where(cost <= inference_flops, train_flops / (6 * sizes), 0.0)
            paid = tokens > 1
            if paid.any():
                value = predicted(training, option, sizes[paid], tokens[paid], float(samples)).max()
                best = max(best, (float(value), option.name))
    return best


@pytest.mark.parametrize(("flops", "problems"), [(1e21, 1e4), (1e21, 1e7), (1e20, 1e6)])
def test_one_budget_for_both_is_split_as_a_scan_would(training, options, flops: float, problems: float) -> None:
    found = joint_plan(training, options, flops=flops, problems=problems, max_samples=MOST)
    value, strategy = scan(training, options, problems, flops=flops)
    assert found.accuracy >= value - 1e-7 and found.accuracy == pytest.approx(value, abs=2e-5)
    assert found.strategy == strategy
    assert found.train_flops + found.inference_flops == pytest.approx(flops, rel=1e-9)
    assert found.accuracy == pytest.approx(
        float(predicted(training, next(o for o in options if o.name == strategy), found.params, found.tokens,
                        float(found.samples))), rel=1e-12)  # fmt: skip


@pytest.mark.parametrize("inference_flops", [1e18, 1e19, 1e20])
def test_two_budgets_are_each_kept(training, options, inference_flops: float) -> None:
    found = joint_plan(
        training, options, train_flops=1e21, inference_flops=inference_flops, problems=1e5, max_samples=MOST
    )
    value, strategy = scan(training, options, 1e5, train_flops=1e21, inference_flops=inference_flops)
    assert found.strategy == strategy and found.accuracy == pytest.approx(value, abs=2e-5)
    assert found.train_flops == pytest.approx(1e21) and found.inference_flops <= inference_flops * (1 + 1e-9)


def test_cheap_serving_buys_samples_and_dear_serving_a_small_model(training, options) -> None:
    few, many = (joint_plan(training, options, flops=1e21, problems=p) for p in (1e3, 1e8))
    assert few.samples > many.samples and few.params > many.params and few.accuracy > many.accuracy
    assert few.train_flops > many.train_flops
    alone = scaling.plan(training, flops=1e21)
    assert few.params == pytest.approx(alone.params, rel=0.05)


def test_tokens_to_serve_fix_the_samples(training, options) -> None:
    found = joint_plan(training, options, flops=1e21, inference_tokens=4e10, problems=1e6)
    assert found.samples == 100 and set(found.table["samples"]) == {100}
    served = scaling.plan(training, flops=1e21, inference_tokens=4e10)
    vote = found.table.set_index("strategy").loc["vote"]
    assert [vote["params"], vote["tokens"]] == pytest.approx([served.params, served.tokens], rel=1e-9)


def test_the_table_compares_strategies_and_one_sample(training, options) -> None:
    found = joint_plan(training, options, flops=1e21, problems=1e5)
    rows = found.table.set_index("strategy")
    assert set(rows.index) == {"vote", "search", f"{found.strategy}, 1 sample"}
    assert rows["accuracy"].iloc[0] == found.accuracy >= rows["accuracy"].max()
    shown = found.summary()
    assert f"{found.strategy}, {found.samples} samples per problem" in shown and "1 sample" in shown


def test_intervals_hold_the_truth(training) -> None:
    option = Option("vote", accuracy_fit(VOTE, noise=0.01), 400)
    found = joint_plan(training, [option], flops=1e21, problems=1e5)
    loss = float(scaling.laws.CHINCHILLA(LOSS, params=found.params, tokens=found.tokens))
    truth = float(TEST_TIME(VOTE, loss=loss, samples=float(found.samples)))
    low, high = found.intervals["accuracy"]
    assert low < truth < high and 0.02 < high - low < 0.2
    assert found.intervals["loss"].low < loss < found.intervals["loss"].high


def test_a_plan_outside_what_was_measured_says_so(training, options) -> None:
    assert any("outside the 2 to 3" in w for w in joint_plan(training, options, flops=1e25).warnings)
    far = joint_plan(training, options[1:], flops=1e21, problems=10)
    assert far.samples == 16 * 256 and any("more than 4096 samples were not considered" in w for w in far.warnings)
    near = joint_plan(training, options[1:], flops=1e21, problems=10, max_samples=512)
    assert near.samples == 512


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(), "budget: is given as nothing: give flops"),
        (dict(flops=1e21, train_flops=1e20), "budget: is given as flops, train_flops"),
        (dict(train_flops=1e20), "budget: is given as train_flops"),
        (dict(flops=-1.0), "flops: -1.0 is not a positive number"),
        (dict(flops=1e21, problems=np.nan), "problems: nan is not a positive number"),
        (dict(flops=1e15, problems=1e13), "budget: does not pay for one sample per problem"),
        (dict(flops=1e21, inference_tokens=10.0), "budget: does not pay for one sample per problem"),
        (dict(train_flops=1e21, inference_flops=1.0), "budget: does not pay for one sample per problem"),
    ],
)
def test_budgets_that_cannot_be_are_named(training, options, given: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        joint_plan(training, options, **given)


def test_laws_that_cannot_be_chained_are_named(training, options) -> None:
    k = 2.0 ** np.arange(6)
    blind = scaling.fit("coverage_power", dict(samples=k, coverage=np.exp(-2 * k**-0.4)))
    with pytest.raises(ValueError, match="coverage_power says nothing about the model"):
        joint_plan(training, [Option("coverage", blind, 100)], flops=1e21)
    cost = scaling.fit("cost_accuracy", dict(cost=1e3 * k, accuracy=0.8 - 5 * (1e3 * k) ** -0.5))
    with pytest.raises(ValueError, match="accuracy law of x: cost_accuracy needs cost"):
        joint_plan(training, [Option("x", cost, 100)], flops=1e21)
    with pytest.raises(ValueError, match="training: the law test_time has no input 'params'"):
        joint_plan(options[0].accuracy, options, flops=1e21)
    with pytest.raises(ValueError, match=r"vote.tokens_per_sample: is 0"):
        Option("vote", options[0].accuracy, 0)
