"""The critical batch size (McCandlish et al. 2018, Kaplan et al. 2020): what a larger batch buys at a given loss.

To reach one loss, S steps of B tokens and E = B S tokens in all satisfy (S / S_min - 1)(E / E_min - 1) = 1, which is
S = S_min + E_min / B. Their ratio B_crit = E_min / S_min is the batch at which both cost twice their minimum, and it
grows as the loss falls: B_crit = B_star / L**(1 / alpha_B).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from models.errors import ConfigError
from scaling.fitting.fit import Fit, fit
from scaling.fitting.law import Law
from scaling.fitting.runs import Runs, as_table, missing

UNITS = dict(batch_tokens="tokens per step", steps="steps", loss="nats/token", critical_batch="tokens per step")
LEVELS = 4            # loss levels and batch sizes below which the two fits are not overdetermined
BATCHES = 3

BATCH_TRADE_OFF = Law(
    name="batch_trade_off",
    formula="S = S_min * (1 + B_crit / B)",
    inputs=("batch_tokens",), output="steps",
    predict=lambda p, x: p.S_min * (1.0 + p.B_crit / x.batch_tokens),
    linear=("S_min",), bounds=dict(S_min=(0, None), B_crit=(0, None)),
    start=dict(B_crit=tuple(np.geomspace(1e2, 1e9, 15))),
    derived=dict(E_min=lambda p: p.S_min * p.B_crit),
    units=UNITS, objective="gaussian",
    source="McCandlish et al. 2018, An empirical model of large-batch training (arXiv:1812.06162)")

CRITICAL_BATCH = Law(
    name="critical_batch",
    formula="B_crit = B_star / L**(1 / alpha_B)",
    inputs=("loss",), output="critical_batch",
    predict=lambda p, x: p.B_star * x.loss ** (-1.0 / p.alpha_B),
    linear=("B_star",), exponents=("alpha_B",), bounds=dict(B_star=(0, None), alpha_B=(0, 2)),
    units=UNITS, objective="gaussian", source="Kaplan et al. 2020, eq. 1.4")


def critical_batch(runs: Runs, *, columns: Mapping[str, str] | None = None,
                   level: str = "loss") -> tuple[pd.DataFrame, Fit]:
    """The critical batch at every loss level, and the law through them.

    runs: one row per (level, batch_tokens) with the steps that reached the level. Returns a table with loss, S_min,
    E_min, critical_batch per level (levels with fewer than three batch sizes are left out) and the fit of
    CRITICAL_BATCH. Aim at five batch sizes and four levels.
    """
    table = as_table(runs, columns, (level, "batch_tokens", "steps"))
    for name in (level, "batch_tokens", "steps"):
        if name not in table.columns:
            missing(name, table.columns)
    rows = []
    for loss, group in table.groupby(level):
        if group["batch_tokens"].nunique() >= BATCHES:
            fitted = fit(BATCH_TRADE_OFF, group)
            rows.append({"loss": float(loss), "S_min": fitted.params.S_min, "E_min": fitted.derived.E_min,
                         "critical_batch": fitted.params.B_crit})
    if len(rows) < LEVELS:
        raise ConfigError("runs", f"{len(rows)} loss levels have {BATCHES} batch sizes",
                          f"give at least {LEVELS} levels, each reached with {BATCHES} or more batch sizes")
    levels = pd.DataFrame(rows)
    return levels, fit(CRITICAL_BATCH, levels)


LAWS = (BATCH_TRADE_OFF, CRITICAL_BATCH)
# Kaplan's language models [S]; the trade-off is theirs at a loss of 3 nats.
CONSTANTS = {BATCH_TRADE_OFF.name: dict(S_min=1.0e4, B_crit=1.0e6),
             CRITICAL_BATCH.name: dict(B_star=2.0e8, alpha_B=0.21)}
RANGES = dict(batch_tokens=(3e4, 1e7), loss=(2.5, 6.0))
