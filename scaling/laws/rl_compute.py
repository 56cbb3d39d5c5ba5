"""RL compute sigmoid (ScaleRL, Khatri et al. 2025): validation reward against the compute of reinforcement learning."""

from __future__ import annotations

import numpy as np

from scaling.fitting.law import Law

RL_COMPUTE = Law(
    name="rl_compute",
    formula="R = R0 + (A - R0) / (1 + (Cmid / C)**B)",
    inputs=("flops",), output="reward",
    # the same as R0 + (A - R0) C**B / (C**B + Cmid**B): step 0, where no compute is spent, has R0
    predict=lambda p, x: p.R0 + (p.A - p.R0) * np.where(
        x.flops > 0, 1 / (1 + (np.where(x.flops > 0, x.flops, 1.0) / p.Cmid) ** -p.B), 0.0 * p.B),
    linear=("A", "R0"), exponents=("B",),
    bounds=dict(A=(0, 1), R0=(0, 1), Cmid=(0, None), B=(0, 8)),
    space="raw", objective="gaussian", zeros=("flops",),
    start=dict(Cmid=tuple(np.geomspace(1e3, 1e28, 51)), B=(0.2, 0.4, 0.7, 1.2, 2.0, 4.0)),
    units=dict(flops="FLOP", reward="mean reward or pass rate"),
    source="Khatri et al. 2025 (arXiv:2510.13786); second-hand. Fit after warm-up, hold R0 with fixed= where it was "
           "measured, and profile A: curves that have not bent do not determine it")

LAWS = (RL_COMPUTE,)
