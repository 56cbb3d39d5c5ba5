"""Scaling laws: fit them, certify the fit, test the extrapolation, spend a budget.

The estimator (`fit`), what it returns (`Fit`, `Prediction`), what it is asked (`plan`, `holdout`, `rolling`, `compare`,
`profile`, `design`, `runs_needed`) and the laws themselves, each in the file named after it.
"""

from scaling.laws.allocation import Plan, plan  # noqa: F401
from scaling.laws.catalogue import CATALOGUE, by_name  # noqa: F401
from scaling.laws.chinchilla import CHINCHILLA  # noqa: F401
from scaling.laws.coverage import fit_beta_binomial  # noqa: F401
from scaling.laws.design import design, runs_needed  # noqa: F401
from scaling.laws.fit import Fit, Prediction, fit  # noqa: F401
from scaling.laws.frontier import chinchilla_envelope, isoflop_minima  # noqa: F401
from scaling.laws.general import nested_test  # noqa: F401
from scaling.laws.holdout import Holdout, compare, holdout, rolling  # noqa: F401
from scaling.laws.law import Law, Values  # noqa: F401
from scaling.laws.profile import profile  # noqa: F401
from scaling.laws.runs import UnitWarning, load  # noqa: F401
from scaling.laws.step_law import regret  # noqa: F401
from scaling.laws.two_step import TwoStep  # noqa: F401
