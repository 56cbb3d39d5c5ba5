"""A small policy with a verifier's pick of several samples beats a larger greedy one for fewer FLOPs.

    python -m launch.reproduce small_search --workdir runs/reproductions/small_search

The two policies are shared with sleep_time. A first run had fewer samples than the larger policy's FLOPs allow, and
asked chains of two operations as well, which that policy rarely ends: -0.035 [-0.077, 0.007].
"""

from functools import partial

import numpy as np
import pandas as pd

from configs.reproductions._chains import TASK, flops, plan, posed, reckoners, said
from scaling.laws.coverage import pass_at_k
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from scaling.tasks import task_by_name
from search.allocation import absolute_bins
from search.metrics.selection import best_of_k

BINNED, SEARCHED = 8, 16  # samples that say how hard a problem is, and others that are searched
SAMPLES = BINNED + SEARCHED
BINS = {1: "pass rate of the small policy from .5", 2: "from .1 to .5", 3: "below .1"}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="small_search",
        methods=(7,),
        claim="The verified best of as many samples of a small policy as cost less is right more often than a greedy "
        "answer of a policy of three times the width",
        source="Liu et al. 2025, Can 1B LLM surpass 405B LLM?, arXiv:2502.06703",
        smallest_effect=0.02,
        unit="accuracy over all problems: best of the small policy's samples within the larger one's FLOPs, less that "
        "one's greedy answer",
        minutes=10,
        not_covered="language models, beam search and subtrees, trained reward models: the verifier is exact, and a "
        "pick by the policy's own confidence is shown beside it. Both policies read as many tokens",
        simulated=False,
        run=run,
        sweeps=lambda quick: (plan(quick),),
    )


def drawn(work: Workspace) -> dict:
    """Of every problem: what is right of the small policy's samples, their confidence and FLOPs, and the larger's."""
    policies, problems, task = reckoners(work), posed(work), task_by_name(TASK)
    prompts = [problem.prompt for problem in problems]
    small = said(policies["small"], prompts, SAMPLES)
    greedy = {name: [row[0] for row in said(policy, prompts, 1, 0.0)] for name, policy in policies.items()}
    return {
        "level": [task.level(problem) for problem in problems],
        "right": [[float(task.verify(p, text)) for text, _, _ in row] for p, row in zip(problems, small)],
        "confidence": [[score for _, _, score in row] for row in small],
        "flops": [flops(policies["small"], p, [n for _, n, _ in row]) / SAMPLES for p, row in zip(prompts, small)],
        "greedy": {n: [float(task.verify(p, one[0])) for p, one in zip(problems, row)] for n, row in greedy.items()},
        "greedy flops": {n: [flops(policies[n], p, [one[1]]) for p, one in zip(prompts, row)]
                         for n, row in greedy.items()},
    }  # fmt: skip


def run(work: Workspace) -> Measured:
    found = work.keep("drawn", partial(drawn, work))
    right, confidence = (np.array(found[name]) for name in ("right", "confidence"))
    each = np.array(found["flops"])
    large, dear = (np.array(found[name]["large"]) for name in ("greedy", "greedy flops"))
    k = int(np.clip(dear.mean() // each.mean(), 1, SEARCHED))
    sizes = np.arange(1, SEARCHED + 1)
    picked = {
        "verified": pass_at_k(SEARCHED, right[:, BINNED:].sum(1)[:, None], sizes),
        "by confidence": np.array([best_of_k(r[BINNED:], c[BINNED:], sizes) for r, c in zip(right, confidence)]),
    }
    bins = absolute_bins(pd.Series(right[:, :BINNED].mean(1))).to_numpy()
    gap = picked["verified"][:, k - 1] - large

    def of(values: np.ndarray) -> dict[str, float]:
        return {name: float(values[bins == b].mean()) for b, name in BINS.items() if (bins == b).any()}

    x = (each.mean() * sizes).tolist()
    lines = {name: {"x": x, "y": values.mean(0).tolist()} for name, values in picked.items()}
    lines["larger, greedy"] = {"x": [float(dear.mean())], "y": [float(large.mean())]}
    details = {
        "curves": [{"x": "FLOPs of a problem", "y": "accuracy", "log": "x", "lines": lines}],
        "samples within the larger one's FLOPs": k,
        "FLOPs of the larger over those of the samples": float(dear.mean() / each.mean() / k),
        "lead by bin": {name: [value, *bootstrap_interval(gap[bins == b])]
                        for (b, name), value in zip(((b, n) for b, n in BINS.items() if (bins == b).any()),
                                                    of(gap).values())},
        "problems by bin": {name: int((bins == b).sum()) for b, name in BINS.items()},
        "larger, greedy, by bin": of(large),
        "small, greedy": float(np.mean(found["greedy"]["small"])),
        "lead by confidence": [float((picked["by confidence"][:, k - 1] - large).mean()),
                               *bootstrap_interval(picked["by confidence"][:, k - 1] - large)],
    }  # fmt: skip
    spent = sum(trial.flops for trial in plan(work.quick).trials()) + SAMPLES * each.sum() + dear.sum()
    return Measured(float(gap.mean()), bootstrap_interval(gap), float(spent), details)
