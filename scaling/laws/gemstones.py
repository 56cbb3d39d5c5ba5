"""Gemstones (McLeish et al. 2025, arXiv:2502.06857): loss from width and depth besides parameters and tokens.

N is about 12 l w^2, so the four terms are nearly collinear: a term that the rows do not need sits at zero and is
reported as on its bound, never as a coefficient. Cluster by run: rows are checkpoints.
"""

from __future__ import annotations

from scaling.fitting.law import Law

# four exponents on a product grid: a wider spacing than for two, since a Newton run covers the gap
EXPONENTS = (0.08, 0.2, 0.4, 0.7, 1.2)

GEMSTONES = Law(
    name="gemstones",
    formula="L = E + W / w**omega + K / l**kappa + A / N**alpha + B / D**beta",            # nats/token
    inputs=("width", "depth", "params", "tokens"), output="loss",
    predict=lambda p, x: (p.E + p.W * x.width**-p.omega + p.K * x.depth**-p.kappa
                          + p.A * x.params**-p.alpha + p.B * x.tokens**-p.beta),
    linear=("W", "K", "A", "B", "E"), exponents=("omega", "kappa", "alpha", "beta"),
    bounds=dict(W=(0, None), K=(0, None), A=(0, None), B=(0, None), E=(0, None),
                omega=(0, 2), kappa=(0, 2), alpha=(0, 2), beta=(0, 2)),
    start=dict.fromkeys(("omega", "kappa", "alpha", "beta"), EXPONENTS),
    units=dict(width="hidden units", depth="layers", params="parameters", tokens="tokens", loss="nats/token"),
    source="McLeish et al. 2025, Gemstones: a model suite for multi-faceted scaling laws (arXiv:2502.06857)")

LAWS = (GEMSTONES,)
# The published fit of the cooled-down subset, Huber 1e-4 [P]: exponentials of its log coefficients.
CONSTANTS = {GEMSTONES.name: dict(W=5.1426, K=0.97483, A=2605.4, B=21673.0, E=1.52123, omega=0.30147, kappa=0.36555,
                                  alpha=0.50550, beta=0.46702)}
RANGES = dict(width=(256, 3072), depth=(3, 80), params=(5e7, 2e9), tokens=(2e9, 3.5e11))
