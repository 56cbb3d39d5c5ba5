"""The best of three searches for each difficulty needs fewer samples than best-of-N, on exact simulated trees.

    python -m launch.reproduce difficulty_choice --workdir runs/reproductions/difficulty_choice
"""

from functools import partial

import numpy as np
import pandas as pd

from configs.reproductions._trees import INNER, Forest, forest, judged, searched
from scaling.reproduction import Measured, Reproduction, Workspace
from search.allocation import compute_optimal, difficulty_bins
from search.metrics.cost import sample_efficiency
from search.strategies.beam import beam, dvts
from search.strategies.strategy import Strategy

NOISE, SIZES, WIDTH = 1.0, (4, 16, 64), 4
WAYS = {"beam": beam, "dvts": dvts}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="difficulty_choice",
        methods=(2,),
        claim="Best-of-N, beam or subtrees, whichever is best at a difficulty, reach the accuracy of best-of-64 with "
        "half of its samples",
        source="Snell et al. 2024, Scaling LLM test-time compute optimally, arXiv:2408.03314",
        smallest_effect=2.0,
        unit="times fewer samples than best-of-64 for its accuracy",
        minutes=2,
        not_covered="language models, trained reward models and revisions; small policies with search against larger "
        "ones. Difficulty is the exact pass rate in five bins; choices are made on one half of the problems and "
        "measured on the other; the reward model is the exact chance of success with noise of 1 nat on its log-odds",
        simulated=True,
        run=run,
    )


def reached(trees: Forest, scores: np.ndarray, strategy: Strategy) -> list[bool]:
    """Whether a search's answer is right, of every problem."""
    return judged(trees, searched(trees, scores, strategy))


def run(work: Workspace) -> Measured:
    trees = forest(100 if work.quick else 1000, seed=2)
    scores, sizes = trees.blurred(NOISE), SIZES[:2] if work.quick else SIZES
    right = {"best_of_n": trees.best_of(scores[:, INNER:], sizes).T.tolist()}
    for name, make in WAYS.items():
        right[name] = [
            work.keep(f"{name}_{n}", partial(reached, trees, scores, make(n, WIDTH)))
            for n in sizes
        ]
        work.say(f"{name}: {np.mean(right[name], 1).round(3).tolist()} with {sizes} samples")
    table = pd.DataFrame([
        dict(problem=i, strategy=name, budget=n, correct=float(correct))
        for name, rows in right.items() for n, row in zip(sizes, rows) for i, correct in enumerate(row)
    ])  # fmt: skip
    ease = pd.Series(trees.value[:, 0])
    best = compute_optimal(table, difficulty_bins(ease))
    saved = sample_efficiency(pd.concat([table, best.rows]), "compute_optimal", bootstrap=2000)
    columns = ["accuracy", "best_single", *right]
    lines = {name: {"x": list(sizes), "y": best.table[name].tolist()} for name in columns}
    details = {
        "curves": [{"x": "samples", "y": "accuracy; `accuracy`: chosen by difficulty", "log": "x", "lines": lines}],
        "chosen at a difficulty and budget by each half": best.chosen.astype(str).to_numpy().tolist(),
        "by difficulty": best.by_bin.astype(float).to_dict("list"),
    }
    interval = (saved.interval.low, saved.interval.high)
    return Measured(float(saved.ratio), interval, float(6 * sum(sizes) * 2 * len(ease)), details)
