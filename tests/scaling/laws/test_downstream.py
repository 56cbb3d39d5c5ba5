"""Task scores from loss, on published runs and as a chain of two steps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scaling.fitting.two_step import TwoStep, TwoStepFit, trailing_mean
from scaling.laws import CHINCHILLA, fit
from scaling.laws.downstream import GADRE_ERROR, TASK_SIGMOID

# bpb of the first step, accuracy of the chain, for 13B parameters and 5T tokens
OLMO_13B = {"mmlu_avg_test_5shot": (0.750156, 0.51268), "hellaswag_val_5shot": (0.653177, 0.853036)}


@pytest.fixture
def ladder(published):
    """ladder(task) -> (ends of the training runs, their checkpoints, the 7B and 13B targets)."""
    ends = published("olmo_ladder_step1.csv").rename(
        columns=dict(N="params", D="tokens", bpb_last5="bpb", acc_last5="accuracy")
    )
    points = published("olmo_ladder_step2.csv").rename(columns=dict(D="tokens", acc="accuracy"))

    def select(task):
        ours, train = ends[ends["task"] == task], points[(points["task"] == task) & (points["mode"] == "train")]
        return ours[ours["mode"] == "train"], train, ours[ours["mode"] == "eval"]

    return select


@pytest.mark.parametrize("task", list(OLMO_13B))
def test_olmo_ladder_reference_numbers(ladder, task):
    ends, points, targets = ladder(task)
    fitted = TwoStep().fit(ends, points, bootstrap=0)
    target = targets[targets["size"] == "13B-5T"].iloc[0]
    bpb, accuracy = OLMO_13B[task]
    where = dict(params=target["params"], tokens=target["tokens"])
    assert fitted.first.law(fitted.first.params, **where) == pytest.approx(bpb, abs=6e-7)
    assert fitted.predict(**where).mean == pytest.approx(accuracy, abs=6e-7)


@pytest.mark.slow
@pytest.mark.parametrize("task", list(OLMO_13B))
def test_olmo_ladder_intervals_hold_the_large_runs(ladder, task):
    ends, points, targets = ladder(task)
    fitted = TwoStep().fit(ends, points, bootstrap=60)
    band = fitted.predict(params=targets["params"].to_numpy(), tokens=targets["tokens"].to_numpy())
    measured = targets["accuracy"].to_numpy()
    assert np.all((band.low < measured) & (measured < band.high))
    assert np.all(band.high - band.low < 0.2)


# published as .850 - 2.08 exp(-.756 L) and .865 - 2.21 exp(-.707 L), from six runs: M = 20, or .011B at M = 320
@pytest.mark.parametrize(
    ("train_set", "expected"), [("c4_original", (0.850, 2.08, 0.756)), ("rw_original", (0.865, 2.21, 0.707))]
)
def test_gadre_error_law_reproduces_the_published_fit(published, train_set, expected):
    runs = published("gadre104.csv")
    runs = runs[runs["train_set"] == train_set]
    near = (runs["tok_mult"] - 20).abs() < 1
    small = (runs["N"] < 0.012e9) & ((runs["tok_mult"] - 320).abs() < 1)
    six = runs[(near & ((runs["N"] < 0.42e9) | runs["N"].between(1e9, 2e9))) | small]
    assert len(six) == 6
    fitted = fit(GADRE_ERROR, six, columns=dict(loss="loss_c4_val", top1_error="err_avg17"))
    assert [fitted.params[name] for name in ("eps", "k", "gamma")] == pytest.approx(expected, abs=5.1e-3, rel=1e-3)
    assert "eps" not in fitted.certificate.active_bounds


TRUTH = dict(A=40.0, B=100.0, E=0.45, alpha=0.25, beta=0.27)
SCORE = dict(a=-0.7, x0=0.7, k=5.0, b=0.97)


def chain(noise: float = 0.0, seed: int = 0):
    """Ends and checkpoints of 20 synthetic runs that follow the chain, and a function giving its true score."""
    rng, rows = np.random.default_rng(seed), []
    for run, (params, ratio) in enumerate((n, r) for n in np.geomspace(1e8, 1e9, 5) for r in (20, 40, 100, 200)):
        for tokens in np.linspace(0.1, 1.0, 12) * params * ratio:
            bpb = float(CHINCHILLA(TRUTH, params=params, tokens=tokens) * np.exp(noise * rng.standard_normal()))
            accuracy = float(TASK_SIGMOID(SCORE, bpb=bpb)) + noise * rng.standard_normal()
            rows.append(dict(run=f"run{run}", params=params, tokens=tokens, bpb=bpb, accuracy=accuracy))
    points = pd.DataFrame(rows)
    return points.groupby("run", sort=False).tail(1), points


def true_score(params, tokens):
    return TASK_SIGMOID(SCORE, bpb=CHINCHILLA(TRUTH, params=params, tokens=tokens))


def test_two_step_recovers_a_chain_exactly():
    ends, points = chain()
    fitted = TwoStep(anchors=(), skip=0.0, smooth=1).fit(ends, points, bootstrap=0)
    params, tokens = np.array([7e9, 70e9]), np.array([2e12, 15e12])
    assert fitted.predict(params=params, tokens=tokens).mean == pytest.approx(true_score(params, tokens), rel=1e-6)


def test_two_step_does_not_depend_on_the_order_of_the_rows():
    ends, points = chain(noise=0.003)
    a = TwoStep().fit(ends, points, bootstrap=0)
    b = TwoStep().fit(ends.sample(frac=1, random_state=1), points.sample(frac=1, random_state=2), bootstrap=0)
    assert a.predict(params=7e9, tokens=2e12).mean == pytest.approx(b.predict(params=7e9, tokens=2e12).mean, rel=1e-9)


def test_two_step_resamples_whole_runs_in_both_steps():
    ends, points = chain(noise=0.003)
    fitted = TwoStep().fit(ends, points, bootstrap=40, seed=3)
    again = fitted.resampled(40, seed=3)
    assert np.array_equal(fitted.first_draws, again.first_draws)
    # rows of one run share a code in both steps, so they are drawn together
    step_one = dict(zip(ends["run"], fitted.first_runs, strict=True))
    names = points["run"].unique()
    kept = len(fitted.second_runs) // len(names)
    assert [step_one[name] for name in np.repeat(names, kept)] == list(fitted.second_runs)
    assert TwoStepFit.from_json(fitted.to_json()).predict(params=7e9, tokens=2e12) == fitted.predict(
        params=7e9, tokens=2e12
    )
    with pytest.raises(ValueError, match="is not a saved two-step fit"):
        TwoStepFit.from_json(fitted.first.to_json())
    band = fitted.predict(params=7e9, tokens=2e12)
    assert band.low < true_score(7e9, 2e12) < band.high
    assert fitted.predict(params=7e9, tokens=2e12, interval=0.5).high - band.mean < band.high - band.mean


def test_without_resamples_there_is_no_interval():
    ends, points = chain()
    prediction = TwoStep().fit(ends, points, bootstrap=0).predict(params=7e9, tokens=2e12)
    assert np.isnan(prediction.low) and np.isnan(prediction.high)


def test_trailing_mean_is_the_mean_of_the_last_values():
    values = np.random.default_rng(0).normal(size=9)
    for width in (1, 3, 20):
        expected = [values[max(0, i - width + 1) : i + 1].mean() for i in range(9)]
        assert trailing_mean(values, width) == pytest.approx(expected, abs=1e-15)


def test_two_step_names_what_is_wrong_with_its_input():
    ends, points = chain()
    with pytest.raises(ValueError, match="no column 'bpb'"):
        TwoStep().fit(ends, points.drop(columns="bpb"))
    with pytest.raises(ValueError, match="skip"):
        TwoStep(skip=1.0)
    with pytest.raises(ValueError, match="inputs"):
        TwoStep(score_law=CHINCHILLA)
