"""The densing law (Xiao et al. 2024): how fast the best models need fewer parameters for the same score.

density = effective size / size, where the effective size is what a reference family would need for the same score:
size -> loss (a power law) -> score (a sigmoid), inverted. Its running maximum over release dates grows exponentially.
The published doubling time is 3 to 3.5 months (second-hand: compare with it, do not assume it).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq

from models.errors import ConfigError
from scaling.fitting.fit import Fit
from scaling.fitting.law import Law, Values
from scaling.fitting.quantile import quantile_regression, records
from scaling.fitting.runs import Runs, as_table, numbers

DENSITY_TREND = Law(
    name="densing",
    formula="density = exp(A t + B)",
    inputs=("time",), output="density",
    predict=lambda p, x: np.exp(p.A * x.time + p.B),
    bounds=dict(A=(None, None), B=(None, None)),
    space="log", objective="gaussian", start=dict(A=(-1.0, 0.0, 1.0), B=(0.0,)),
    derived=dict(doubling=lambda p: np.log(2) / p.A),
    units=dict(time="any, from any origin; doubling is in the same", density="effective parameters per parameter"),
    source="Xiao et al. 2024 (arXiv:2412.04315); `densing_frontier` is the estimator that it asks for")

LOSS_OF_SIZE = Law(
    name="densing_loss",
    formula="L = a N**-alpha D**-beta",
    inputs=("params", "tokens"), output="loss",
    predict=lambda p, x: p.a * x.params**-p.alpha * x.tokens**-p.beta,
    linear=("a",), exponents=("alpha", "beta"),
    bounds=dict(a=(0, None), alpha=(0, 2), beta=(0, 2)),
    units=dict(params="parameters", tokens="tokens", loss="nats/token of the right answer"),
    source="Xiao et al. 2024 (arXiv:2412.04315), step 1; step 2 is `downstream.TASK_SIGMOID`")


class DensingTrend(NamedTuple):
    """params A and B of ln(density) = A t + B at the upper quantile, doubling time in units of t, its bootstrap
    interval (NaN with fewer than 6 records), and the rows that set records."""

    params: Values
    doubling: float
    low: float
    high: float
    records: np.ndarray


def effective_params(score: float, loss: Fit, accuracy: Fit, tokens: float,
                     between: tuple[float, float] = (1e5, 1e14)) -> float:
    """Parameters that the reference family needs for `score` with `tokens` of data: the two fits, inverted.

    loss: fit with inputs params and tokens; accuracy: fit whose only input is that loss. NaN where the score is outside
    what the family reaches for sizes in `between`.
    """
    name = accuracy.law.inputs[0]

    def gap(log_params):
        at = loss.law(loss.params, params=np.exp(log_params), tokens=tokens)
        return float(accuracy.law(accuracy.params, **{name: at}) - score)

    low, high = np.log(between[0]), np.log(between[1])
    return float(np.exp(brentq(gap, low, high, xtol=1e-12))) if gap(low) * gap(high) < 0 else np.nan


def densing_frontier(runs: Runs, *, quantile: float = 0.9, bootstrap: int = 200, seed: int = 0, interval: float = 0.9,
                     columns: Mapping[str, str] | None = None) -> DensingTrend:
    """Upper-quantile regression of ln(density) on time over the models that set a record.

    runs: time and density of each model. The bootstrap resamples models and finds the records anew. Raises ConfigError
    with fewer than 3 records, which no trend passes.
    """
    table = as_table(runs, columns, ("time", "density"))
    time, height = numbers(table, "time"), np.log(numbers(table, "density", positive=True))
    kept = records(time, height)
    if len(kept) < 3:
        raise ConfigError("runs", f"{len(kept)} models set a record", "give more models, over a longer time")
    origin = time.mean()

    def line(t, y):
        slope, level = quantile_regression(np.column_stack([t - origin, np.ones(len(t))]), y, quantile)
        return slope, level - slope * origin

    slope, level = line(time[kept], height[kept])
    rng, doublings = np.random.default_rng(seed), []
    for _ in range(bootstrap if len(kept) >= 6 else 0):
        drawn = rng.integers(0, len(time), len(time))
        best = drawn[records(time[drawn], height[drawn])]
        if len(best) >= 3:
            # 1 / doubling is what is resampled: a slope of zero is an endless doubling time, not a negative one
            doublings.append(line(time[best], height[best])[0] / np.log(2))
    low = high = np.nan
    if doublings:
        slow, fast = np.quantile(doublings, [(1 - interval) / 2, (1 + interval) / 2])
        low, high = 1 / fast, (1 / slow if slow > 0 else np.inf)
    return DensingTrend(Values(A=float(slope), B=float(level)), float(np.log(2) / slope), float(low), float(high), kept)


LAWS = (DENSITY_TREND, LOSS_OF_SIZE)
