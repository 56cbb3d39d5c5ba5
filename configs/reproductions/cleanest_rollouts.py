"""Keeping the successes with the fewest tool errors teaches a policy to make fewer, without a reward for it.

    python -m launch.reproduce cleanest_rollouts --workdir runs/reproductions/cleanest_rollouts

Ten minutes on one core. Policies of 0.06M weights imitate calculations in which many calls of a calculator are first
made wrongly. GRPO rewards right answers alone; one arm draws as many answers as it trains on, the other twice as many,
of which it keeps the successes with the fewest errors and any failures. Errors are counted on held-out problems. Four
seeds gave 0.018 [-0.024, 0.060], which could not tell, so that there are eight.
"""

from functools import partial
from typing import Any

import numpy as np

from configs.reproductions import _tools as tools
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.train.objectives import PolicyGradient
from search.posttrain.filters import FewestErrors

PROMPTS, GROUP = 16, 8
ARMS = {"grpo": None, "cleanest": FewestErrors(oversample=2)}


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="cleanest_rollouts",
        methods=(121,),
        claim="Of twice as many rollouts, keeping the successes with the fewest tool errors lowers the error rate",
        source="Shang et al. 2025, rStar2-Agent, arXiv:2508.20722",
        smallest_effect=0.05,
        unit="share of calls that fail: of plain GRPO, less of the cleanest rollouts",
        minutes=8,
        not_covered="programs as tools; penalties of format; rollouts of equal cost (the filter draws twice as many); "
        "a draw that prefers clean successes in place of the cleanest",
        simulated=False,
        run=run,
    )


def one(work: Workspace, seed: int, imitation: int, steps: int) -> dict:
    """Errors and success of one seed, before and after either practice."""
    start = tools.imitate(seed, imitation)
    imitated = tools.IMITATED.flops(tools.MODEL, tools.IMITATED.tokens_per_step * imitation, {})
    found: dict[str, Any] = {}
    flops, problems = float(imitated), 20 if work.quick else 200
    train = tools.practised(PolicyGradient(group=GROUP), steps, PROMPTS)
    for name, keep in ARMS.items():
        drawn = tools.rollouts(start, seed, PROMPTS, GROUP, filter=keep)
        params, rows = tools.practise(train, start, drawn, work.folder / f"{name}{seed}")
        found.setdefault("before", tools.judged(start, drawn, problems, 4))
        found[name] = tools.judged(params, drawn, problems, 4)
        found[name]["failed while practising"] = [row["failed_calls"] for row in rows]
        flops += rows[-1]["flops"] + found[name]["flops"]
    return found | {"flops": flops}


def run(work: Workspace) -> Measured:
    seeds, imitation, steps = (2, 3, 2) if work.quick else (8, tools.IMITATED.steps, 30)
    every = []
    for seed in range(seeds):
        work.say(f"seed {seed}: imitates, then practises in two ways")
        every.append(work.keep(f"seed{seed}", partial(one, work, seed, imitation, steps)))
    fall = [x["grpo"]["failed"] - x["cleanest"]["failed"] for x in every]
    better = [x["cleanest"]["success"] - x["grpo"]["success"] for x in every]
    lines = {}
    for name in ARMS:
        mean = np.mean([x[name].pop("failed while practising") for x in every], 0)
        lines[name] = {"x": list(range(1, len(mean) + 1)), "y": mean.tolist()}
    details = {
        "curves": [{"x": "update", "y": "share of calls that fail", "log": "", "lines": lines}],
        "policies": [{name: x[name] for name in ("before", *ARMS)} for x in every],
        "success above plain GRPO": {"mean": float(np.mean(better)), "interval": t_interval(better)},
    }
    return Measured(float(np.mean(fall)), t_interval(fall), sum(x["flops"] for x in every), details)
