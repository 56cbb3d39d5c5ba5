"""Gadre et al. 2024 (arXiv:2403.08540): loss of over-trained models, one exponent shared by size and data.

C = 6 N D FLOP and M = D / N tokens per parameter; as powers of N and D the law is Chinchilla with alpha = beta = 2 eta.
Residuals are taken in the loss itself. Four parameters: five runs fit it, ten or more give an interval.
"""

from __future__ import annotations

from scaling.fitting.law import Law

OVERTRAINING = Law(
    name="overtraining",
    formula="L = E + (a * M**eta + b * M**-eta) * C**-eta, M = D / N, C = 6 N D",          # nats/token
    inputs=("params", "tokens"), output="loss",
    predict=lambda p, x: p.E + (p.a * (x.tokens / x.params) ** p.eta + p.b * (x.tokens / x.params) ** -p.eta)
    * (6.0 * x.params * x.tokens) ** -p.eta,
    linear=("E", "a", "b"), exponents=("eta",),
    bounds=dict(E=(0, None), a=(0, None), b=(0, None), eta=(0, 1)),
    start=dict(eta=(0.02, 0.03, 0.045, 0.065, 0.09, 0.12, 0.16, 0.2, 0.26, 0.34, 0.45, 0.6, 0.8)),
    derived=dict(alpha=lambda p: 2.0 * p.eta, best_ratio=lambda p: (p.b / p.a) ** (0.5 / p.eta)),
    units=dict(params="parameters, embeddings included", tokens="tokens", loss="nats/token"),
    space="raw", objective="gaussian", source="Gadre et al. 2024, eq. 4 (arXiv:2403.08540)")

LAWS = (OVERTRAINING,)
# C4, fitted to the five published runs: a = 113.693 x 6**eta, b = 189.516, eta = .242472 / 2 [P]
CONSTANTS = {OVERTRAINING.name: dict(E=1.508260, a=113.693 * 6**0.121236, b=189.516, eta=0.121236)}
RANGES = dict(params=(1e7, 7e9), tokens=(2e8, 2e11))
