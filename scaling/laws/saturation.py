"""Saturation of test-time scaling (TTSPM): each sample, or each rethink, succeeds with the same probability.

F(N) = Fmax (1 - (1 - p)^N), with p the chance that a sample is right (parallel) or that a rethink repairs the answer
(sequential). Success counts are what is measured: pass trials= and the binomial objective weighs them.
"""

from __future__ import annotations

import numpy as np

from models.errors import ConfigError
from scaling.fitting.law import Law

SATURATION = Law(
    name="saturation",
    formula="F = Fmax (1 - (1 - p)**N)",
    inputs=("samples",), output="accuracy",
    predict=lambda p, x: -p.Fmax * np.expm1(x.samples * np.log1p(-p.p)),
    linear=("Fmax",),
    bounds=dict(Fmax=(0, 1), p=(0, 1)),
    space="raw", objective="gaussian", start=dict(p=tuple(np.geomspace(1e-5, 0.95, 32))),
    units=dict(samples="samples or rethinking rounds", accuracy="fraction right"),
    source="Wang et al. 2025 (TTSPM): form from the abstract and the derivation")


def saturation_point(Fmax: float, p: float, gain: float) -> int:
    """Samples N after which one more gains less than `gain`: Fmax p (1 - p)^N < gain.

    0 when not even the first sample gains as much. Raises ConfigError for a rate outside (0, 1) or a gain of zero,
    which no finite N falls below.
    """
    if not 0 < p < 1 or not gain > 0:
        raise ConfigError("saturation_point", f"p={p}, gain={gain}", "use 0 < p < 1 and a positive gain")
    if not Fmax > 0:
        return 0
    return max(0, int(np.ceil(np.log(gain / (Fmax * p)) / np.log1p(-p))))


LAWS = (SATURATION,)
