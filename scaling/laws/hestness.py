"""Hestness et al. 2017 (arXiv:1712.00409): generalisation error as a power of the training-set size, plus a floor.

The law describes the power-law region only: below it sits the region of best guessing, above it the irreducible error.
Published exponents lie between -.35 and -.07; below six sizes over two decades the floor is a guess.
"""

from __future__ import annotations

from scaling.fitting.law import Law

HESTNESS = Law(
    name="hestness",
    formula="error = a * D**b + c",                        # error in the unit of the measured one; b < 0
    inputs=("tokens",), output="loss",
    predict=lambda p, x: p.a * x.tokens**p.b + p.c,
    linear=("a", "c"), exponents=("b",),
    bounds=dict(a=(0, None), b=(-2, 0), c=(0, None)),
    start=dict(b=(-1.6, -1.0, -0.6, -0.4, -0.3, -0.22, -0.16, -0.11, -0.075, -0.05, -0.03)),
    units=dict(tokens="tokens", loss="nats/token"),
    source="Hestness et al. 2017, Deep learning scaling is predictable, empirically (arXiv:1712.00409)")

LAWS = (HESTNESS,)
# A word language model in the middle of the published exponents; the floor is an example [M].
CONSTANTS = {HESTNESS.name: dict(a=60.0, b=-0.2, c=1.5)}
RANGES = dict(tokens=(1e6, 1e10))
