"""Data-constrained scaling (Muennighoff et al. 2023, arXiv:2305.16264): repeated tokens and excess parameters decay.

D' = U + U R_D (1 - exp(-(D / U - 1) / R_D)) effective tokens from D tokens of which U are unique, and N' likewise from
N parameters, of which U_N, the compute-optimal number for U tokens, are worth their count. alpha = beta is tied, which
makes U_N = (A / B)**(1 / alpha) U. Fitted in two stages (`fit_data_constrained`); runs whose loss rose with more
tokens are no points of this law, and `overfitted` names them by a rule fixed in advance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from models.errors import ConfigError
from scaling.fitting.fit import Fit, fit
from scaling.fitting.law import Law
from scaling.fitting.runs import Runs, as_table, missing

UNITS = dict(params="parameters", tokens="tokens, repetitions included", unique_tokens="tokens", loss="nats/token")


def effective(total: Any, unique: Any, decay: Any) -> Any:
    """unique + unique decay (1 - exp(-(total / unique - 1) / decay)): what repetition leaves of `total`."""
    return unique * (1.0 - decay * np.expm1((1.0 - total / unique) / decay))


def loss_of_repetition(p: Any, x: Any) -> Any:
    """The law; unique_tokens above tokens means that nothing was repeated."""
    unique = np.minimum(x.unique_tokens, x.tokens)
    unique_params = np.minimum(x.params, (p.A / p.B) ** (1.0 / p.alpha) * unique)
    return (p.E + p.A * effective(x.params, unique_params, p.R_N) ** -p.alpha
            + p.B * effective(x.tokens, unique, p.R_D) ** -p.alpha)


DATA_CONSTRAINED = Law(
    name="data_constrained",
    formula="L = E + A / N'**alpha + B / D'**alpha, D' = U + U R_D (1 - exp(-(D/U - 1) / R_D)), N' from N with R_N",
    inputs=("params", "tokens", "unique_tokens"), output="loss",
    predict=loss_of_repetition,
    linear=("E",), exponents=("alpha",),
    bounds=dict(A=(0, None), B=(0, None), E=(0, None), alpha=(0, 2), R_D=(0, None), R_N=(0, None)),
    start=dict(A=(30.0, 300.0, 3000.0, 3e4), B=(30.0, 300.0, 3000.0, 3e4), alpha=(0.15, 0.22, 0.3, 0.38, 0.5),
               R_D=(3.0, 15.0, 60.0), R_N=(2.0, 8.0, 40.0)),
    units=UNITS, source="Muennighoff et al. 2023, Scaling data-constrained language models (arXiv:2305.16264)")

TIED_CHINCHILLA = Law(
    name="chinchilla_tied",
    formula="L = E + A / N**alpha + B / D**alpha",
    inputs=("params", "tokens"), output="loss",
    predict=lambda p, x: p.E + p.A * x.params**-p.alpha + p.B * x.tokens**-p.alpha,
    linear=("A", "B", "E"), exponents=("alpha",),
    bounds=dict(A=(0, None), B=(0, None), E=(0, None), alpha=(0, 2)),
    derived=dict(params_per_token=lambda p: (p.A / p.B) ** (1.0 / p.alpha)),
    units=UNITS, source="Muennighoff et al. 2023: Chinchilla with alpha = beta (arXiv:2305.16264)")


def overfitted(runs: Runs, *, columns: Mapping[str, str] | None = None, loss: str = "loss") -> pd.Series:
    """Whether a run with the same params and unique_tokens but fewer tokens had a lower loss [rows of runs]: such a run
    has diverged or overfitted, which a law that falls with D cannot describe."""
    table = as_table(runs, columns, ("params", "tokens", "unique_tokens", loss))
    for name in ("params", "tokens", "unique_tokens", loss):
        if name not in table.columns:
            missing(name, table.columns)
    order = table.sort_values("tokens")
    before = order.groupby(["params", "unique_tokens"])[loss].transform(lambda one: one.cummin().shift())
    return (order[loss] > before).reindex(table.index)


def fit_data_constrained(
    runs: Runs, *, columns: Mapping[str, str] | None = None, first: Mapping[str, float] | None = None, **options: Any
) -> Fit:
    """Two stages: Chinchilla with alpha = beta on the runs without repetition, then R_D and R_N on all of them.

    first: parameters A, B, E, alpha to hold instead of fitting stage one. options as in `fit`.
    """
    needed = ("params", "tokens", "unique_tokens", "loss")
    table = as_table(runs, columns, needed)
    for name in needed:
        if name not in table.columns:
            missing(name, table.columns)
    if first is None:
        single = table[table["tokens"] <= table["unique_tokens"] * (1 + 1e-9)]
        if len(single) < len(TIED_CHINCHILLA.parameters):
            raise ConfigError("runs", f"{len(single)} runs without repetition for stage one",
                              f"give {len(TIED_CHINCHILLA.parameters)} or more, or the constants as first=")
        first = fit(TIED_CHINCHILLA, single, **{k: v for k, v in options.items() if k != "bootstrap"}).params
    held = {name: float(first[name]) for name in ("A", "B", "E", "alpha")}
    return fit(DATA_CONSTRAINED, table, fixed=held, **options)


LAWS = (DATA_CONSTRAINED, TIED_CHINCHILLA)
_STAGE_ONE = dict(A=float(np.exp(6.255414)), B=float(np.exp(7.3049974)), E=float(np.exp(0.6254804)), alpha=0.3526596)
# Published and read [P].
CONSTANTS = {DATA_CONSTRAINED.name: dict(**_STAGE_ONE, R_D=15.387756, R_N=5.309743), TIED_CHINCHILLA.name: _STAGE_ONE}
RANGES = dict(params=(7e6, 9e9), tokens=(1e9, 9e11), unique_tokens=(1e8, 2e11))
