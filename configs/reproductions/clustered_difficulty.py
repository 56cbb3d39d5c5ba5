"""The score of large models from small ones: by clusters of equal difficulty, or by one curve for the whole test.

    python -m launch.reproduce clustered_difficulty --workdir runs/reproductions/clustered_difficulty

Ten minutes on one core for the shared ladder, if no reproduction has trained it yet; then three.
"""

import numpy as np
import pandas as pd

from configs.benchmark_ladder import choices, measured, plan
from scaling.evaluate.measures.difficulty import forecast
from scaling.evaluate.trials import per_item
from scaling.reproduction import Measured, Reproduction, Workspace

REACH = 8  # compute of the largest model over that of the largest that is fitted
HALVES = 16  # random halves of the items, whose spread is that of the whole


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="clustered_difficulty",
        methods=(129,),
        claim="Forecasting by clusters of items of equal difficulty misses the scores of larger models by less than "
        "one curve for the whole test",
        source="Xu et al. 2025, arXiv:2502.17262",
        smallest_effect=0.01,
        unit="mean absolute error of the direct curve less that of the chain",
        minutes=14,
        not_covered="more than eightfold extrapolation; scores of sampled answers: the probability of the right "
        "choice is their mean; the interval is over items, for these two ladders; the radius of clusters and the cut "
        "were settled on this ladder, so that the finding is exploratory until a fresh one repeats it",
        simulated=False,
        run=run,
        sweeps=lambda quick: [plan(quick)],
    )


def frontier(table: pd.DataFrame) -> np.ndarray:
    """The models that no cheaper one of the same seed beats in loss [models] bool."""
    beaten = [((table["seed"] == one.seed) & (table["flops"] <= one.flops) & (table["loss"] < one.loss)).any()
              for one in table.itertuples()]  # fmt: skip
    return ~np.array(beaten)


def run(work: Workspace) -> Measured:
    table, rows = measured(work)
    chosen = choices(rows)
    scores = per_item(chosen, "probability").loc[table["trial"]].to_numpy()
    guess = float(chosen["chance"].mean())
    on, compute = frontier(table), table["flops"].to_numpy()
    reach = 2 if work.quick else REACH
    small, large = on & (compute <= compute[on].max() / reach), on & (compute > compute[on].max() / reach)

    def errors(items: np.ndarray) -> list[float]:
        """Mean absolute error of the direct curve and of the chain."""
        found = forecast(scores[small][:, items], compute[small], compute[large], guess)
        truth = scores[large][:, items].mean(1)
        return [float(np.abs(one - truth).mean()) for one in (found.direct, found.chained)]

    rng, every = np.random.default_rng(0), np.arange(scores.shape[1])
    whole = work.keep("whole", lambda: errors(every))
    halves = work.keep("halves", lambda: [
        errors(np.sort(rng.permutation(every)[: len(every) // 2])) for _ in range(3 if work.quick else HALVES)
    ])  # fmt: skip
    effect = whole[0] - whole[1]
    spread = np.std([direct - chain for direct, chain in halves], ddof=1)  # of half of the items: that of the whole
    details = {"error": {"direct": whole[0], "chain": whole[1]}, "models fitted": int(small.sum()),
               "models forecast": int(large.sum()), "halves": halves}  # fmt: skip
    flops = float(table["flops"].sum() + rows["flops"].sum())
    return Measured(effect, (effect - 1.645 * spread, effect + 1.645 * spread), flops, details)
