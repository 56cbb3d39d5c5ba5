"""ParScale (Chen et al. 2025, arXiv:2505.10475): P parallel streams through one model act like more parameters."""

from __future__ import annotations

import numpy as np

from scaling.fitting.law import Law

PARSCALE = Law(
    name="parscale",
    formula="L = E + (A / (N * (k * ln(P) + 1)))**alpha",                                  # nats/token
    inputs=("params_nonembed", "streams"), output="loss",
    predict=lambda p, x: p.E + (p.A / (x.params_nonembed * (p.k * np.log(x.streams) + 1.0))) ** p.alpha,
    linear=("E",), exponents=("alpha",),
    bounds=dict(E=(0, None), A=(0, None), alpha=(0, 2), k=(0, None)),
    start=dict(A=tuple(np.geomspace(1e4, 1e13, 10)), k=(0.05, 0.15, 0.4, 1.0, 3.0)),
    units=dict(params_nonembed="parameters without embeddings", streams="parallel streams", loss="nats/token"),
    source="Chen et al. 2025, Parallel scaling law for language models (arXiv:2505.10475)")

LAWS = (PARSCALE,)
# Stack-Python, fitted to the 24 published runs: published and read [P].
CONSTANTS = {PARSCALE.name: dict(E=0.691207, A=1.13071e7, alpha=0.189358, k=0.393457)}
RANGES = dict(params_nonembed=(5e8, 4.5e9), streams=(1, 8))
