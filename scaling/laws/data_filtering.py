"""Scaling laws for data filtering (Goyal et al. 2024, arXiv:2404.07177): the utility of a sample halves as it repeats.

Epoch k over a pool of U unique tokens multiplies the excess error by (n_k / n_{k-1})**b_k with b_k = b 2**(-(k-1)/tau):
tau epochs halve what a repetition is worth. A better filter has a steeper b and, being smaller, repeats sooner.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scaling.fitting.law import Law

# Utilities have halved many times by then; the samples of later epochs are counted as worthless.
MAX_EPOCHS = 64


def log_excess(p: Any, x: Any) -> Any:
    """log of the excess error over its size at one token: b (ln n_1 + sum_k 2**(-(k-1)/tau) ln(n_k / n_{k-1}))."""
    first = np.minimum(x.unique_tokens, x.tokens)
    total, half = np.log(first), np.exp(-np.log(2.0) / p.tau)
    epochs, weight = np.max(x.tokens / x.unique_tokens), 1.0
    for epoch in range(2, min(int(np.ceil(epochs)), MAX_EPOCHS) + 1):
        weight = weight * half
        seen, before = (np.minimum(x.tokens, k * x.unique_tokens) for k in (epoch, epoch - 1))
        total = total + weight * np.log(np.maximum(seen / before, 1.0))
    return p.b * total


DATA_FILTERING = Law(
    name="data_filtering",
    formula="y = a * n1**b * prod_k (n_k / n_(k-1))**(b * 2**(-(k-1) / tau)) + d",         # error or nats/token
    inputs=("unique_tokens", "tokens"), output="loss",
    predict=lambda p, x: p.a * np.exp(log_excess(p, x)) + p.d,
    linear=("a", "d"), exponents=("b",),
    bounds=dict(a=(0, None), b=(-2, 0), tau=(0, None), d=(0, None)),
    start=dict(b=(-0.8, -0.5, -0.3, -0.2, -0.13, -0.08, -0.05), tau=(0.5, 1.0, 2.0, 4.0, 8.0, 16.0)),
    units=dict(unique_tokens="tokens (or samples)", tokens="tokens (or samples) seen", loss="error or nats/token"),
    source="Goyal et al. 2024, Scaling laws for data filtering (arXiv:2404.07177)")

LAWS = (DATA_FILTERING,)
# Not of a paper: values inside the ranges that the source reports, from memory [M].
CONSTANTS = {DATA_FILTERING.name: dict(a=30.0, b=-0.2, tau=3.0, d=0.4)}
RANGES = dict(unique_tokens=(1e7, 1e9), tokens=(1e8, 4e9))
