"""The form that nests Chinchilla and Kaplan: two power laws of N and D joined by a soft maximum of sharpness 1 / q.

    L = E + [(A N**-alpha)**(1/q) + (B D**-beta)**(1/q)]**q,   B = A R

q = 1 is Chinchilla's sum; E = 0 with q = beta is Kaplan's L(N, D); q -> 0 is the larger of the two terms. A table
whose N and D vary together cannot tell q from the exponents: give runs far off the compute-optimal diagonal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from scaling.fitting.fit import Fit, fit
from scaling.fitting.law import Law
from scaling.fitting.runs import Runs
from scaling.laws.chinchilla import CHINCHILLA, compute_exponent, token_exponent


def softplus(u: Any) -> Any:
    """log(1 + exp(u)) without overflow, for arrays and Taylor numbers."""
    return np.logaddexp(0.0, u)


def soft_maximum(p: Any, x: Any) -> Any:
    """The law; the bracket is exp of a log-sum-exp, finite for any q."""
    first = -p.alpha * np.log(x.params)
    second = np.log(p.R) - p.beta * np.log(x.tokens)
    return p.E + p.A * np.exp(first + p.q * softplus((second - first) / p.q))


GENERAL = Law(
    name="general",
    formula="L = E + A * (N**(-alpha / q) + (R * D**-beta)**(1 / q))**q, R = B / A",      # nats/token
    inputs=("params", "tokens"), output="loss",
    predict=soft_maximum,
    linear=("A", "E"), exponents=("alpha", "beta"),
    bounds=dict(A=(0, None), R=(0, None), E=(0, None), alpha=(0, 2), beta=(0, 2), q=(0, None)),
    start=dict(alpha=(0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 1.0), beta=(0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 1.0),
               R=tuple(np.geomspace(1e-2, 1e5, 11)), q=(0.1, 0.3, 1.0, 2.0)),
    derived=dict(B=lambda p: p.A * p.R, a=compute_exponent, b=token_exponent),
    units=dict(params="parameters", tokens="tokens", loss="nats/token"),
    source="Hoffmann et al. 2022 (arXiv:2203.15556) at q = 1; Kaplan et al. 2020 (arXiv:2001.08361) at E = 0, q = beta")

# Kaplan's law in the coordinates of GENERAL, so that the two can be compared on the same columns.
KAPLAN_NESTED = dataclasses.replace(
    GENERAL, name="kaplan_nested",
    formula="L = A * (N**(-alpha / beta) + R**(1 / beta) / D)**beta",
    predict=lambda p, x: p.A * np.exp(-p.alpha * np.log(x.params) + p.beta * softplus(
        (np.log(p.R) + p.alpha * np.log(x.params)) / p.beta - np.log(x.tokens))),
    linear=("A",), bounds={name: GENERAL.bounds[name] for name in ("A", "R", "alpha", "beta")},
    start={name: GENERAL.start[name] for name in ("R", "alpha", "beta")},
    derived=dict(a=compute_exponent, b=token_exponent),
    source="Kaplan et al. 2020, eq. 1.5, with Nc = A**(1 / alpha) and Dc = (A R)**(1 / beta)")


@dataclasses.dataclass(frozen=True)
class Nested:
    """Least-squares fits of the general law and of the two it nests; p_chinchilla, p_kaplan: probability of a gain in
    likelihood at least as large if that special case were true (small: rejected)."""

    general: Fit
    chinchilla: Fit
    kaplan: Fit
    p_chinchilla: float
    p_kaplan: float

    def summary(self) -> str:
        lines = [f"q = {self.general.params.q:.4g}, E = {self.general.params.E:.4g} (Chinchilla: q = 1; "
                 f"Kaplan: E = 0, q = beta = {self.general.params.beta:.4g})"]
        for name, one, p in (("general", self.general, 1.0), ("chinchilla", self.chinchilla, self.p_chinchilla),
                             ("kaplan", self.kaplan, self.p_kaplan)):
            lines.append(f"  {name:<12} sum of squares {2 * one.certificate.objective:.6g}   p = {p:.3g}")
        return "\n".join(lines)

    __repr__ = summary


def nested_test(runs: Runs, *, columns: Mapping[str, str] | None = None, cluster: str | None = None,
                weights: str | np.ndarray | None = None) -> Nested:
    """Likelihood-ratio test between Chinchilla (8) and Kaplan (3) inside the general law (9), Gaussian residuals of the
    log loss. The general law starts from both special cases too, so its objective is never above either."""
    common: dict[str, Any] = dict(columns=columns, cluster=cluster, weights=weights, objective="gaussian")
    chinchilla, kaplan = fit(CHINCHILLA, runs, **common), fit(KAPLAN_NESTED, runs, **common)
    c, k = chinchilla.params, kaplan.params
    inner = [dict(A=c.A, R=c.B / c.A, E=c.E, alpha=c.alpha, beta=c.beta, q=1.0),
             dict(A=k.A, R=k.R, E=1e-6, alpha=k.alpha, beta=k.beta, q=k.beta)]
    searched, continued = fit(GENERAL, runs, **common), fit(GENERAL, runs, starts=inner, **common)
    general = min(searched, continued, key=lambda one: one.certificate.objective)
    n = general.certificate.points

    def probability(special: Fit, freedom: int) -> float:
        ratio = n * np.log(special.certificate.objective / max(general.certificate.objective, 1e-300))
        return float(stats.chi2.sf(max(ratio, 0.0), freedom))

    return Nested(general, chinchilla, kaplan, probability(chinchilla, 1), probability(kaplan, 2))


LAWS = (GENERAL, KAPLAN_NESTED)
# Chinchilla's published constants with a sharper join, and Kaplan's [S] in these coordinates.
CONSTANTS = {GENERAL.name: dict(A=406.4, R=1.0106, E=1.69, alpha=0.34, beta=0.28, q=0.7),
             KAPLAN_NESTED.name: dict(A=6.4e13**0.076, R=1.8e13**0.103 / 6.4e13**0.076, alpha=0.076, beta=0.103)}
RANGES = dict(params=(1e6, 1.6e10), tokens=(1e8, 1e12))
