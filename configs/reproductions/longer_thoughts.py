"""Longer thoughts of one problem are right less often, and less so of a stronger policy.

    python -m launch.reproduce longer_thoughts --workdir runs/reproductions/longer_thoughts

Eight minutes, most of them for two policies that other reproductions share.
"""

import numpy as np

from configs.reproductions._policy import SAMPLES, STEPS, plan, thoughts
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from search.metrics.length import length_slope

UNIT = 10.0  # tokens


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="longer_thoughts",
        methods=(50,),
        claim="At a problem's own difficulty longer thoughts are right less often, and the slope of a stronger policy "
        "is shallower",
        source="Ballon et al. 2025, The relationship between reasoning and performance, arXiv:2502.15631",
        smallest_effect=0.02,
        unit="log-odds of being right per ten tokens, the lesser of: fall of the stronger policy; fall of the weaker "
        "less that of the stronger",
        minutes=10,
        not_covered="language models and models of different sizes: the stronger policy is the weaker one trained on. "
        "Lengths of a problem's thoughts differ by results that are taken back",
        simulated=False,
        run=run,
        sweeps=lambda quick: (plan(quick),),
    )


def run(work: Workspace) -> Measured:
    shape = (-1, SAMPLES)
    both = []
    for name in STEPS:
        table = thoughts(work, name)
        both.append(np.stack([table[column].to_numpy().reshape(shape) for column in ("correct", "generated_tokens")]))
    rows = np.stack(both).transpose(2, 0, 1, 3)  # [problems, policies, correct and length, samples]

    def falls(rows: np.ndarray) -> list[float]:
        return [-UNIT * length_slope(rows[:, i, 0], rows[:, i, 1]) for i in range(len(STEPS))]

    def effect(rows: np.ndarray) -> float:
        weak, strong = falls(rows)
        return min(strong, weak - strong)

    accuracy = {name: float(rows[:, i, 0].mean()) for i, name in enumerate(STEPS)}
    details = {"fall of log-odds per ten tokens": dict(zip(STEPS, falls(rows))), "accuracy": accuracy,
               "curves": [{"x": "tokens beyond the problem's mean", "y": "share right", "log": "",
                           "lines": {name: binned(rows[:, i]) for i, name in enumerate(STEPS)}}]}  # fmt: skip
    flops = sum(trial.flops for trial in plan(work.quick).trials())
    return Measured(effect(rows), bootstrap_interval(rows, effect, resamples=400), float(flops), details)


def binned(rows: np.ndarray) -> dict:
    """Share right in ten groups of equal size by how much longer than its problem's others a thought is."""
    longer = (rows[:, 1] - rows[:, 1].mean(1, keepdims=True)).ravel()
    groups = np.array_split(np.argsort(longer, kind="stable"), 10)
    right = rows[:, 0].ravel()
    return {"x": [float(longer[g].mean()) for g in groups], "y": [float(right[g].mean()) for g in groups]}
