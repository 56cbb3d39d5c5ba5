"""Accuracy of a model of a given loss when k samples are spent on every problem, for one way of using the samples.

Two known laws in one: -ln of the pass rate falls with the loss (exponentially; as a power of the size it is PassUntil),
and with samples it falls as a power k**-b (coverage), down to a share f of it that samples cannot remove: 0 for a
verifier that never errs, more for votes and for scorers that err. One fit per strategy; the joint frontier of training
and inference compute (`search.frontier`) chains it behind a loss law.
"""

from __future__ import annotations

import numpy as np

from scaling.fitting.law import Law

TEST_TIME = Law(
    name="test_time",
    formula="-ln accuracy = exp(c (L - L0)) (f + (1 - f) k**-b)",   # at the loss L0 one sample is right 1/e often
    inputs=("loss", "samples"), output="accuracy",
    predict=lambda p, x: np.exp(-np.exp(p.c * (x.loss - p.L0)) * (p.f + (1 - p.f) * x.samples**-p.b)),
    exponents=("b",),
    bounds=dict(c=(0, None), L0=(None, None), f=(0, 1), b=(0, 4)),
    space="raw", objective="gaussian",
    start=dict(c=(0.7, 2.0, 5.0, 12.0), L0=(0.1, 0.4, 0.8, 1.3, 1.9, 2.6, 3.5), f=(0.05, 0.3, 0.7),
               b=(0.15, 0.4, 0.8, 1.5)),
    units=dict(loss="nats/token, or any task loss", samples="samples per problem", accuracy="fraction right"),
    source="our own: the laws of Hu et al. 2024 (arXiv:2310.03262) in the loss and of Brown et al. 2024 "
           "(arXiv:2407.21787) in the samples, with a plateau")

LAWS = (TEST_TIME,)
CONSTANTS = {TEST_TIME.name: dict(c=2.2, L0=2.1, f=0.25, b=0.6)}
RANGES = dict(loss=(1.8, 3.5), samples=(1, 500))
