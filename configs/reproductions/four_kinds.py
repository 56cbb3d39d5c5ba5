"""Compute at test time of four kinds, each on the same small policy: parallel, sequential, hybrid and internal.

    python -m launch.reproduce four_kinds --workdir runs/reproductions/four_kinds

Five minutes, most of them for two policies that other reproductions share.
"""

import numpy as np

from configs.reproductions._policy import answers, cut_answers, plan, searched, thoughts
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from search.metrics import Samples
from search.metrics.selection import vote_values
from search.strategies.beam import beam

POLICY, CHAINS, SHORT, LONG = "weak", 8, 6, 30


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="four_kinds",
        methods=(174,),
        claim="Each kind of scaling at test time lifts one policy: a vote of eight thoughts (parallel), thoughts that "
        "may be longer (sequential), a beam over steps (hybrid), a thought rather than an answer at once (internal)",
        source="Zhang et al. 2025, A survey on test-time scaling, arXiv:2503.24235",
        smallest_effect=0.02,
        unit="accuracy, the least gain of the four, each over its own baseline",
        minutes=6,
        not_covered="language models; one method of each kind: the others are in the matrix of docs/search.md. The "
        "beam is scored by the policy's own likelihood, and internal is imitation of thoughts, not reinforcement",
        simulated=False,
        run=run,
        sweeps=lambda quick: (plan(quick),),
    )


def measured(work: Workspace) -> dict[str, list[float]]:
    """Accuracy of every problem under each kind and its baseline."""
    table = thoughts(work, POLICY)
    samples, direct = Samples.from_table(table), answers(work, POLICY)
    rate = [float(row.mean()) for row in samples.correct]
    vote = vote_values(samples, np.array([CHAINS]), subsets=200)[0][:, 0]
    cut = {budget: cut_answers(work, POLICY, table, budget).mean(1).tolist() for budget in (SHORT, LONG)}
    return {
        "one thought": rate, "parallel": vote.tolist(), "hybrid": searched(work, POLICY, beam(CHAINS, 4)),
        "short thought": cut[SHORT],
        "sequential": cut[LONG], "no thought": direct.groupby("problem")["correct"].mean().tolist(), "internal": rate,
    }  # fmt: skip


BASELINES = {
    "parallel": "one thought",
    "hybrid": "one thought",
    "sequential": "short thought",
    "internal": "no thought",
}


def run(work: Workspace) -> Measured:
    found = work.keep("right", lambda: measured(work))
    gains = np.stack([np.array(found[kind]) - found[base] for kind, base in BASELINES.items()], 1)

    def least(rows: np.ndarray) -> float:
        return float(rows.mean(0).min())

    details = {
        "accuracy": {name: float(np.mean(row)) for name, row in found.items()},
        "gains": {kind: [float(x.mean()), *bootstrap_interval(x)] for kind, x in zip(BASELINES, gains.T)},
    }
    flops = sum(trial.flops for trial in plan(work.quick).trials())
    return Measured(least(gains), bootstrap_interval(gains, least), float(flops), details)
