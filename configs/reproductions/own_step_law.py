"""Learning rate and batch from laws of small models' own grids: their loss above the best of a larger model's own grid.

    python -m launch.reproduce own_step_law --workdir runs/reproductions/own_step_law

Six learning rates x six batches at three sizes, each run read at three lengths, give the laws; the grid of a fourth
size, three seeds of it, says what the setting that they foretell costs. Some 15 minutes of one core. A pod changes the
widths, the tokens and the mesh in _grids.py.
"""

from typing import Any

import numpy as np
import pandas as pd

from configs.reproductions import _grids as grids
from scaling.laws.step_law import CELL, KNOBS, STEP_BATCH, STEP_LEARNING_RATE, cell_optima, regret, step_law
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval

WITHIN = 0.5  # per cent
NEAR = 0.03  # of a cell's best loss: a grid by factors of two has few rows within one per cent


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="own_step_law",
        methods=(153,),
        claim="Power laws of small grids set learning rate and batch of a larger model within 0.5 % of its best loss",
        source="Li et al. 2025, arXiv:2503.04715",
        smallest_effect=0.0,
        unit="percentage points by which the regret of the largest size, mean of its lengths, stays below 0.5 %",
        minutes=15,
        not_covered="rates that decay; settings between grid points: the regret is that of the nearest one; more than "
        "13,000 parameters and 262,144 tokens; seeds of the fitted grids: the interval is over the held-out ones",
        simulated=False,
        run=run,
        sweeps=lambda quick: (grids.small(quick), grids.largest(quick)),
    )


def run(work: Workspace) -> Measured:
    fitted = grids.curves(work, grids.small(work.quick))
    table = grids.losses(fitted)
    laws = work.keep("laws", lambda: fit_laws(table, work.quick))  # before the largest size is trained

    def recommend(params: float, tokens: float) -> tuple[float, float]:
        eta = STEP_LEARNING_RATE(laws["learning_rate"], params_nonembed=params, tokens=tokens)
        return float(eta), float(STEP_BATCH(laws["batch"], tokens=tokens))

    held_out = grids.curves(work, grids.largest(work.quick))
    measured = grids.losses(held_out)
    mean = measured.groupby([*CELL, *KNOBS], as_index=False)["loss"].mean()
    best = mean.loc[mean.groupby("tokens")["loss"].idxmin()].set_index("tokens")
    found = regret(recommend, mean).join(best[[*KNOBS]].add_prefix("best_"), on="tokens")
    seeds = np.array([[excess(cell, row) for row in found.itertuples()] for _, cell in measured.groupby("seed")])
    gains = WITHIN - 100 * seeds.mean(1)
    shape = cell_optima(pd.concat([table, mean]), near=NEAR)
    details = {
        "laws": laws, "regret of each seed and length, %": (100 * seeds).tolist(),
        "held-out settings": found.astype(float).to_dict("records"),
        "cells that are convex about their best": int((shape["reason"] != "no curvature").sum()), "cells": len(shape),
        "optima": shape.drop(columns="covariance").replace({np.nan: None}).to_dict("records"),
        "curves": [{"x": "learning rate", "y": f"loss at {grids.TOKENS[-1]:,} tokens", "log": "x", "lines": {
            f"{batch:,} tokens a step": {"x": rows["learning_rate"].tolist(), "y": rows["loss"].tolist()}
            for batch, rows in mean[mean["tokens"] == mean["tokens"].max()].groupby("batch_tokens")}}],
    }  # fmt: skip
    return Measured(float(gains.mean()), t_interval(gains), sum(map(grids.total_flops, (fitted, held_out))), details)


def fit_laws(table: pd.DataFrame, quick: bool) -> dict[str, dict[str, float]]:
    """Constants of both laws; a quick run, whose grids hold no optimum, takes the means of its best rows."""
    if quick:
        best = table.loc[table.groupby(["params_nonembed", "tokens"])["loss"].idxmin()]
        rate, batch = (float(np.exp(np.log(best[name]).mean())) for name in ("learning_rate", "batch_tokens"))
        return {"learning_rate": {"c": rate, "p": 0.0, "q": 0.0}, "batch": {"c": batch, "r": 0.0}}
    of_rate, of_batch, _ = step_law(table, near=NEAR)
    return {"learning_rate": dict(of_rate.params), "batch": dict(of_batch.params)}


def excess(cell: pd.DataFrame, row: Any) -> float:
    """What one seed loses at the setting next to the recommended one, against the setting that all seeds like best."""
    at = cell[cell["tokens"] == row.tokens].set_index(["learning_rate", "batch_tokens"])["loss"]
    return float(
        at[row.nearest_learning_rate, row.nearest_batch_tokens] / at[row.best_learning_rate, row.best_batch_tokens] - 1
    )
