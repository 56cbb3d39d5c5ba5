"""Strategies by temperature and top-p at eight samples each: how much the sampler alone moves accuracy.

    python -m launch.reproduce bag_of_tricks --workdir runs/reproductions/bag_of_tricks

Nine minutes, some of them for two policies that other reproductions share.
"""

from functools import partial

import numpy as np

from configs.reproductions._policy import plan, searched, thoughts
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from search.metrics import Samples, best_of_k
from search.metrics.selection import vote_values
from search.strategies.beam import beam

POLICY, N = "weak", 8
SAMPLERS = {"T 0.5": (0.5, 1.0), "T 1": (1.0, 1.0), "T 1, top-p 0.9": (1.0, 0.9)}
STEPWISE = {"step best-of-8": 8, "beam of two": 4}  # heirs of each step that lives on


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="bag_of_tricks",
        methods=(11,),
        claim="Temperature and top-p alone move the accuracy of every strategy by five points or more",
        source="Liu et al. 2025, Bag of tricks for inference-time computation of LLM reasoning, arXiv:2502.07191",
        smallest_effect=0.05,
        unit="accuracy from the worst to the best of three samplers, of the strategy that moves least",
        minutes=10,
        not_covered="language models; self-refinement and tree search; rewards other than "
        "the policy's own likelihood",
        simulated=False,
        run=run,
        sweeps=lambda quick: (plan(quick),),
    )


def drawn(work: Workspace, temperature: float, top_p: float) -> dict[str, list[float]]:
    """Accuracy of every problem under each strategy that chooses among eight independent thoughts."""
    samples = Samples.from_table(thoughts(work, POLICY, temperature=temperature, top_p=top_p))
    scores, k = samples.scores or (), np.array([N])
    return {
        "one thought": [float(row.mean()) for row in samples.correct],
        "majority": vote_values(samples, k, subsets=200)[0][:, 0].tolist(),
        "weighted vote": vote_values(samples, k, True, subsets=200)[0][:, 0].tolist(),
        "best-of-8": [float(best_of_k(c, s, N)[0]) for c, s in zip(samples.correct, scores)],
    }


def run(work: Workspace) -> Measured:
    table: dict[str, list] = {}
    for number, (name, sampler) in enumerate(SAMPLERS.items()):
        rows = work.keep(f"drawn{number}", partial(drawn, work, *sampler))
        for way, width in STEPWISE.items():
            rows[way] = work.keep(f"step{width}_{number}", partial(searched, work, POLICY, beam(N, width), *sampler))
        work.say(f"{name}: " + ", ".join(f"{way} {np.mean(row):.3f}" for way, row in rows.items()))
        for way, row in rows.items():
            table.setdefault(way, []).append(row)
    right = np.array(list(table.values())).transpose(2, 0, 1)  # [problems, strategies, samplers]

    def least(rows: np.ndarray) -> float:
        return float(np.ptp(rows.mean(0), axis=1).min())

    accuracy = {way: dict(zip(SAMPLERS, row)) for way, row in zip(table, right.mean(0).tolist())}
    details = {"accuracy": accuracy, "range": dict(zip(table, np.ptp(right.mean(0), axis=1).tolist()))}
    flops = sum(trial.flops for trial in plan(work.quick).trials())
    return Measured(least(right), bootstrap_interval(right, least), float(flops), details)
