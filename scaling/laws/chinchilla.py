"""Chinchilla (Hoffmann et al. 2022): loss from parameters and tokens, three ways to the compute-optimal model.

Approach 1 takes the lower envelope of training curves, approach 2 the minima of isoFLOP parabolas, approach 3 fits one
parametric loss to all runs. C = 6 N D throughout.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scaling.fitting.law import Law


def compute_exponent(p: Any) -> float:
    """a in N* ~ C^a."""
    return p.beta / (p.alpha + p.beta)


def token_exponent(p: Any) -> float:
    """b in D* ~ C^b."""
    return p.alpha / (p.alpha + p.beta)


def optimal_params(p: Any, flops: float | np.ndarray) -> Any:
    """N* [.] at C = 6 N D = flops [.]: G (C/6)^(beta/(alpha+beta)), G = (alpha A / (beta B))^(1/(alpha+beta))."""
    scale = (p.alpha * p.A / (p.beta * p.B)) ** (1 / (p.alpha + p.beta))
    return scale * (np.asarray(flops, float) / 6) ** compute_exponent(p)


CHINCHILLA = Law(
    name="chinchilla",
    formula="L = E + A / N**alpha + B / D**beta",  # nats/token
    inputs=("params", "tokens"),
    output="loss",
    predict=lambda p, x: p.E + p.A * x.params**-p.alpha + p.B * x.tokens**-p.beta,
    linear=("A", "B", "E"),
    exponents=("alpha", "beta"),
    bounds=dict(A=(0, None), B=(0, None), E=(0, None), alpha=(0, 2), beta=(0, 2)),
    derived=dict(a=compute_exponent, b=token_exponent),
    units=dict(params="parameters", tokens="tokens", loss="nats/token"),
    source="Hoffmann et al. 2022, approach 3 (arXiv:2203.15556)",
)
