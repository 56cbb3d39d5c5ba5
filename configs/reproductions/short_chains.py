"""Of eight thoughts that race, the first three to end vote: as right as a vote of all eight, for fewer tokens?

    python -m launch.reproduce short_chains --workdir runs/reproductions/short_chains

Eight minutes, most of them for two policies that other reproductions share.
"""

from functools import partial

import numpy as np

from configs.reproductions._policy import STEPS, plan, thoughts
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from search.metrics import Samples
from search.metrics.selection import vote_values
from search.metrics.stopping import length_correlation, short_m_values

CHAINS, FIRST, SUBSETS = 8, 3, 200
K = np.array([3, 4, 8, 16])


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="short_chains",
        methods=(256,),
        claim="short-3@8 is at most a point less accurate than majority@8 and takes 30 % fewer tokens",
        source="Hassid et al. 2025, Don't overthink it, arXiv:2505.17813",
        smallest_effect=0.0,
        unit="the lesser of: accuracy above one point below majority@8; share of tokens saved above 30 %",
        minutes=10,
        not_covered="language models: lengths of a problem's thoughts differ by results that are taken back, at a rate "
        "that differs between thoughts, as in what the policy was trained on, and by 12 % of their mean only. Of a "
        "problem's thoughts the shortest is more often right than the longest (details)",
        simulated=False,
        run=run,
        sweeps=lambda quick: (plan(quick),),
    )


def raced(work: Workspace, name: str) -> dict:
    """Of every problem: accuracy and tokens of short-m and of the plain vote; and how the lengths lie."""
    table = thoughts(work, name)
    samples = Samples.from_table(table)
    values, tokens, depth, plain = short_m_values(samples, FIRST, K, SUBSETS)
    majority = vote_values(samples, K, subsets=SUBSETS)[0]
    length = table.groupby("problem")["generated_tokens"]
    shortest = table.loc[length.idxmin(), "correct"].mean() - table.loc[length.idxmax(), "correct"].mean()
    found = length_correlation(samples)
    related = found if np.isfinite(found) else None
    return {
        "short": values.tolist(), "majority": majority.tolist(), "tokens": tokens.tolist(), "plain": plain.tolist(),
        "depth": depth.mean(0).tolist(), "correlation of length and being right": related,
        "one thought": float(table["correct"].mean()), "shortest less longest": float(shortest),
        "deviation of lengths over their mean": float((length.std() / length.mean()).mean()),
    }  # fmt: skip


def run(work: Workspace) -> Measured:
    found = {name: work.keep(name, partial(raced, work, name)) for name in STEPS}
    at = K.tolist().index(CHAINS)

    def effect(rows: np.ndarray) -> float:
        short, majority, tokens, plain = rows.mean(0)
        return float(min(short - majority + 0.01, 1 - tokens / plain - 0.3))

    rows = {name: np.stack([np.array(one[part])[:, at] for part in ("short", "majority", "tokens", "plain")], 1)
            for name, one in found.items()}  # fmt: skip
    panels = [
        {"x": "tokens of a problem", "y": f"accuracy, {name} policy", "log": "",
         "lines": {"short-3@k": {"x": np.mean(one["tokens"], 0).tolist(), "y": np.mean(one["short"], 0).tolist()},
                   "majority@k": {"x": np.mean(one["plain"], 0).tolist(), "y": np.mean(one["majority"], 0).tolist()}}}
        for name, one in found.items()
    ]  # fmt: skip
    scalars = {name: {k: v for k, v in one.items() if not isinstance(v, list)} for name, one in found.items()}
    of = {name: dict(zip(("short-3@8", "majority@8", "tokens", "tokens of eight"), r.mean(0).tolist()))
          for name, r in rows.items()}  # fmt: skip
    strong = effect(rows["strong"])
    details = {"curves": panels, "policies": scalars, "eight chains": of, "effect, strong policy": strong}
    flops = sum(trial.flops for trial in plan(work.quick).trials())
    return Measured(effect(rows["weak"]), bootstrap_interval(rows["weak"], effect), float(flops), details)
