"""Early in training the likelihood of the right answer tells more than accuracy.

    python -m launch.reproduce early_likelihood --workdir runs/reproductions/early_likelihood

Ten minutes on one core for the shared ladder, if no reproduction has trained it yet; then two.
"""

import numpy as np

from configs.benchmark_ladder import choices, measured, plan
from scaling.evaluate.measures.correlation import cluster_interval
from scaling.evaluate.measures.signal import monotonicity, signal_to_noise
from scaling.reproduction import Measured, Reproduction, Workspace

VARIANTS = ("correct", "probability", "gold_logprob")


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="early_likelihood",
        methods=(140,),
        claim="Between the first two checkpoints a benchmark scored by the likelihood of the right answer has more "
        "signal than the same benchmark scored by accuracy",
        source="NeurIPS 2025 competition on early training evaluation of language models (E2LM)",
        smallest_effect=1.0,
        unit="standard errors of the gain over items, likelihood less accuracy",
        minutes=12,
        not_covered="the competition's tasks and its weights of signal, consistency and compliance; a gain of "
        "likelihood may be of form as well as of skill; scores of this ladder were seen before the claim was written",
        simulated=False,
        run=run,
        sweeps=lambda quick: [plan(quick)],
    )


def run(work: Workspace) -> Measured:
    table, rows = measured(work)
    signal: dict[str, list[float]] = {name: [] for name in VARIANTS}
    monotone: dict[str, list[float]] = {name: [] for name in VARIANTS}
    runs = []
    for (trained, _), group in choices(rows).groupby(["run", "task"]):
        runs.append(trained)
        for name in VARIANTS:
            values = group.assign(value=group[name].astype(float))
            curve = values.pivot_table(index="steps", columns="problem", values="value")
            signal[name].append(signal_to_noise(curve.to_numpy()[:2]))
            monotone[name].append(monotonicity(curve.mean(axis=1).to_numpy(), curve.index.to_numpy()))
    gain = np.array(signal["gold_logprob"]) - np.array(signal["correct"])
    interval = cluster_interval(runs, lambda cells: float(gain[cells].mean()))
    details = {"signal": {name: float(np.mean(found)) for name, found in signal.items()},
               "monotonicity over all checkpoints": {name: float(np.mean(found)) for name, found in monotone.items()},
               "runs": len(set(runs)), "cells of run and task": len(runs)}  # fmt: skip
    return Measured(float(gain.mean()), interval, float(table["flops"].sum() + rows["flops"].sum()), details)
