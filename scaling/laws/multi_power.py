"""The multi-power law (Luo et al. 2025): whole loss curves under any schedule, the gain of each drop saturating.

    L(t) = L0 + A (S1(t) + S_W)**-alpha - B sum_k (lr_{k-1} - lr_k) G(lr_k**-gamma S_k(t)),  G(x) = 1 - (1 + C x)**-beta

S1 is the area under the learning rate up to step t and S_k that since step k; S_W is the area of the warm-up. Where the
annealing law lets a drop gain for ever, here its gain fades with the area since, faster at a high learning rate. The
law's inputs are a schedule's drops: `drops` bins them, so that a cosine of thousands of steps has a few dozen terms.
The form and the constants are the authors'; their losses are not at hand, so nothing here was fitted to them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from models.errors import ConfigError, require
from scaling.fitting.law import Law

PIECES = 6          # of the law in the catalogue


def multi_power_law(pieces: int = PIECES, name: str = "multi_power") -> Law:
    """The law of schedules whose drops are binned into `pieces`: inputs forward_area and, for each piece i, drop_i, its
    learning-rate drop so far, area_i since it, and rate_i, the learning rate it dropped to."""
    require(pieces >= 1, "pieces", f"is {pieces}", "give how many terms the drops of a schedule are binned into")

    def predict(p, x):
        gained = 0.0
        for i in range(pieces):
            # lr**-gamma S, with S = 0 where the drop has only just come
            scaled = x[f"area_{i}"] * np.exp(-p.gamma * np.log(x[f"rate_{i}"]))
            gained = gained + x[f"drop_{i}"] * (1.0 - np.exp(-p.beta * np.log1p(p.C * scaled)))
        return p.L0 + p.A * x.forward_area**-p.alpha - p.B * gained

    terms = [f"{kind}_{i}" for i in range(pieces) for kind in ("drop", "area", "rate")]
    units = {term: "learning rate" + (" x steps" if term.startswith("area") else "") for term in terms}
    return Law(
        name=name,
        formula="L = L0 + A * S1**-alpha - B * sum_k drop_k * (1 - (1 + C * rate_k**-gamma * area_k)**-beta)",
        inputs=("forward_area", *terms), output="loss", predict=predict,
        linear=("L0", "A", "B"), exponents=("alpha",),
        bounds=dict(L0=(0, None), A=(0, None), B=(0, None), alpha=(0, 2), C=(0, None), beta=(0, 3), gamma=(0, 2)),
        start=dict(alpha=(0.25, 0.45, 0.7, 1.0), C=tuple(np.geomspace(0.02, 50.0, 5)), beta=(0.2, 0.5, 1.0),
                   gamma=(0.3, 0.6, 0.9)),
        units=dict(forward_area="learning rate x steps", **units, loss="nats/token"),
        source="Luo et al. 2025, A multi-power law for loss curve prediction (arXiv:2503.12811)")


def drops(learning_rates: ArrayLike, at: ArrayLike | None = None, pieces: int = PIECES,
          warmup_area: float = 0.0) -> pd.DataFrame:
    """The law's inputs after the steps `at` (all unless given) of a schedule, learning_rates [steps] from the peak on.

    The drops are binned by how far the learning rate has fallen, `pieces` equal parts of the whole fall; in a bin the
    area since and the rate are means over its drops so far. warmup_area: learning rate x steps before the schedule.
    """
    rates = np.asarray(learning_rates, float)
    if rates.ndim != 1 or not len(rates) or not np.all(np.isfinite(rates)) or np.any(rates <= 0):
        raise ConfigError("learning_rates", "not a sequence of positive numbers", "give one learning rate per step")
    steps = np.arange(len(rates)) if at is None else np.asarray(at, int)
    require(bool(np.all((steps >= 0) & (steps < len(rates)))), "at", f"is outside of {len(rates)} steps", "give steps")
    area, fall = np.cumsum(rates), -np.diff(rates, prepend=rates[0])
    before = area - rates                               # S1 just before each step: S_k(t) = S1(t) - before_k
    fallen = np.cumsum(np.abs(fall))
    bins = np.minimum((fallen / max(fallen[-1], 1e-300) * pieces * (1 - 1e-12)).astype(int), pieces - 1)
    columns = {"forward_area": area[steps] + warmup_area}
    for i in range(pieces):
        own = np.where(bins == i, fall, 0.0)
        size = np.cumsum(np.abs(own))
        with np.errstate(all="ignore"):
            start, rate = (np.cumsum(np.abs(own) * x) / size for x in (before, rates))
        some = size[steps] > 0
        columns[f"drop_{i}"] = np.cumsum(own)[steps]
        columns[f"area_{i}"] = np.where(some, area[steps] - start[steps], 0.0)
        columns[f"rate_{i}"] = np.where(some, rate[steps], rates[0])
    return pd.DataFrame(columns)


MULTI_POWER = multi_power_law()
LAWS = (MULTI_POWER,)
# Fits of models of 25M, 100M and 400M parameters, peak learning rate 3e-4: the table of github.com/thu-yao-01-luo/
# MultiPowerLaw, which its authors made after the paper and prefer to the paper's.
PUBLISHED = {
    "25M": dict(L0=3.040, A=0.525, B=363.788, alpha=0.508, C=2.066, beta=0.583, gamma=0.641),
    "100M": dict(L0=2.651, A=0.601, B=437.946, alpha=0.453, C=2.132, beta=0.598, gamma=0.655),
    "400M": dict(L0=2.375, A=0.654, B=523.425, alpha=0.429, C=2.025, beta=0.594, gamma=0.635),
}
CONSTANTS = {MULTI_POWER.name: PUBLISHED["400M"]}
RANGES = dict(forward_area=(0.05, 10.0)) | {
    f"{kind}_{i}": span
    for i in range(PIECES)
    for kind, span in (("drop", (0.0, 5e-5)), ("area", (0.001, 2.0)), ("rate", (1e-5, 3e-4)))
}
