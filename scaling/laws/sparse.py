"""Sparsity: mixture-of-experts sparsity (Abnar et al. 2025) and pruned weights (Frantar et al. 2023).

Abnar's S is the share of parameters that a token does not use, Frantar's the share of weights that are zero and N the
weights that are not. Ten parameters for three inputs: the certificate says which of them the rows leave open.
"""

from __future__ import annotations

from scaling.fitting.law import Law

EXPONENTS = (0.1, 0.25, 0.5, 0.9)

SPARSE_MOE = Law(
    name="sparse_moe",
    formula="L = a / N**alpha + b / D**beta + c / (1-S)**lambda + d / ((1-S)**delta * N**gamma) + e",      # nats/token
    inputs=("params", "tokens", "sparsity"), output="loss",
    predict=lambda p, x: (p.a * x.params**-p.alpha + p.b * x.tokens**-p.beta + p.c * (1 - x.sparsity) ** -p["lambda"]
                          + p.d * (1 - x.sparsity) ** -p.delta * x.params**-p.gamma + p.e),
    linear=("a", "b", "c", "d", "e"), exponents=("alpha", "beta", "lambda", "delta", "gamma"),
    bounds={**dict.fromkeys(("a", "b", "c", "d", "e"), (0, None)), "alpha": (0, 2), "beta": (0, 2), "lambda": (-2, 2),
            "delta": (-2, 2), "gamma": (0, 2)},
    start={"alpha": EXPONENTS, "beta": EXPONENTS, "gamma": EXPONENTS, "lambda": (-0.5, -0.15, 0.15),
           "delta": (-0.3, 0.1, 0.4)},
    units=dict(params="parameters, all experts", tokens="tokens", sparsity="share of inactive parameters",
               loss="nats/token"),
    source="Abnar et al. 2025, Parameters vs FLOPs (arXiv:2501.12370)")

SPARSE_WEIGHTS = Law(
    name="sparse_weights",
    formula="L = (a_S * (1-S)**b_S + c_S) * N**-b_N + (a_D / D)**b_D + c",                 # nats/token
    inputs=("params", "tokens", "sparsity"), output="loss",
    predict=lambda p, x: ((p.a_S * (1 - x.sparsity) ** p.b_S + p.c_S) * x.params**-p.b_N
                          + (p.a_D / x.tokens) ** p.b_D + p.c),
    linear=("a_S", "c_S", "c"), exponents=("b_S", "b_N", "b_D"),
    bounds=dict(a_S=(0, None), b_S=(0, 3), c_S=(0, None), b_N=(0, 2), a_D=(0, None), b_D=(0, 2), c=(0, None)),
    start=dict(b_S=(0.2, 0.5, 1.0, 2.0), b_N=(0.1, 0.2, 0.35, 0.6), b_D=(0.1, 0.2, 0.35, 0.6),
               a_D=(1e5, 1e7, 1e9, 1e11)),
    units=dict(params="non-zero parameters", tokens="tokens", sparsity="share of zero weights", loss="nats/token"),
    source="Frantar et al. 2023, Scaling laws for sparsely-connected foundation models (arXiv:2309.08520)")

LAWS = (SPARSE_MOE, SPARSE_WEIGHTS)
# From memory, unchecked [M]; SPARSE_WEIGHTS is T5 on C4.
CONSTANTS = {SPARSE_MOE.name: {"a": 16612.5, "alpha": 0.5962, "b": 5455.67, "beta": 0.3954, "c": 0.4598,
                               "lambda": -0.1666, "d": 17.26, "delta": 0.1603, "gamma": 0.1595, "e": 0.94},
             SPARSE_WEIGHTS.name: dict(a_S=16.8, b_S=0.722, c_S=45.0, b_N=0.245, a_D=6.9e8, b_D=0.203, c=0.651)}
RANGES = dict(params=(1e7, 1e10), tokens=(1e9, 1e11), sparsity=(0.0, 0.95))
