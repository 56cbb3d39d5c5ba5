"""A version of a benchmark with longer items, estimated for 48 models from five that are run on it.

    python -m launch.reproduce item_response_reevaluation --workdir runs/reproductions/item_response_reevaluation

Ten minutes on one core for the shared ladder, if no reproduction has trained it yet; then three.
"""

import numpy as np

from configs.benchmark_ladder import choices, measured, plan
from scaling.evaluate.measures.correlation import cluster_interval
from scaling.evaluate.measures.item_response import logit_linear, reevaluated, spread_models
from scaling.evaluate.trials import per_item
from scaling.reproduction import Measured, Reproduction, Workspace

RUN = 5  # models that are run on the new version


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="item_response_reevaluation",
        methods=(135,),
        claim="Item response theory estimates the scores of all models on a refreshed version of a benchmark from "
        "a few that are run on it, within 2.5 points on average",
        source="Shabtay et al. 2024, LiveXiv, arXiv:2410.10783",
        smallest_effect=0.0,
        unit="points by which the mean error is below 2.5",
        minutes=13,
        not_covered="visual questions on papers; a version made later; models of different families",
        simulated=False,
        run=run,
        sweeps=lambda quick: [plan(quick)],
    )


def run(work: Workspace) -> Measured:
    table, rows = measured(work)
    chosen = choices(rows)
    right = per_item(chosen, "correct").loc[table["trial"]]
    length = chosen[chosen["trial"] == table["trial"].iloc[0]].set_index(["task", "problem"])["prompt_tokens"]
    noise = np.random.default_rng(0).random(right.shape[1])  # items of equal length go to either version
    rank = length.loc[right.columns].groupby("task").rank(pct=True).to_numpy() + 0.5 * noise
    new_items = rank > np.median(rank)  # the longer ones of every task
    old, new = right.to_numpy()[:, ~new_items], right.to_numpy()[:, new_items]
    ran = spread_models(old.mean(1), RUN)
    rest = np.setdiff1d(np.arange(len(table)), ran)

    def errors() -> dict[str, list[float]]:
        """Points of each model that was not run."""
        shown = np.full_like(new, np.nan)
        shown[ran] = new[ran]
        ran_shift = (new[ran].mean(1) - old[ran].mean(1)).mean()
        estimates = {"item response": reevaluated(old, shown), "line of logits": logit_linear(old, shown),
                     "mean shift": old.mean(1) + ran_shift, "old score": old.mean(1)}  # fmt: skip
        return {name: (100 * np.abs(made - new.mean(1)))[rest].tolist() for name, made in estimates.items()}

    found = work.keep("errors", errors)
    points = np.array(found["item response"])
    runs = table["run"].to_numpy()[rest]
    interval = cluster_interval(runs, lambda models: 2.5 - float(points[models].mean()))
    sampling = 100 * np.sqrt(new.mean(1) * (1 - new.mean(1)) / new.shape[1])
    details = {"mean error": {name: float(np.mean(values)) for name, values in found.items()},
               "models run": RUN, "models estimated": len(rest), "items": [old.shape[1], new.shape[1]],
               "mean score of the versions": [float(old.mean()), float(new.mean())],
               "mean standard error of a full run": float(sampling[rest].mean())}  # fmt: skip
    flops = float(table["flops"].sum() + rows["flops"].sum())
    return Measured(2.5 - float(points.mean()), interval, flops, details)
