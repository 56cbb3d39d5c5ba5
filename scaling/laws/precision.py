"""Scaling laws for precision (Kumar et al. 2024, arXiv:2411.04330): bits during training and bits after it.

Training at P_w, P_a, P_kv bits of weights, activations and cache leaves N_eff = N prod(1 - exp(-P_x / gamma_x))
parameters. Quantising a trained model to P_post bits adds a degradation that grows with tokens and falls with size.
Two stages: PRECISION on the runs as trained, DEGRADATION on the differences in loss after quantisation.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scaling.fitting.law import Law

BITS = dict(weight_bits="bits", activation_bits="bits", cache_bits="bits", post_bits="bits")
UNITS = dict(params="parameters", tokens="tokens", loss="nats/token", degradation="nats/token", **BITS)


def effective_params(p: Any, x: Any) -> Any:
    """N_eff [n]; a part in full precision has a bit count far above its gamma and costs nothing."""
    return (x.params * -np.expm1(-x.weight_bits / p.gamma_w) * -np.expm1(-x.activation_bits / p.gamma_a)
            * -np.expm1(-x.cache_bits / p.gamma_kv))


PRECISION = Law(
    name="precision",
    formula="L = A / N_eff**alpha + B / D**beta + E, "
            "N_eff = N (1 - exp(-P_w / gamma_w)) (1 - exp(-P_a / gamma_a)) (1 - exp(-P_kv / gamma_kv))",
    inputs=("params", "tokens", "weight_bits", "activation_bits", "cache_bits"), output="loss",
    predict=lambda p, x: p.E + p.A * effective_params(p, x) ** -p.alpha + p.B * x.tokens**-p.beta,
    linear=("A", "B", "E"), exponents=("alpha", "beta"),
    bounds=dict(A=(0, None), B=(0, None), E=(0, None), alpha=(0, 2), beta=(0, 2), gamma_w=(0, None),
                gamma_a=(0, None), gamma_kv=(0, None)),
    start=dict(alpha=(0.1, 0.2, 0.35, 0.5, 0.8), beta=(0.1, 0.2, 0.35, 0.5, 0.8), gamma_w=(1.0, 2.5, 5.0),
               gamma_a=(1.0, 2.5, 5.0), gamma_kv=(0.5, 1.5, 4.0)),
    units=UNITS, source="Kumar et al. 2024, Scaling laws for precision, eq. 3 (arXiv:2411.04330)")

DEGRADATION = Law(
    name="precision_degradation",
    formula="dL = C_T * D**gamma_D / N**gamma_N * exp(-P_post / gamma_post)",
    inputs=("params", "tokens", "post_bits"), output="degradation",
    predict=lambda p, x: p.C_T * np.exp(p.gamma_D * np.log(x.tokens) - p.gamma_N * np.log(x.params)
                                        - x.post_bits / p.gamma_post),
    linear=("C_T",), exponents=("gamma_D", "gamma_N"),
    bounds=dict(C_T=(0, None), gamma_D=(0, 2), gamma_N=(0, 2), gamma_post=(0, None)),
    start=dict(gamma_D=(0.15, 0.3, 0.5, 0.8), gamma_N=(0.15, 0.3, 0.5, 0.8), gamma_post=(0.3, 0.6, 1.2, 2.4)),
    units=UNITS, source="Kumar et al. 2024, Scaling laws for precision, eq. 2 (arXiv:2411.04330)")

LAWS = (PRECISION, DEGRADATION)
# From memory, unchecked [M].
CONSTANTS = {PRECISION.name: dict(A=4299.0, B=18060.0, E=2.7648, alpha=0.4965, beta=0.5890, gamma_w=2.6745,
                                  gamma_a=2.2102, gamma_kv=0.9578),
             DEGRADATION.name: dict(C_T=0.0598, gamma_D=0.5068, gamma_N=0.3439, gamma_post=0.5907)}
RANGES = dict(params=(3e7, 1.7e9), tokens=(1.5e9, 2.6e10), weight_bits=(3, 12), activation_bits=(3, 12),
              cache_bits=(2, 8), post_bits=(3, 6))
