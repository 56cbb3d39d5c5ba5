"""Recorded results of others give the numbers that were published with them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from search.metrics import replay
from search.metrics.replay import APR, REWARDS, same_number
from tests.search import recorded


@pytest.fixture(scope="module")
def replayed() -> pd.DataFrame:
    return replay(recorded.folder()).set_index(["data", "quantity"])


def test_gsm8k_solutions_right_of_1319(replayed) -> None:
    runs = {"6b_finetuning": 286, "6b_verification": 515, "175b_finetuning": 458, "175b_verification": 742}
    for run, right in runs.items():
        row = replayed.loc["gsm8k", f"{run} right"]
        assert row["value"] == row["published"] == right and row["low"] < right < row["high"]
        # judged anew from the answers; one 175B answer equals the gold answer and is recorded as wrong
        anew = replayed.loc["gsm8k", f"{run} right, answers compared as numbers"]["value"]
        assert anew == right + (run == "175b_verification")
    # a 6B model with a verifier beats a 175B model without one, as the source says
    assert runs["6b_verification"] > runs["175b_finetuning"]
    assert (replayed.loc["gsm8k"].filter(like="gain", axis=0)["low"] > 0.12).all()


def test_imperfect_verifier_regression_and_ceilings(replayed) -> None:
    rows = replayed.loc["flaws"]
    for name, published in dict(correlation=0.944, slope=0.218, intercept=0.725).items():
        assert rows.loc[name, "value"] == pytest.approx(published, abs=5.1e-4)
    ceilings = rows.filter(like="ceiling", axis=0)
    assert len(ceilings) == 4
    # rewards are recorded to three digits, so right / (right + false) is good to about .002
    assert (ceilings["value"] - ceilings["published"]).abs().max() < 0.002


def test_recorded_rewards_are_those_of_a_best_number_of_attempts() -> None:
    """The best of rewards that are linear in the penalty: convex and falling in it, and so are the attempts."""
    table = pd.read_csv(recorded.folder() / REWARDS)
    assert len(table) == 34
    for _, part in table.groupby("model"):
        penalty, reward = -part["false_positive_reward"].to_numpy(float), part["max_mean_reward"].to_numpy()
        slopes = np.diff(reward) / np.diff(penalty)
        assert (slopes < 0).all() and (np.diff(slopes) >= -1.1e-3).all()  # three recorded digits
        assert (np.diff(part["optimal_K"]) <= 0).all()


def test_apr_curves(replayed) -> None:
    table = pd.read_csv(recorded.folder() / APR)
    wide = table.pivot(index=["temperature", "n_or_point"], columns="series", values="accuracy_pct")
    samples = wide.loc[(slice(None), slice(1, 8)), :]
    assert (samples["SoS+_pass@n"] >= samples["SoS+_cons@n"]).all()
    for temperature, best in {"0.1": 0.833, "0.5": 0.838, "1": 0.801}.items():
        row = replayed.loc["apr", f"best of APR_point_order_of_increasing_compute at T = {temperature}"]
        assert (
            row["value"] == pytest.approx(best)
            and best > replayed.loc["apr", f"best of SoS+_pass@n at T = {temperature}"]["value"]
        )
        # four points extrapolate to twice as many samples within 2.5 % of the accuracy, always too high: it bends
        at = replayed.loc["apr", f"SoS+_pass@n at T = {temperature}, n = 8 from n <= 4"]
        assert at["published"] < at["value"] < 1.025 * at["published"]
        assert replayed.loc["apr", f"SoS+_pass@n at T = {temperature}, R2 of the power law"]["value"] > 0.95


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"has no gsm8k_ft_vs_verification.csv: give folder="):
        replay(tmp_path)


def test_numbers_are_compared_as_numbers() -> None:
    assert same_number("1,800", "1800.0") and not same_number("18", "19") and not same_number(None, "3")
