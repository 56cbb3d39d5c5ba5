"""Farseer (Li et al. 2025, arXiv:2506.10972): exponent and coefficient of the data term depend on the model's size.

    L(N, D) = exp(a3 N**gamma + b3) + exp(a2 N**beta + b2) D**-exp(a1 N**alpha + b1)

As written, a and b of each curve trade against its exponent and the normal matrix has a condition number of 1e10. The
same curves are fitted as value, log-slope and bend at N = 1e9, which is what the data determine:

    a N**p + b = ln(value) + slope h(p),   h(p) = ((N / 1e9)**p - 1) / p

and the published a1 ... b3 are derived quantities (`from_published` goes the other way). Nine parameters ask for a full
grid of at least 7 x 7 sizes and data. `fit_farseer` starts from the differential two-step fit: one power law in D per
size, then a curve through each of its coefficients.
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
from scaling.laws.hestness import HESTNESS

REFERENCE = 1e9               # parameters at which the three curves are anchored
SIZES, DATA = 4, 4            # below these a curve through the sizes, or a power law per size, is not overdetermined
BENDS = (-0.4, -0.2, -0.1, -0.05, 0.05, 0.1, 0.2, 0.4)
STRAIGHT = 1e-4               # |p| below which h is its series: the quotient loses half its digits there


def bend(p: Any, params: Any) -> Any:
    """h(p): ln(N / 1e9) at p = 0, bent upwards for p > 0."""
    log_size = np.log(params / REFERENCE)
    with np.errstate(all="ignore"):
        series = log_size * (1.0 + p * log_size / 2.0 + (p * log_size) ** 2 / 6.0)
        return np.where((p < STRAIGHT) & (p > -STRAIGHT), series, np.expm1(p * log_size) / p)


FARSEER = Law(
    name="farseer",
    formula="L = E * exp(e * h(gamma)) + B * exp(b * h(beta)) * D**(-A * exp(a * h(alpha))), "
            "h(p) = ((N / 1e9)**p - 1) / p",                                               # nats/token
    inputs=("params_nonembed", "tokens"), output="loss",
    predict=lambda p, x: (
        p.E * np.exp(p.e * bend(p.gamma, x.params_nonembed)) + p.B * np.exp(
            p.b * bend(p.beta, x.params_nonembed)
            - p.A * np.exp(p.a * bend(p.alpha, x.params_nonembed)) * np.log(x.tokens))),
    linear=("E", "B"), exponents=("alpha", "beta", "gamma"),
    bounds=dict(E=(0, None), e=(None, None), gamma=(-1, 1), B=(0, None), b=(None, None), beta=(-1, 1),
                A=(0, 2), a=(None, None), alpha=(-1, 1)),
    start=dict(e=(-0.3, -0.1, -0.03), gamma=(-0.1, 0.2), b=(-2.0, -0.7, 0.0), beta=(-0.2, 0.1),
               A=(0.15, 0.3, 0.5, 0.8), a=(-0.3, -0.1, 0.0), alpha=(-0.1, 0.2)),
    derived=dict(a1=lambda p: p.a / p.alpha * REFERENCE**-p.alpha, b1=lambda p: np.log(p.A) - p.a / p.alpha,
                 a2=lambda p: p.b / p.beta * REFERENCE**-p.beta, b2=lambda p: np.log(p.B) - p.b / p.beta,
                 a3=lambda p: p.e / p.gamma * REFERENCE**-p.gamma, b3=lambda p: np.log(p.E) - p.e / p.gamma),
    units=dict(params_nonembed="parameters without embeddings", tokens="tokens", loss="nats/token"),
    source="Li et al. 2025, Predictable scale: part II, Farseer (arXiv:2506.10972)")


def from_published(a1: float, b1: float, alpha: float, a2: float, b2: float, beta: float, a3: float, b3: float,
                   gamma: float) -> dict[str, float]:
    """Parameters of FARSEER for constants in the paper's form."""
    def anchored(a, b, p):
        return float(np.exp(a * REFERENCE**p + b)), float(a * p * REFERENCE**p)

    (floor, e), (scale, b), (power, a) = anchored(a3, b3, gamma), anchored(a2, b2, beta), anchored(a1, b1, alpha)
    return dict(E=floor, e=e, gamma=gamma, B=scale, b=b, beta=beta, A=power, a=a, alpha=alpha)


def farseer_starts(runs: Runs, *, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Starting parameters from the data, one row per combination of the two best bends of each curve.

    Step 1 fits E_N + B_N D**-A_N at every size N; step 2 fits ln E_N, ln B_N and ln A_N against the size.
    """
    table = as_table(runs, columns, (*FARSEER.inputs, "loss"))
    for name in (*FARSEER.inputs, "loss"):
        if name not in table.columns:
            missing(name, table.columns)
    steps = []
    for size, rows in table.groupby("params_nonembed"):
        if rows["tokens"].nunique() >= DATA:
            one = fit(HESTNESS, rows, objective="gaussian").params
            if one.a > 0 and one.c > 0 and one.b < -1e-3:
                steps.append((size, np.log(one.c), np.log(one.a), np.log(-one.b)))
    if len(steps) < SIZES:
        raise ConfigError("runs", f"{len(steps)} sizes have {DATA} token counts and a falling loss",
                          f"give a grid of at least {SIZES} sizes, better 7 x 7")
    size, floor, scale, power = np.array(steps).T
    return pd.DataFrame([
        {"E": np.exp(at_e), "e": e, "gamma": gamma, "B": np.exp(at_b), "b": b, "beta": beta, "A": np.exp(at_a), "a": a,
         "alpha": alpha}
        for at_e, e, gamma in _curves(size, floor) for at_b, b, beta in _curves(size, scale)
        for at_a, a, alpha in _curves(size, power)])


def _curves(size, y, keep: int = 2) -> list[tuple[float, float, float]]:
    """The `keep` best (value, slope, p) of y = value + slope h(p) over BENDS."""
    found = []
    for p in BENDS:
        basis = np.column_stack([np.ones_like(size), bend(p, size)])
        (value, slope), *_ = np.linalg.lstsq(basis, y, rcond=None)
        found.append((float(np.sum((y - basis @ [value, slope]) ** 2)), float(value), float(slope), p))
    return [one[1:] for one in sorted(found)[:keep]]


def fit_farseer(runs: Runs, **options: Any) -> Fit:
    """`fit(FARSEER, runs)` with the two-step starts added to the grid's; options as in `fit`."""
    return fit(FARSEER, runs, starts=farseer_starts(runs, columns=options.get("columns")), **options)


LAWS = (FARSEER,)
# From memory, unchecked [M]; b3 and b2 are placed so that losses are those of language models.
CONSTANTS = {FARSEER.name: from_published(a1=-0.124, b1=0.424, alpha=0.123, a2=88.01, b2=-6.287, beta=-0.1,
                                          a3=-0.021, b3=1.0, gamma=0.169)}
RANGES = dict(params_nonembed=(1e8, 6.4e9), tokens=(1e9, 2e11))
