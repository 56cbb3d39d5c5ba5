"""Mixtures of experts: routed models (Clark et al. 2022) and fine-grained ones (Krajewski et al. 2024).

Clark counts N, the parameters of the dense model that one token passes through, and E experts whose benefit saturates.
Krajewski holds the expansion rate fixed and varies the granularity G, the number of slices each expert is cut into;
their objective is Huber with delta = .1 on log residuals (`delta=0.1`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scaling.fitting.law import Law


def routed(p: Any, x: Any) -> Any:
    """log10 L = a n + b e + c n e + d with n = log10 N, e = log10 Ehat, 1/Ehat = 1/(E - 1 + spread) + 1/E_max."""
    n = np.log10(x.params)
    saturated = 1.0 / (1.0 / (x.experts - 1.0 + p.spread) + 1.0 / p.E_max)
    e = np.log(saturated) / np.log(10.0)
    return np.exp(np.log(10.0) * (p.a * n + p.b * e + p.c * n * e + p.d))


ROUTED = Law(
    name="routed_moe",
    formula="log10 L = a n + b e + c n e + d, n = log10 N, 10**e = 1 / (1 / (E - 1 + spread) + 1 / E_max)",
    inputs=("params", "experts"), output="loss",
    predict=routed,
    bounds=dict(a=(-1, 0), b=(-1, 1), c=(-1, 1), d=(None, None), spread=(0, None), E_max=(0, None)),
    start=dict(a=(-0.15, -0.08, -0.04), b=(-0.15, -0.05), c=(0.0, 0.01), d=(0.7, 1.1, 1.5), spread=(1.0, 3.0),
               E_max=(100.0, 1000.0)),
    # E_start of the paper; spread > 0 keeps it below E_max
    derived=dict(E_start=lambda p: 1.0 / (1.0 / p.spread + 1.0 / p.E_max)),
    units=dict(params="parameters of the dense model", experts="experts", loss="nats/token"),
    objective="gaussian",
    source="Clark et al. 2022, Unified scaling laws for routed language models (arXiv:2202.01169)")

FINE_GRAINED = Law(
    name="fine_grained_moe",
    formula="L = c + (g / G**gamma + a) / N**alpha + b / D**beta",                         # nats/token
    inputs=("params", "tokens", "granularity"), output="loss",
    predict=lambda p, x: (p.c + (p.g * x.granularity**-p.gamma + p.a) * x.params**-p.alpha
                          + p.b * x.tokens**-p.beta),
    linear=("c", "g", "a", "b"), exponents=("alpha", "beta", "gamma"),
    bounds=dict(c=(0, None), g=(0, None), a=(0, None), b=(0, None), alpha=(0, 2), beta=(0, 2), gamma=(0, 3)),
    start=dict(alpha=(0.05, 0.1, 0.15, 0.25, 0.4, 0.7), beta=(0.05, 0.1, 0.15, 0.25, 0.4, 0.7),
               gamma=(0.2, 0.5, 1.0, 2.0)),
    units=dict(params="parameters without embeddings", tokens="tokens", granularity="slices per expert",
               loss="nats/token"),
    source="Krajewski et al. 2024, Scaling laws for fine-grained mixture of experts (arXiv:2402.07871)")

LAWS = (ROUTED, FINE_GRAINED)
# The S-BASE router from memory, unchecked [M]; the fine-grained constants are second-hand [S].
CONSTANTS = {ROUTED.name: dict(a=-0.082, b=-0.108, c=0.009, d=1.104, spread=1.0 / (1 / 1.847 - 1 / 314.478),
                               E_max=314.478),
             FINE_GRAINED.name: dict(c=0.47, g=2.1, a=18.1, b=30.8, alpha=0.115, beta=0.147, gamma=0.58)}
RANGES = dict(params=(1e7, 4e9), experts=(1, 512), tokens=(1e9, 1e11), granularity=(1, 16))
