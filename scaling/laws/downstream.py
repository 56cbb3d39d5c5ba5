"""Downstream scores from loss: Gadre's exponential error and the sigmoid of the two-step task laws.

Both map a loss that scales smoothly to a score that does not. A score law says nothing about which loss a larger run
will have: chain it behind a loss law (`two_step.TwoStep`).
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from scaling.fitting.law import Law

GADRE_ERROR = Law(
    name="gadre_error",
    formula="err = eps - k exp(-gamma L)",                  # L nats/token, err the mean top-1 error of a task suite
    inputs=("loss",), output="top1_error",
    predict=lambda p, x: p.eps - p.k * np.exp(-p.gamma * x.loss),
    linear=("eps", "k"),
    bounds=dict(eps=(0, 1), k=(0, None), gamma=(0, None)),
    space="raw", objective="gaussian", start=dict(gamma=tuple(np.geomspace(0.05, 6.0, 25))),
    units=dict(loss="nats/token", top1_error="fraction wrong, averaged over tasks"),
    source="Gadre et al. 2024, equation 5 (arXiv:2403.08540); include one run near the loss to be predicted")

TASK_SIGMOID = Law(
    name="task_sigmoid",
    formula="accuracy = a / (1 + exp(-k (bpb - x0))) + b",  # a < 0: accuracy falls from b to the level of chance, b + a
    inputs=("bpb",), output="accuracy",
    predict=lambda p, x: p.a * expit(p.k * (x.bpb - p.x0)) + p.b,
    linear=("a", "b"),
    bounds=dict(a=(-1, 0), x0=(0, None), k=(0, None), b=(0, 1)),
    space="raw", objective="gaussian",
    start=dict(k=(0.5, 1.5, 4.0, 10.0, 25.0), x0=(0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.5, 4.0)),
    derived=dict(chance=lambda p: p.a + p.b),
    units=dict(bpb="bits/byte of the right answer (any task loss will do)", accuracy="fraction right"),
    source="Bhagia et al. 2024, the second step of the OLMo ladder (arXiv:2412.04403)")

LAWS = (GADRE_ERROR, TASK_SIGMOID)
# Gadre et al. on C4, mean error of 17 tasks: published, and reproduced from the published runs.
CONSTANTS = {GADRE_ERROR.name: dict(eps=0.850, k=2.08, gamma=0.756)}
RANGES = dict(loss=(2.2, 5.0))
