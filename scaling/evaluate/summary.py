"""Summary: what a suite's rows say together, each number with an interval over items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from scaling.evaluate.calibration import excess_calibration_error
from scaling.fitting.bootstrap import resample_weights
from scaling.fitting.fitted import check_level

# column of the rows -> name of its mean
MEANS = {
    "correct": "accuracy", "score": "score", "correct_raw": "accuracy_raw", "correct_token": "accuracy_token",
    "correct_char": "accuracy_char", "correct_byte": "accuracy_byte", "correct_unconditional": "accuracy_unconditional",
    "tied": "tie_rate", "probability": "probability", "brier": "brier", "log_loss": "log_loss",
    "gold_logprob": "gold_logprob", "gold_bits_per_byte": "gold_bits_per_byte", "exact": "exact_match",
    "token_accuracy": "token_accuracy", "tau": "kendall_tau", "chance": "chance", "human": "human",
}  # fmt: skip
OUTCOMES = {"tied", "exact", *(column for column in MEANS if column.startswith("correct"))}  # true or false


def mean_interval(
    values: Sequence[float] | np.ndarray, level: float = 0.9, bootstrap: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """(mean, low, high) of values [items]: of booleans Wilson's interval, which has a width when all are right, too;
    of numbers by resampling items, with NaN ends for a single one.

    Source: Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    check_level(level, "interval")
    x = np.asarray(values, float)
    if np.asarray(values).dtype == bool:
        found = binomtest(int(x.sum()), len(x)).proportion_ci(level, method="wilson")
        return float(x.mean()), float(found.low), float(found.high)
    if len(x) < 2:
        return float(x.mean()), np.nan, np.nan
    draws = resample_weights(len(x), bootstrap, np.random.default_rng(seed)) @ x / len(x)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(x.mean()), float(low), float(high)


def summary(
    rows: pd.DataFrame, by: Sequence[str] = ("task",), level: float = 0.9, bootstrap: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """One line per group of rows and metric: value, low, high, items; the interval is over items.

    Beside the means: `accuracy_above_chance`, (accuracy - chance) / (1 - chance), and `calibration_excess`, the
    calibration error of picks beyond that of a perfect model of as many items.
    """
    lines = []
    for key, group in rows.groupby(list(by), sort=True, dropna=False):
        head = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
        for column, metric in MEANS.items():
            if column in group and group[column].notna().all():
                outcome = group[column].isin((0, 1)).all() and column in OUTCOMES
                values = group[column].astype(bool if outcome else float)
                value, low, high = mean_interval(values, level, bootstrap, seed)
                lines.append(head | _line(metric, value, low, high, group))
        chance = group["chance"].to_numpy(float)
        if (chance < 1).all():
            found = _above_chance(group["correct"].to_numpy(), chance, level, bootstrap, seed)
            lines.append(head | _line("accuracy_above_chance", *found, group))
        if "confidence" in group and group["confidence"].notna().all():
            excess, _ = excess_calibration_error(group["confidence"], group["correct_raw"].astype(float), seed=seed)
            lines.append(head | _line("calibration_excess", excess, np.nan, np.nan, group))
    return pd.DataFrame(lines)


def _above_chance(
    correct: np.ndarray, chance: np.ndarray, level: float, bootstrap: int, seed: int
) -> tuple[float, float, float]:
    """(accuracy - chance) / (1 - chance): of one chance for all items, that of the accuracy and of its ends."""
    if (chance == chance[0]).all():
        outcomes = correct.astype(bool) if np.isin(correct, (0, 1)).all() else correct.astype(float)
        value, low, high = (
            float((x - chance[0]) / (1 - chance[0])) for x in mean_interval(outcomes, level, bootstrap, seed)
        )
        return value, low, high
    return mean_interval((correct.astype(float) - chance) / (1 - chance), level, bootstrap, seed)


def _line(metric: str, value: float, low: float, high: float, group: pd.DataFrame) -> dict[str, object]:
    return {"metric": metric, "value": value, "low": low, "high": high, "items": len(group)}
