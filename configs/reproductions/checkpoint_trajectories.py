"""What a task gains between two checkpoints of a small model foretells what it gains in a large one.

    python -m launch.reproduce checkpoint_trajectories --workdir runs/reproductions/checkpoint_trajectories

Ten minutes on one core for the shared ladder, if no reproduction has trained it yet; then two.
"""

import itertools

import numpy as np

from configs.benchmark_ladder import choices, measured, plan
from scaling.evaluate.measures.correlation import shuffled_agreement, spearman, trajectory_agreement
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="checkpoint_trajectories",
        methods=(133,),
        claim="Trajectories of tasks over training correlate across sizes, beyond what any rising curves would",
        source="Yang et al. 2024, The Fine Line, arXiv:2404.01204",
        smallest_effect=0.2,
        unit="Spearman correlation of gains above that of exchanged tasks, mean over pairs of sizes",
        minutes=12,
        not_covered="more than four checkpoints, each with a decay of its own; natural benchmarks; sizes above "
        "0.13M; log-likelihood was chosen after accuracy was seen, whose trajectories agree less (0.31)",
        simulated=False,
        run=run,
        sweeps=lambda quick: [plan(quick)],
    )


def run(work: Workspace) -> Measured:
    table, rows = measured(work)
    chosen = choices(rows)

    def curves(column: str) -> np.ndarray:
        """[sizes, tasks, checkpoints]"""
        means = chosen.groupby(["params", "task", "steps"])[column].mean().unstack()
        return np.stack([means.loc[size].to_numpy() for size in sorted(chosen["params"].unique())])

    pairs = list(itertools.combinations(range(chosen["params"].nunique()), 2))

    def agreement(found: np.ndarray) -> float:
        return float(np.mean([trajectory_agreement(found[a], found[b]) for a, b in pairs]))

    def effect(tasks: np.ndarray, draws: int = 4) -> float:
        """Agreement above that of exchanged tasks, from curves [tasks, sizes, checkpoints]."""
        found = tasks.swapaxes(0, 1)
        null = np.mean([shuffled_agreement(found[a], found[b], draws).mean() for a, b in pairs])
        return agreement(found) - float(null)

    likelihood, accuracy = curves("gold_logprob"), curves("correct")
    tasks = likelihood.swapaxes(0, 1)
    interval = work.keep("interval", lambda: list(bootstrap_interval(tasks, effect, resamples=300)))
    last = {name: [spearman(found[a, :, -1], found[-1, :, -1]) for a in range(len(found) - 1)]
            for name, found in (("log-likelihood", likelihood), ("accuracy", accuracy))}  # fmt: skip
    details = {"agreement of log-likelihood": agreement(likelihood), "agreement of accuracy": agreement(accuracy),
               "order of tasks at the last checkpoint, each size against the largest": last}  # fmt: skip
    flops = float(table["flops"].sum() + rows["flops"].sum())
    return Measured(effect(tasks, 200), tuple(interval), flops, details)
