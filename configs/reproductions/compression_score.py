"""The bits per byte of a model on held-out text foretell its mean score in a line.

    python -m launch.reproduce compression_score --workdir runs/reproductions/compression_score

Ten minutes on one core for the shared ladder, if no reproduction has trained it yet; then two.
"""

import numpy as np

from configs.benchmark_ladder import choices, measured, plan
from scaling.evaluate.measures.correlation import cluster_interval, pearson
from scaling.reproduction import Measured, Reproduction, Workspace


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="compression_score",
        methods=(231,),
        claim="Over models, the mean benchmark score falls linearly with the bits per byte on held-out text",
        source="Huang et al. 2024, arXiv:2404.09937",
        smallest_effect=0.9,
        unit="minus Pearson's r",
        minutes=12,
        not_covered="text of the world: the held-out text is of the tasks that are scored; families of models that "
        "differ in more than width, length of training and seed; scores of this ladder were seen before the claim "
        "was written",
        simulated=False,
        run=run,
        sweeps=lambda quick: [plan(quick)],
    )


def run(work: Workspace) -> Measured:
    table, rows = measured(work)
    chosen = choices(rows)
    above = (chosen["correct"] - chosen["chance"]) / (1 - chosen["chance"])
    means = chosen.assign(above=above).groupby(["trial", "task"])["above"].mean().groupby("trial").mean()
    score, bits = means.loc[table["trial"]].to_numpy(), table["bpb"].to_numpy()
    low, high = cluster_interval(table["run"], lambda rows: -pearson(bits[rows], score[rows]))
    slope, offset = np.polyfit(bits, score, 1)
    ends = np.array([bits.min(), bits.max()])
    order = np.argsort(bits)
    lines = {
        "models": {"x": bits[order].tolist(), "y": score[order].tolist()},
        "line": {"x": ends.tolist(), "y": (offset + slope * ends).tolist()},
    }
    panel = {"x": "bits per byte, held out", "y": "mean score above chance", "log": "", "lines": lines}
    details = {"curves": [panel], "models": len(table), "runs": int(table["run"].nunique()), "slope": float(slope),
               "error of the line": float(np.std(score - offset - slope * bits))}  # fmt: skip
    return Measured(-pearson(bits, score), (low, high), float(table["flops"].sum() + rows["flops"].sum()), details)
