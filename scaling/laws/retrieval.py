"""Inference scaling for retrieval (Yue et al. 2024): how to split a context between documents, examples and iterations.

logit P = (a + b * i) . ln(theta) + c, theta = (documents, shots, iterations), i the informativeness of each for the
task (the paper sets that of iterations to 0: hold b_iterations with fixed= then, the rows cannot determine it).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import expit

from models.errors import ConfigError
from scaling.fitting.fit import Fit
from scaling.fitting.law import Law

AXES = ("documents", "shots", "iterations")


def retrieval_law(offset: float = 0.0) -> Law:
    """The law with ln(theta + offset): with shots or documents of 0 among the rows, an offset is needed (1, say)."""
    def predict(p, x):
        total = p.c
        for axis in AXES:
            total = total + (p[f"a_{axis}"] + p[f"b_{axis}"] * x[f"i_{axis}"]) * np.log(x[axis] + offset)
        return expit(total)

    linear = [f"{letter}_{axis}" for letter in "ab" for axis in AXES]
    plus = f" + {offset:g}" if offset else ""
    return Law(
        name="retrieval" if not offset else f"retrieval_{offset:g}",
        formula=f"logit P = (a + b * i) . ln(theta{plus}) + c",
        inputs=(*AXES, *(f"i_{axis}" for axis in AXES)), output="accuracy", predict=predict,
        bounds=dict.fromkeys([*linear, "c"], (None, None)),
        space="logit", objective="gaussian", start={**dict.fromkeys(linear, (0.0,)), "c": (-3.0, -1.0, 1.0, 3.0)},
        units=dict(documents="retrieved documents", shots="in-context examples", iterations="generation steps",
                   i_documents="gain in score of one document over none", i_shots="gain in score of one shot over none",
                   i_iterations="0 in the source",
                   accuracy="fraction right"),
        source="Yue et al. 2024, equation 2 (arXiv:2410.04343)")


RETRIEVAL = retrieval_law()


class Allocation(NamedTuple):
    """The best affordable setting: row of the candidates, its predicted score, the regret where scores are known."""

    row: int
    accuracy: float
    regret: float


def allocate(fitted: Fit, candidates: Mapping[str, ArrayLike] | pd.DataFrame, cost: ArrayLike,
             budget: float, measured: ArrayLike | None = None) -> Allocation:
    """Of the candidate rows (the law's inputs) that cost at most `budget`, the one with the best predicted score.

    cost [rows] in any unit, that of budget; measured [rows]: true scores, for the regret of the choice.
    Raises ConfigError when no candidate is affordable.
    """
    cost = np.asarray(cost, float)
    inputs = {name: np.asarray(candidates[name], float) for name in fitted.law.inputs}
    affordable = np.flatnonzero(cost <= budget)
    if not len(affordable):
        raise ConfigError("budget", f"{budget:g} is below the cheapest candidate, {cost.min():g}", "raise the budget")
    predicted = fitted.law(fitted.params, **inputs)
    row = int(affordable[np.argmax(predicted[affordable])])
    regret = np.nan if measured is None else float(np.max(np.asarray(measured)[affordable]) - np.asarray(measured)[row])
    return Allocation(row, float(predicted[row]), regret)


LAWS = (RETRIEVAL,)
