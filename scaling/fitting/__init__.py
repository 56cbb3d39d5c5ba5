"""The machinery of fits: it estimates, certifies, extrapolates and spends, for any law.

    law         what a law is; the estimator may assume no more about it
    runs, table, where   a table of runs: read, checked, selected
    estimator, start_grid, derivatives, objectives, scale   one optimum, global and exact
    certificate, bootstrap, profile, calibration   what may be believed of it
    fit         `fit(law, runs)`; fitted, serialize, display   what it returns, keeps and shows
    holdout, frontier, allocation, design   tests of the extrapolation, frontiers without a law, plans, next runs
    grouped, two_step, quantile   one law per group, two laws in a chain, the best instead of the mean

The laws themselves are in `scaling.laws`, which imports from here and never the other way.
"""

from scaling.fitting.allocation import Plan, plan  # noqa: F401
from scaling.fitting.design import design, runs_needed  # noqa: F401
from scaling.fitting.fit import Fit, fit  # noqa: F401
from scaling.fitting.fitted import Interval, Prediction  # noqa: F401
from scaling.fitting.frontier import Frontier, chinchilla_envelope, isoflop_minima  # noqa: F401
from scaling.fitting.holdout import Holdout, compare, holdout, rolling  # noqa: F401
from scaling.fitting.law import Law, Values, by_name  # noqa: F401
from scaling.fitting.profile import profile  # noqa: F401
from scaling.fitting.runs import UnitWarning, load  # noqa: F401
from scaling.fitting.two_step import TwoStep  # noqa: F401
