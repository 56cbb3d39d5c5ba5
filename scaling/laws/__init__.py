"""Scaling laws, one file each, and the catalogue of all of them.

The machinery that fits them is `scaling.fitting`; what a notebook asks of it is handed on here, beside the laws.
"""

from scaling.fitting import (  # noqa: F401
    Fit,
    Holdout,
    Law,
    Plan,
    Prediction,
    TwoStep,
    UnitWarning,
    Values,
    by_name,
    chinchilla_envelope,
    compare,
    design,
    fit,
    holdout,
    isoflop_minima,
    load,
    plan,
    profile,
    rolling,
    runs_needed,
)
from scaling.laws.catalogue import CATALOGUE  # noqa: F401
from scaling.laws.chinchilla import CHINCHILLA  # noqa: F401
from scaling.laws.coverage import fit_beta_binomial  # noqa: F401
from scaling.laws.general import nested_test  # noqa: F401
from scaling.laws.step_law import regret  # noqa: F401
