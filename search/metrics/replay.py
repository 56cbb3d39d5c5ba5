"""Recorded data sets, recomputed: what the metrics say about published test-time results, beside what was published."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from models.errors import ConfigError
from scaling.fitting.fit import fit
from scaling.laws.coverage import COVERAGE_POWER
from search.metrics.coverage import straight_line
from search.metrics.curves import curve

GSM8K = "gsm8k_ft_vs_verification.csv"
FLAWS = "flaws_humanevalplus_conditional_accuracy.csv"
REWARDS = "flaws_optimal_K.csv"
APR = "apr_countdown_curves.csv"
PUBLISHED = {  # example solutions of openai/grade-school-math that are right, of 1,319
    "6b_finetuning": 286,
    "6b_verification": 515,
    "175b_finetuning": 458,
    "175b_verification": 742,
}
REGRESSION = dict(correlation=0.944, slope=0.218, intercept=0.725)


def replay(folder: str | Path | None = None) -> pd.DataFrame:
    """Every number that the recorded sets give: columns data, quantity, value, low, high (90 %), published.

    folder: the one with the recorded files, or its parent; the folder that ISOFLOP_DATA names unless given. published
    is NaN where nothing was published. Raises ConfigError naming the file that is absent.
    """
    rows = [*_gsm8k(_read(GSM8K, folder)), *_flaws(_read(FLAWS, folder), _read(REWARDS, folder)),
            *_apr(_read(APR, folder))]  # fmt: skip
    return pd.DataFrame(rows, columns=["data", "quantity", "value", "low", "high", "published"])


def _read(name: str, folder: str | Path | None) -> pd.DataFrame:
    root = Path(folder or os.environ.get("ISOFLOP_DATA") or ".")
    found = next((path for path in (root / "testtime" / name, root / name) if path.is_file()), None)
    if found is None:
        raise ConfigError(str(root), f"has no {name}", "give folder=, or name it in ISOFLOP_DATA")
    return pd.read_csv(found, dtype={"gold": str} | {f"{run}_ans": str for run in PUBLISHED})


def _row(
    data: str, quantity: str, value: float, low: float = np.nan, high: float = np.nan, published: float = np.nan
) -> dict:
    return dict(data=data, quantity=quantity, value=float(value), low=low, high=high, published=published)


def same_number(a: object, b: object) -> bool:
    """Whether two recorded answers are the same number, however they are written ("18", "18.0", "1,800")."""
    try:
        return float(str(a).replace(",", "")) == float(str(b).replace(",", ""))
    except ValueError:
        return False


def _gsm8k(table: pd.DataFrame) -> list[dict]:
    """Right solutions as recorded, and what ranking 100 of them with a verifier gains, problem by problem."""
    rows, n = [], len(table)
    for run, published in PUBLISHED.items():
        ok = table[f"{run}_ok"].to_numpy(float)
        ends = curve(ok[:, None], [1]).iloc[0]
        rows.append(_row("gsm8k", f"{run} right", ok.sum(), n * ends["low"], n * ends["high"], published))
        anew = sum(same_number(a, g) for a, g in zip(table[f"{run}_ans"], table["gold"]))
        rows.append(_row("gsm8k", f"{run} right, answers compared as numbers", anew, published=published))
    for size in ("6b", "175b"):
        gain = (table[f"{size}_verification_ok"] - table[f"{size}_finetuning_ok"]).to_numpy(float)
        ends = curve(gain[:, None], [1]).iloc[0]
        rows.append(_row("gsm8k", f"{size} gain of verification", gain.mean(), ends["low"], ends["high"]))
    return rows


def _flaws(accuracy: pd.DataFrame, rewards: pd.DataFrame) -> list[dict]:
    """The regression over 17 models, and the ceiling that the recorded rewards imply.

    At equal attempts K the mean reward is right - penalty x false, so two penalties with one best K give both; and
    right / (right + false) is what the false positives leave: the accuracy of answers that pass the tests.
    """
    x, y = accuracy["single_sample_accuracy_plus"], accuracy["accuracy_given_base_tests_pass"]
    slope, intercept = np.polyfit(x, y, 1)
    draws = np.random.default_rng(0).integers(0, len(x), (2000, len(x)))
    refits = np.array([np.polyfit(x.to_numpy()[d], y.to_numpy()[d], 1) for d in draws])
    ends = np.quantile(refits, [0.05, 0.95], axis=0)
    rows = [
        _row("flaws", "correlation", np.corrcoef(x, y)[0, 1], published=REGRESSION["correlation"]),
        _row("flaws", "slope", slope, ends[0, 0], ends[1, 0], REGRESSION["slope"]),
        _row("flaws", "intercept", intercept, ends[0, 1], ends[1, 1], REGRESSION["intercept"]),
    ]
    given = accuracy.set_index("model")["accuracy_given_base_tests_pass"]
    for model, part in rewards.groupby("model", sort=False):
        first, second = part["max_mean_reward"].to_numpy()[:2]
        if part["optimal_K"].iloc[0] == part["optimal_K"].iloc[1]:
            rows.append(_row("flaws", f"{model} ceiling", first / (2 * first - second), published=given[model]))
    return rows


def _apr(table: pd.DataFrame) -> list[dict]:
    """Best accuracy of each series; does pass@n extrapolate: the power law on n <= 4 against n = 8."""
    rows = []
    for (series, temperature), part in table.groupby(["series", "temperature"], sort=False):
        name = f"{series} at T = {temperature:g}"
        score = part["accuracy_pct"].to_numpy(float) / 100
        rows.append(_row("apr", f"best of {name}", score.max()))
        if str(series).endswith("pass@n"):
            n = part["n_or_point"].to_numpy(float)
            law = fit(COVERAGE_POWER, {"samples": n[n <= 4], "coverage": score[n <= 4]})
            at = law.predict(samples=8.0)
            value, low, high = float(at.mean), float(at.low), float(at.high)
            rows.append(_row("apr", f"{name}, n = 8 from n <= 4", value, low, high, score[-1]))
            rows.append(_row("apr", f"{name}, R2 of the power law", straight_line(n, score)))
    return rows
