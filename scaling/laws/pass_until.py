"""PassUntil (Hu et al. 2024): success rates too small to see in a few samples, as a double exponential in size.

Sampling an instance until it has passed r times costs few samples where the model is good and resolves rates of 1e-5
where it is not. The likelihood of "r passes in m samples" is the binomial's up to a constant, whichever of the two
numbers was fixed beforehand, so the binomial objective with trials= is the maximum-likelihood fit of both designs; a
straight line through log(-log PU) is not, and cannot use instances that never passed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scaling.fitting.grouped import GroupedFit, fit_groups
from scaling.fitting.law import Law
from scaling.fitting.runs import Runs

PASS_UNTIL = Law(
    name="pass_until",
    formula="PU = exp(-c N**-alpha), c = N0**alpha",        # log(-log PU) is linear in log N
    inputs=("params",), output="pass_rate",
    predict=lambda p, x: np.exp(-((x.params / p.N0) ** -p.alpha)),
    exponents=("alpha",),
    bounds=dict(N0=(0, None), alpha=(0, 4)),
    space="logit", objective="binomial",                    # intervals of a rate stay inside (0, 1)
    start=dict(N0=tuple(np.geomspace(1e3, 1e15, 25)), alpha=tuple(np.geomspace(0.05, 2.5, 10))),
    derived=dict(c=lambda p: p.N0**p.alpha),
    units=dict(params="parameters", pass_rate="passes per sample"),
    source="Hu et al. 2024 (arXiv:2310.03262), task level")


def unbiased_rate(passes: ArrayLike, samples: ArrayLike) -> np.ndarray:
    """(r - 1) / (m - 1) for r passes in m samples drawn until the r-th pass; r / m is biased upwards there. NaN for
    r = 1, where nothing unbiased exists."""
    r, m = np.asarray(passes, float), np.asarray(samples, float)
    return np.divide(r - 1, m - 1, out=np.full(np.broadcast(r, m).shape, np.nan), where=r > 1)


def fit_instances(runs: Runs, *, instance: str = "problem", law: Law = PASS_UNTIL, **options: Any) -> GroupedFit:
    """Instance-level PassUntil: every instance follows its own law and the test is their mean.

    runs: one row per instance and model with params, pass_rate and the column of samples named by `trials`.
    """
    options.setdefault("trials", "samples")
    return fit_groups(law, runs, group=instance, **options)


LAWS = (PASS_UNTIL,)
