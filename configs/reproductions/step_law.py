"""One power law of size and tokens sets learning rate and batch: its regret on the published grids of a size left out.

    ISOFLOP_DATA=... python -m launch.reproduce step_law --workdir runs/reproductions/step_law

Seconds: 1,404 published runs, 12 grids of some 120 learning rates and batches, three sizes, each left out once.
"""

import pandas as pd

from scaling.laws.step_law import STEP_BATCH, STEP_LEARNING_RATE, regret, step_law
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval, given_table

WITHIN = 0.5  # per cent
ORIGIN = "dense runs of step-law/steplaw @32a8f4c"


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="step_law",
        methods=(153,),
        claim="Learning rate and batch from a power law come within 0.5 % of the best loss of a held-out size's grid",
        source="Li et al. 2025, arXiv:2503.04715",
        smallest_effect=0.0,
        unit="percentage points by which the mean regret stays below 0.5 %",
        minutes=0.3,
        not_covered="own grids (own_step_law); settings between grid points: the regret is that of the nearest one",
        simulated=False,
        run=run,
    )


def run(work: Workspace) -> Measured:
    runs = given_table("scaling/steplaw_dense.csv", ORIGIN)
    runs = runs.rename(columns={"N": "params_nonembed", "D": "tokens", "lr": "learning_rate"})
    runs["batch_tokens"] = 2048 * runs["bs_seq"]
    found = work.keep("regret", lambda: [row for size in sorted(runs["params_nonembed"].unique())
                                         for row in left_out(runs, size)])  # fmt: skip
    cells = pd.DataFrame(found)
    gains = WITHIN - 100 * cells["regret"].to_numpy()
    largest = cells["params_nonembed"] == cells["params_nonembed"].max()
    lines = {
        f"{size / 1e6:.0f}M": {"x": cell["tokens"].tolist(), "y": (100 * cell["regret"]).tolist()}
        for size, cell in cells.groupby("params_nonembed")
    }
    details = {
        "curves": [{"x": "tokens", "y": "regret, %", "log": "x", "lines": lines}],
        "regret of the largest size, mean and worst, %": [
            float(100 * cells["regret"][largest].mean()), float(100 * cells["regret"][largest].max()),
        ],
        "held-out grids": found,
    }  # fmt: skip
    return Measured(float(gains.mean()), bootstrap_interval(gains), 0.0, details)


def left_out(runs: pd.DataFrame, size: int) -> list[dict]:
    """Regret of the law of the other sizes on every grid of this one; smoothed final losses."""
    held_out = runs["params_nonembed"] == size
    rate, batch, _ = step_law(runs[~held_out], loss="smooth_loss")

    def recommend(params: float, tokens: float) -> tuple[float, float]:
        eta = STEP_LEARNING_RATE(rate.params, params_nonembed=params, tokens=tokens)
        return float(eta), float(STEP_BATCH(batch.params, tokens=tokens))

    table = regret(recommend, runs[held_out], loss="smooth_loss")
    return table[["params_nonembed", "tokens", "regret"]].astype(float).to_dict("records")
