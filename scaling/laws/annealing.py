"""Learning-rate annealing (Tissue et al. 2024, arXiv:2408.11029): whole loss curves under any schedule.

L(s) = L0 + A S1**-alpha - C S2, where S1 is the area under the learning rate up to step s and S2 the annealing area:
the drops of the learning rate, remembered with a momentum and summed. `areas` computes both from a schedule. The
constants at the end are from memory and could not be checked: they make a plausible curve and were not measured.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from models.errors import ConfigError
from scaling.fitting.law import Law

DECAY = 0.999          # lambda of the paper

ANNEALING = Law(
    name="annealing",
    formula="L = L0 + A * S1**-alpha - C * S2",                                            # nats/token
    inputs=("forward_area", "annealing_area"), output="loss",
    predict=lambda p, x: p.L0 + p.A * x.forward_area**-p.alpha - p.C * x.annealing_area,
    linear=("L0", "A", "C"), exponents=("alpha",),
    bounds=dict(L0=(0, None), A=(0, None), C=(0, None), alpha=(0, 2)),
    units=dict(forward_area="learning rate x steps", annealing_area="learning rate x steps", loss="nats/token"),
    source="Tissue et al. 2024, Scaling law with learning rate annealing (arXiv:2408.11029)")


def areas(learning_rates: ArrayLike, decay: float = DECAY) -> pd.DataFrame:
    """forward_area S1 and annealing_area S2 after each step of a schedule, learning_rates [steps].

    S1_s = sum_{i <= s} lr_i; S2_s = sum_{i <= s} m_i with m_i = decay m_{i-1} + (lr_{i-1} - lr_i), m_1 = 0. Give the
    schedule from the peak on: the law is not meant for the warm-up.
    """
    from scipy.signal import lfilter  # half a second of import that no other law needs

    rates = np.asarray(learning_rates, float)
    if rates.ndim != 1 or not len(rates) or not np.all(np.isfinite(rates)) or np.any(rates < 0):
        raise ConfigError("learning_rates", "not a sequence of non-negative numbers", "give one learning rate per step")
    if not 0 <= decay < 1:
        raise ConfigError("decay", f"{decay} is not in [0, 1)", f"use about {DECAY}")
    momentum = lfilter([1.0], [1.0, -decay], -np.diff(rates, prepend=rates[0]))
    return pd.DataFrame({"forward_area": np.cumsum(rates), "annealing_area": np.cumsum(momentum)})


LAWS = (ANNEALING,)
CONSTANTS = {ANNEALING.name: dict(L0=2.628, A=0.429, alpha=0.507, C=0.411)}
RANGES = dict(forward_area=(0.1, 30.0), annealing_area=(0.0, 0.5))
