"""Three quarters of 16 samples stop after a third of their steps: what is left of the gain of best-of-16.

    python -m launch.reproduce pruned_samples --workdir runs/reproductions/pruned_samples
"""

import numpy as np

from configs.reproductions._trees import DEPTH, forest, judged, searched
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from search.strategies.best_of_n import best_of_n
from search.strategies.pruning import pruning, restarts

NOISE, SAMPLES = 2.0, 16
WAYS = {
    "best of 16": lambda: best_of_n(SAMPLES),
    "pruned": lambda: pruning(SAMPLES, (DEPTH // 3,), 0.75),
    "batches until one is good": lambda: restarts(SAMPLES, 0.5),
}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="pruned_samples",
        methods=(24,),
        claim="Self-evaluation in mid-generation, to drop three quarters of the samples early or to draw no more when "
        "one is good, keeps 70 % of the gain of best-of-16 at some half of its tokens",
        source="Manvi et al. 2024, Adaptive inference-time compute, arXiv:2410.02725",
        smallest_effect=0.7,
        unit="share of the gain of 16 samples over one that is kept, the lesser of pruning's and of growing batches'",
        minutes=2,
        not_covered="language models that evaluate themselves: the evaluation is the exact chance of success with "
        "noise of 2 nats on its log-odds. Sizes were settled after a trial on 250 other problems; 750 problems could "
        "not tell, and were made 4000",
        simulated=True,
        run=run,
    )


def run(work: Workspace) -> Measured:
    trees = forest(60 if work.quick else 4000, seed=1)

    def measure() -> dict:
        out: dict = {}
        for name, make in WAYS.items():
            found = searched(trees, trees.blurred(NOISE), make())
            tokens = [one.cost.generated_tokens for one in found]
            out[name] = {"right": judged(trees, found), "tokens": float(np.mean(tokens))}
            work.say(f"{name}: {np.mean(out[name]['right']):.3f} with {out[name]['tokens']:.1f} tokens")
        return out

    kept = work.keep("right", measure)
    one = trees.value[:, 0]  # exact accuracy of a single sample
    right = np.array([one, *(kept[name]["right"] for name in WAYS)], float).T  # [problems, one and WAYS]

    def share(rows: np.ndarray) -> float:
        single, all_of_them, *others = rows.mean(0)
        return float((min(others) - single) / (all_of_them - single))

    accuracy = {"one sample": float(one.mean())} | {name: float(np.mean(kept[name]["right"])) for name in WAYS}
    tokens = {"one sample": float(DEPTH)} | {name: kept[name]["tokens"] for name in WAYS}
    spent = sum(kept[name]["tokens"] for name in WAYS) * len(one)
    details = {"accuracy": accuracy, "tokens of a problem": tokens}
    return Measured(share(right), bootstrap_interval(right, share), spent, details)
