"""Where the correlation of a score with compute is lost: from log-probability to probability among choices to accuracy.

    python -m launch.reproduce probability_chain --workdir runs/reproductions/probability_chain

Ten minutes on one core for the shared ladder, if no reproduction has trained it yet; then two.
"""

import numpy as np

from configs.benchmark_ladder import choices, measured, plan
from scaling.evaluate.measures.correlation import CHAIN, item_correlations
from scaling.evaluate.trials import per_item
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="probability_chain",
        methods=(37,),
        claim="The correlation of per-item scores with log compute falls at each step from the log-probability of the "
        "right choice to its probability among the choices to accuracy",
        source="Schaeffer et al. 2024, arXiv:2406.04391",
        smallest_effect=0.02,
        unit="Spearman correlation, the lesser of the two falls",
        minutes=12,
        not_covered="published benchmarks and model families; the interval is over items, for these twelve runs; "
        "scores of this ladder were seen before the claim was written",
        simulated=False,
        run=run,
        sweeps=lambda quick: [plan(quick)],
    )


def run(work: Workspace) -> Measured:
    table, rows = measured(work)
    chosen = choices(rows)
    columns = [
        per_item(chosen, name).loc[table["trial"]] for name in ("gold_logprob", "probability", "brier", "correct")
    ]
    gold, among, brier, right = (frame.to_numpy() for frame in columns)
    compute = np.log(table["flops"].to_numpy())
    each = item_correlations(np.stack([gold, among, -brier, right]), compute)  # [stages, items]
    wrong = np.log(np.exp(gold) / among * (1 - among) + 1e-300)  # log of the mass on the wrong choices
    falls = np.stack([each[0] - each[1], each[1] - each[3]], axis=1)

    def effect(items: np.ndarray) -> float:
        return float(items.mean(0).min())

    means = each.mean(1)
    lines = {"mean over items": {"x": list(range(len(CHAIN))), "y": means.tolist()}}
    panel = {"x": "stage: " + ", ".join(CHAIN), "y": "Spearman with log compute", "log": "", "lines": lines}
    details = {"curves": [panel], "correlation": dict(zip(CHAIN, means.tolist(), strict=True)),
               "mass on wrong choices": float(item_correlations(wrong[None], compute).mean()),
               "items": each.shape[1]}  # fmt: skip
    flops = float(table["flops"].sum() + rows["flops"].sum())
    return Measured(effect(falls), bootstrap_interval(falls, effect), flops, details)
