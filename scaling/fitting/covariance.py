"""How uncertain the parameters of an optimum are, without resampling: curvature and scatter of the rows' scores."""

from __future__ import annotations

import numpy as np

from scaling.fitting.certificate import robust_scale
from scaling.fitting.estimator import Estimator
from scaling.fitting.objectives import STUDENT_NU

# of the kernel that smooths a Huber curvature, in residual scales x n^-1/5: wide enough for 25 rows
WIDTH = 3.0


def sandwich(
    estimator: Estimator, z: np.ndarray, clusters: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Inverse curvature and sandwich covariance [F, F] of the free coordinates at an optimum z [K], and the variance
    one more row brings.

    The Huber curvature of a row, whether its residual is small, is smoothed over the residuals' own width and kept per
    row (Powell 1991): rows far from the optimum scatter more, and on the Chinchilla runs one mean curvature halves the
    standard error of alpha. Scores of one run are summed first.
    """
    e, n, kind = estimator, len(estimator.measured), estimator.objective.kind
    free = int(e.free.sum())
    jacobian = e.jacobian(z)[e.free] * e.residual_slope(z)
    residual, scale = e.residuals(z), e.objective.scale
    psi, curvature = residual, np.ones(n)
    if kind in ("huber", "lad"):
        psi = np.clip(residual, -scale, scale)
        width = max(scale, WIDTH * robust_scale(residual) * n**-0.2, 1e-300)
        curvature = np.maximum(1 - (residual / width) ** 2, 0.0) * 1.5 * min(scale / width, 1.0)
    elif kind == "student_t":
        ratio, unit = residual**2 / (STUDENT_NU * scale**2), (STUDENT_NU + 1) / STUDENT_NU
        psi = unit * residual / (1 + ratio)
        curvature = unit * (1 - ratio) / (1 + ratio) ** 2
    bread = np.linalg.pinv((jacobian * e.weights * curvature) @ jacobian.T, rcond=1e-14)
    scores = jacobian * psi * e.weights
    if clusters is not None:
        scores = np.array([np.bincount(clusters, row) for row in scores])
    correction = n / max(n - free, 1)
    covariance = bread @ (scores @ scores.T) @ bread * correction
    row = float(np.mean(psi**2) * correction / max(curvature.mean(), 1e-12) ** 2)
    return bread, covariance, row
