"""Knowledge capacity (Allen-Zhu and Li 2024): bits of facts a transformer stores, up to R bits per parameter.

R is a frontier: the most any model of the family stores per parameter, read where the data hold more bits than fit.
About 2 bits at 1,000 exposures of every fact and 1 at 100 in the paper; those are outcomes to compare with, no default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from models.errors import ConfigError
from scaling.fitting.law import Law
from scaling.fitting.runs import Runs, as_table, numbers

KNOWLEDGE_CAPACITY = Law(
    name="knowledge_capacity",
    formula="bits = min(R N, bits in the data)",
    inputs=("params", "data_bits"), output="bits",
    predict=lambda p, x: np.minimum(p.R * x.params, x.data_bits),
    bounds=dict(R=(0, None)),
    space="log", objective="gaussian", start=dict(R=tuple(np.geomspace(0.01, 16.0, 48))),
    units=dict(params="parameters", data_bits="bits", bits="bits", R="bits per parameter"),
    source="Allen-Zhu and Li 2024, part 3.3 (arXiv:2404.05405); `capacity_frontier` is the estimator that it asks for")


class Capacity(NamedTuple):
    """R in bits per parameter with its bootstrap interval, and how many rows were limited by capacity."""

    R: float
    low: float
    high: float
    limited: int


def bits_learned(prior_bits: ArrayLike, loss: ArrayLike) -> np.ndarray:
    """Bits known about each fact [.]: entropy of its prior minus the model's loss on it (nats, summed over its tokens).

    A lower bound of what is stored; negative values count as nothing.
    """
    return np.maximum(np.asarray(prior_bits, float) - np.asarray(loss, float) / np.log(2), 0.0)


def capacity_frontier(runs: Runs, *, quantile: float = 0.9, saturated: float = 0.95, bootstrap: int = 500,
                      seed: int = 0, interval: float = 0.9, columns: Mapping[str, str] | None = None) -> Capacity:
    """R as the upper quantile of bits / params over the rows that capacity limits.

    That is the quantile regression of bits on params through the origin, each row weighted by 1 / params so that large
    models do not decide alone. Rows that know more than `saturated` of their data's bits are limited by the data and
    left out. NaN ends with fewer than 6 rows.
    """
    table = as_table(runs, columns, ("params", "data_bits", "bits"))
    params, data, bits = (numbers(table, name, positive=True) for name in ("params", "data_bits", "bits"))
    limited = np.flatnonzero(bits < saturated * data)
    if not len(limited):
        raise ConfigError("runs", "every model knows all of its data: capacity is not reached",
                          "train smaller models or on more facts")
    density = bits[limited] / params[limited]
    low = high = np.nan
    if len(limited) >= 6:
        drawn = np.random.default_rng(seed).choice(density, size=(bootstrap, len(density)))
        ends = np.quantile(drawn, quantile, axis=1, method="inverted_cdf")
        low, high = np.quantile(ends, [(1 - interval) / 2, (1 + interval) / 2])
    R = np.quantile(density, quantile, method="inverted_cdf")
    return Capacity(float(R), float(low), float(high), len(limited))


LAWS = (KNOWLEDGE_CAPACITY,)
# Allen-Zhu and Li at 1,000 exposures: second-hand, a default to compare with.
CONSTANTS = {KNOWLEDGE_CAPACITY.name: dict(R=2.0)}
RANGES = dict(params=(1e5, 1e8), data_bits=(1e7, 1e8))
