"""Step law (Li et al. 2025, arXiv:2503.04715): the learning rate and batch size that suit a model and its data.

lr* = c N**p D**q and B* = c D**r, with N the parameters without embeddings and B in tokens. The optimum of a grid is
flat: exponents fitted to it move by tenths between reasonable choices while the loss moves by tenths of a per cent.
Judge a law by its regret, the excess loss of the grid point next to what it recommends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd

from models.errors import ConfigError
from scaling.fitting.fit import Fit, fit
from scaling.fitting.runs import Runs, as_table, missing
from scaling.laws.power import power_law

UNITS = dict(params_nonembed="parameters without embeddings", tokens="tokens", learning_rate="peak learning rate",
             batch_tokens="tokens per step")
NEAR = 0.01           # rows within this relative distance of a cell's best loss shape its parabola
CELL = ("params_nonembed", "tokens")
KNOBS = ("learning_rate", "batch_tokens")
SOURCE = "Li et al. 2025, Predictable scale: part I, step law (arXiv:2503.04715)"

STEP_LEARNING_RATE = power_law("step_learning_rate", "learning_rate", {"params_nonembed": "p", "tokens": "q"}, UNITS,
                               SOURCE, scale="c")
STEP_BATCH = power_law("step_batch", "batch_tokens", {"tokens": "r"}, UNITS, SOURCE, scale="c")


def cell_optima(runs: Runs, *, columns: Mapping[str, str] | None = None, loss: str = "loss",
                near: float = NEAR) -> pd.DataFrame:
    """The optimum of every (params_nonembed, tokens) cell of a grid over learning_rate and batch_tokens.

    A paraboloid in (ln lr, ln B) through the rows within `near` of the cell's best loss gives the optimum and, by the
    delta method, its covariance. Columns: the cell, learning_rate, batch_tokens, loss, sd_learning_rate, sd_batch
    (of the logarithms), covariance, rows, used, reason; an optimum without curvature or off the grid is not used.
    """
    table = as_table(runs, columns, (*CELL, *KNOBS, loss))
    for name in (*CELL, *KNOBS, loss):
        if name not in table.columns:
            missing(name, table.columns)
    rows = []
    for (params, tokens), cell in table.groupby(list(CELL)):
        best = cell[loss].min()
        close = cell[cell[loss] <= best * (1 + near)]
        point, covariance, reason = _paraboloid(np.log(close[list(KNOBS)].to_numpy(float)), close[loss].to_numpy(float),
                                                np.log(cell[list(KNOBS)].to_numpy(float)))
        rows.append({"params_nonembed": params, "tokens": tokens, "learning_rate": np.exp(point[0]),
                     "batch_tokens": np.exp(point[1]), "loss": best, "sd_learning_rate": np.sqrt(covariance[0, 0]),
                     "sd_batch": np.sqrt(covariance[1, 1]), "covariance": covariance[0, 1], "rows": len(close),
                     "used": not reason, "reason": reason})
    return pd.DataFrame(rows)


def _paraboloid(knobs, loss, grid):
    """Minimum [2], its covariance [2, 2], and why it cannot be used, of a quadratic surface through loss [n]."""
    nothing = np.full(2, np.nan), np.full((2, 2), np.nan)
    center = knobs.mean(0)
    u, v = (knobs - center).T
    basis = np.column_stack([np.ones_like(u), u, v, 0.5 * u * u, u * v, 0.5 * v * v])
    if len(loss) < 8 or np.linalg.matrix_rank(basis) < 6:
        return *nothing, f"{len(loss)} rows near the optimum"
    coefficients, *_ = np.linalg.lstsq(basis, loss, rcond=None)
    curvature = np.array([[coefficients[3], coefficients[4]], [coefficients[4], coefficients[5]]])
    if np.linalg.eigvalsh(curvature)[0] <= 0:
        return *nothing, "no curvature"
    shift = -np.linalg.solve(curvature, coefficients[1:3])
    variance = np.sum((loss - basis @ coefficients) ** 2) / (len(loss) - 6)
    spread = variance * np.linalg.pinv(basis.T @ basis)
    u, v = shift
    slopes = -np.linalg.solve(curvature, np.array([[0, 1, 0, u, v, 0], [0, 0, 1, 0, u, v]]))
    point = center + shift
    outside = np.any((point < grid.min(0)) | (point > grid.max(0)))
    return point, slopes @ spread @ slopes.T, "off the grid" if outside else ""


def step_law(
    runs: Runs, *, columns: Mapping[str, str] | None = None, loss: str = "loss", near: float = NEAR
) -> tuple[Fit, Fit, pd.DataFrame]:
    """Both laws fitted to the cell optima, weighted by their inverse variances; returns (learning rate, batch, cells).

    The covariance between the two optima of a cell does not enter: the laws share no parameter.
    """
    cells = cell_optima(runs, columns=columns, loss=loss, near=near)
    used = cells[cells["used"]]
    if len(used) < 4:
        raise ConfigError("runs", f"{len(used)} of {len(cells)} cells have an optimum inside their grid",
                          "give at least 4 cells, better 12, whose grids hold their optimum")
    floor = 1e-3        # of ln: a cell cannot be known better than its grid spacing allows
    learning_rate = fit(STEP_LEARNING_RATE, used, weights=1 / (used["sd_learning_rate"] ** 2 + floor))
    batch = fit(STEP_BATCH, used, weights=1 / (used["sd_batch"] ** 2 + floor))
    return learning_rate, batch, cells


def regret(
    recommend: Callable[[float, float], Iterable[float]], runs: Runs, *, columns: Mapping[str, str] | None = None,
    loss: str = "loss",
) -> pd.DataFrame:
    """Excess loss of a rule: per cell, the relative loss above the cell's best of the grid point nearest to the rule's.

    recommend: (params_nonembed, tokens) -> (learning_rate, batch_tokens). Distances are in units of the grid's own
    spacing in ln lr and ln B. Columns: the cell, learning_rate, batch_tokens (recommended), nearest_*, regret.
    """
    table = as_table(runs, columns, (*CELL, *KNOBS, loss))
    for name in (*CELL, *KNOBS, loss):
        if name not in table.columns:
            missing(name, table.columns)
    rows = []
    for (params, tokens), cell in table.groupby(list(CELL)):
        wanted = np.array([float(value) for value in recommend(params, tokens)])
        grid = np.log(cell[list(KNOBS)].to_numpy(float))
        spacing = np.array([_spacing(column) for column in grid.T])
        nearest = cell.iloc[int(np.argmin(np.sum(((grid - np.log(wanted)) / spacing) ** 2, axis=1)))]
        rows.append({"params_nonembed": params, "tokens": tokens, "learning_rate": wanted[0], "batch_tokens": wanted[1],
                     "nearest_learning_rate": nearest["learning_rate"], "nearest_batch_tokens": nearest["batch_tokens"],
                     "regret": nearest[loss] / cell[loss].min() - 1})
    return pd.DataFrame(rows)


def _spacing(column) -> float:
    steps = np.diff(np.unique(column))
    return float(np.median(steps)) if len(steps) else 1.0


LAWS = (STEP_LEARNING_RATE, STEP_BATCH)
# From memory [M]; the published exponents of the learning rate cannot be reproduced from the released grids
CONSTANTS = {STEP_LEARNING_RATE.name: dict(c=1.79, p=-0.713, q=0.307), STEP_BATCH.name: dict(c=0.58, r=0.571)}
RANGES = dict(params_nonembed=(6e7, 1e9), tokens=(2e9, 1e11))
