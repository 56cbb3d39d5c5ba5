"""Kaplan et al. 2020 (arXiv:2001.08361): loss from size, data or compute alone, from both, and along a training run.

N counts parameters without embeddings, D tokens, compute is in PF-days (1 PF-day = 8.64e19 FLOP). No law of this file
has an irreducible loss: compare with the forms that do (`hestness`, `chinchilla`, `general`) by held-out error before
believing an exponent. The constants in CONSTANTS are second-hand: starting points, not facts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scaling.fitting.derivatives import value_of
from scaling.fitting.law import Law

PF_DAY = 8.64e19                # FLOP
UNITS = dict(params_nonembed="parameters without embeddings", tokens="tokens", pf_days="PF-days", steps="steps",
             batch_tokens="tokens per step", loss="nats/token")
SLOPES = (0.02, 0.03, 0.045, 0.065, 0.09, 0.13, 0.18, 0.26, 0.4, 0.7)

KAPLAN_PARAMS = Law(
    name="kaplan_params",
    formula="L = (Nc / N)**alpha_N",
    inputs=("params_nonembed",), output="loss",
    predict=lambda p, x: (p.Nc / x.params_nonembed) ** p.alpha_N,
    exponents=("alpha_N",), bounds=dict(Nc=(0, None), alpha_N=(0, 2)),
    start=dict(Nc=tuple(np.geomspace(1e7, 1e19, 13)), alpha_N=SLOPES),
    units=UNITS, objective="gaussian", source="Kaplan et al. 2020, eq. 1.1")

KAPLAN_TOKENS = Law(
    name="kaplan_tokens",
    formula="L = (Dc / D)**alpha_D",
    inputs=("tokens",), output="loss",
    predict=lambda p, x: (p.Dc / x.tokens) ** p.alpha_D,
    exponents=("alpha_D",), bounds=dict(Dc=(0, None), alpha_D=(0, 2)),
    start=dict(Dc=tuple(np.geomspace(1e7, 1e19, 13)), alpha_D=SLOPES),
    units=UNITS, objective="gaussian", source="Kaplan et al. 2020, eq. 1.2")

KAPLAN_COMPUTE = Law(
    name="kaplan_compute",
    formula="L = (Cc / C)**alpha_C",                      # C at the critical batch size, in PF-days
    inputs=("pf_days",), output="loss",
    predict=lambda p, x: (p.Cc / x.pf_days) ** p.alpha_C,
    exponents=("alpha_C",), bounds=dict(Cc=(0, None), alpha_C=(0, 2)),
    start=dict(Cc=tuple(np.geomspace(1e-3, 1e15, 13)), alpha_C=SLOPES),
    units=UNITS, objective="gaussian", source="Kaplan et al. 2020, eq. 1.3")

KAPLAN = Law(
    name="kaplan",
    formula="L = ((Nc / N)**(alpha_N / alpha_D) + Dc / D)**alpha_D",
    inputs=("params_nonembed", "tokens"), output="loss",
    predict=lambda p, x: ((p.Nc / x.params_nonembed) ** (p.alpha_N / p.alpha_D) + p.Dc / x.tokens) ** p.alpha_D,
    exponents=("alpha_N", "alpha_D"),
    bounds=dict(Nc=(0, None), Dc=(0, None), alpha_N=(0, 2), alpha_D=(0, 2)),
    start=dict(Nc=tuple(np.geomspace(1e8, 1e17, 7)), Dc=tuple(np.geomspace(1e8, 1e17, 7)),
               alpha_N=(0.04, 0.07, 0.12, 0.2, 0.4), alpha_D=(0.04, 0.07, 0.12, 0.2, 0.4)),
    units=UNITS, objective="gaussian", source="Kaplan et al. 2020, eq. 1.5; early-stopped runs over many epochs")


def loss_during_training(p: Any, x: Any) -> Any:
    """Loss [n] of N parameters after S steps of B tokens: the root L of

        L = (Nc / N)**alpha_N + (Sc (1 + Bcrit(L) / B) / S)**alpha_S,   Bcrit(L) = B_star / L**(1 / alpha_B)

    The critical batch grows as the loss falls, so the right side falls with L and the root is unique. It is bracketed
    on plain numbers; two Newton steps from the root on Taylor numbers then carry the exact first and second
    derivatives, since each step doubles the order to which the root is known.
    """
    floor = (p.Nc / x.params_nonembed) ** p.alpha_N

    def right(log_loss, v):
        share = v.B_star / x.batch_tokens * np.exp(-log_loss / v.alpha_B)
        return np.log(v.floor + (v.Sc * (1.0 + share) / x.steps) ** v.alpha_S)

    plain, traced = _Named(p, value_of, value_of(floor)), _Named(p, lambda number: number, floor)
    low, high = np.log(plain.floor) - 1e-12, right(np.log(plain.floor), plain) + 1e-12
    for _ in range(60):
        middle = 0.5 * (low + high)
        above = right(middle, plain) > middle
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    root = 0.5 * (low + high)
    for _ in range(2):
        share = traced.B_star / x.batch_tokens * np.exp(-root / traced.alpha_B)
        burden = (traced.Sc * (1.0 + share) / x.steps) ** traced.alpha_S
        value = traced.floor + burden
        slope = -burden / value * traced.alpha_S * share / (1.0 + share) / traced.alpha_B
        root = root + (np.log(value) - root) / (1.0 - slope)
    return np.exp(root)


class _Named:
    """The parameters of `loss_during_training`, each passed through `read`, and the term of N already computed."""

    def __init__(self, p, read, floor):
        self.Sc, self.alpha_S, self.B_star, self.alpha_B = (read(v) for v in (p.Sc, p.alpha_S, p.B_star, p.alpha_B))
        self.floor = floor


KAPLAN_STEPS = Law(
    name="kaplan_steps",
    formula="L = (Nc / N)**alpha_N + (Sc / S_min)**alpha_S, S_min = S / (1 + B_star / (B * L**(1 / alpha_B)))",
    inputs=("params_nonembed", "steps", "batch_tokens"), output="loss",
    predict=loss_during_training,
    exponents=("alpha_N", "alpha_S"),
    bounds=dict(Nc=(0, None), alpha_N=(0, 2), Sc=(0, None), alpha_S=(0, 2), B_star=(0, None), alpha_B=(0.02, 2)),
    start=dict(Nc=(1e11, 1e13, 1e15), alpha_N=(0.05, 0.08, 0.12), Sc=(1e2, 2e3, 4e4), alpha_S=(0.4, 0.8),
               B_star=(1e7, 1e9), alpha_B=(0.15, 0.3)),
    units=UNITS, objective="gaussian",
    source="Kaplan et al. 2020, eq. 1.6 and 5.6; Su et al. 2024, Unraveling the mystery of scaling laws "
           "(arXiv:2403.06563) re-estimate all constants on whole curves after warm-up at constant learning rate")

LAWS = (KAPLAN_PARAMS, KAPLAN_TOKENS, KAPLAN_COMPUTE, KAPLAN, KAPLAN_STEPS)
# Second-hand [S].
CONSTANTS = {
    KAPLAN_PARAMS.name: dict(Nc=8.8e13, alpha_N=0.076),
    KAPLAN_TOKENS.name: dict(Dc=5.4e13, alpha_D=0.095),
    KAPLAN_COMPUTE.name: dict(Cc=3.1e8, alpha_C=0.050),
    KAPLAN.name: dict(Nc=6.4e13, Dc=1.8e13, alpha_N=0.076, alpha_D=0.103),
    KAPLAN_STEPS.name: dict(Nc=6.5e13, alpha_N=0.077, Sc=2.1e3, alpha_S=0.76, B_star=2.0e8, alpha_B=0.21),
}
RANGES = dict(params_nonembed=(1e3, 1.5e9), tokens=(2e7, 2.3e10), pf_days=(1e-8, 1e1), steps=(1e3, 2.5e5),
              batch_tokens=(3e4, 1e7))
