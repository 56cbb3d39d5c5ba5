"""Noisy judges whose reliability is known are more accurate than their majority, with fewer of them asked.

python -m launch.reproduce crowd_retirement --workdir runs/reproductions/crowd_retirement
"""

import numpy as np

from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from search.verifiers.crowd import Retired, reliability, retired

JUDGES, GOLDEN, VOTES, RIGHT = 100, 50, 15, 0.4
MEAN, SPREAD = 0.68, 10.0  # of the Beta that judges' completeness and soundness come from


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="crowd_retirement",
        methods=(199,),
        claim="Sequential Bayesian aggregation of judges with a confusion matrix each, and early retirement, beats "
        "the majority of all 15 votes with fewer of them",
        source="Walmsley et al. 2020, Galaxy Zoo: Express; SWAP, Marshall et al. 2016",
        smallest_effect=0.01,
        unit="the lesser of: accuracy above the majority's; share of votes saved",
        minutes=0.2,
        not_covered="people and trained judges; judges whose errors agree, or that learn; reliability that is "
        "estimated without the 50 golden solutions that each judge has seen. A first form asked for 40 % of the "
        "votes saved, which no source says, and did not find that on other problems (25 %)",
        simulated=True,
        run=run,
    )


def asked(items: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Retired]:
    """(which solutions are right, the majority of all votes, what the crowd said), `[items]` each."""
    rng = np.random.default_rng(seed)
    chances = rng.beta(MEAN * SPREAD, (1 - MEAN) * SPREAD, (2, JUDGES))  # completeness, soundness

    def say(right: np.ndarray, who: np.ndarray) -> np.ndarray:
        yes = np.where(right, chances[0][who], 1 - chances[1][who])
        return rng.random(yes.shape) < yes

    golden = np.arange(GOLDEN) % 2 == 0
    known = reliability(golden, say(golden[None], np.arange(JUDGES)[:, None]))
    right = rng.random(items) < RIGHT
    who = rng.random((items, JUDGES)).argsort(1)[:, :VOTES]
    verdicts = say(right[:, None], who)
    return right, verdicts.mean(1) > 0.5, retired(verdicts, who, known, RIGHT)


def run(work: Workspace) -> Measured:
    right, majority, crowd = asked(200 if work.quick else 10_000, seed=1)
    rows = np.stack([(crowd.posterior > 0.5) == right, majority == right, crowd.votes / VOTES], 1).astype(float)

    def lesser(these: np.ndarray) -> float:
        accuracy, plain, used = these.mean(0)
        return float(min(accuracy - plain, 1 - used))

    accuracy, plain, used = rows.mean(0).tolist()
    details = {"accuracy": {"crowd": accuracy, "majority": plain}, "share of votes asked for": used}
    return Measured(lesser(rows), bootstrap_interval(rows, lesser), 0.0, details)
