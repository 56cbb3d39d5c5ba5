"""A policy that keeps its own right answers comes to use a calculator, and to vote well.

    python -m launch.reproduce expert_tools --workdir runs/reproductions/expert_tools

Two minutes on one core. Policies of 0.06M weights imitate calculations, half of them with a calculator, whose replies
are inserted as they write, half at once. Then each draws answers to other problems, keeps those that are right, and
trains on them, in twelve rounds (expert iteration). A control goes on imitating for as many tokens. Success of one
sample and of votes is measured on held-out problems: 0.42 and 0.74 before, 0.87 and 0.94 after.
"""

from functools import partial

import numpy as np

from configs.reproductions import _tools as tools
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.train.objectives import PolicyGradient

PROMPTS, GROUP, UPDATES = 32, 4, 4
EXPERT = PolicyGradient(group=GROUP, advantage="expert", old="current", clip="none", normalize="token")


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="expert_tools",
        methods=(3,),
        claim="Expert iteration with a calculator lifts the success of a policy on held-out problems",
        source="Narayanan et al. 2024, Aviary, arXiv:2412.21154",
        smallest_effect=0.1,
        unit="success of one sample after expert iteration, less before",
        minutes=6,
        not_covered="environments of biology; models of language; cost against a larger model; the editor of strings, "
        "which is tested and not practised here",
        simulated=False,
        run=run,
    )


def one(work: Workspace, seed: int, imitation: int, rounds: int) -> dict:
    """Success before and after of one seed, and of one that went on imitating."""
    start = tools.imitate(seed, imitation)
    drawn = tools.rollouts(start, seed, PROMPTS, GROUP)
    train = tools.practised(EXPERT, rounds * UPDATES, PROMPTS)
    after, rows = tools.practise(train, start, drawn, work.folder / f"practice{seed}", UPDATES)
    more = rounds * UPDATES * PROMPTS * GROUP // tools.IMITATED.batch_size
    policies = {"before": start, "after": after, "imitated for longer": tools.imitate(seed, more, start)}
    problems = 20 if work.quick else 200
    found = {name: tools.judged(params, drawn, problems, 8) for name, params in policies.items()}
    flops = rows[-1]["flops"] + sum(x["flops"] for x in found.values())
    imitated = tools.IMITATED.flops(tools.MODEL, tools.IMITATED.tokens_per_step * (imitation + more), {})
    return found | {"flops": flops + imitated, "reward": [row["reward"] for row in rows]}


def run(work: Workspace) -> Measured:
    seeds, imitation, rounds = (2, 3, 1) if work.quick else (4, tools.IMITATED.steps, 12)
    every = []
    for seed in range(seeds):
        work.say(f"seed {seed}: imitates, then keeps its right answers")
        every.append(work.keep(f"seed{seed}", partial(one, work, seed, imitation, rounds)))
    gain = [x["after"]["success"] - x["before"]["success"] for x in every]
    control = [x["after"]["success"] - x["imitated for longer"]["success"] for x in every]
    mean = np.mean([x["reward"] for x in every], 0)
    lines = {"mean of seeds": {"x": list(range(1, len(mean) + 1)), "y": mean.tolist()}}
    details = {
        "curves": [{"x": "round", "y": "share of right answers while practising", "log": "", "lines": lines}],
        "policies": [{name: x[name] for name in ("before", "after", "imitated for longer")} for x in every],
        "gain over imitating for longer": {"mean": float(np.mean(control)), "interval": t_interval(control)},
    }
    return Measured(float(np.mean(gain)), t_interval(gain), sum(x["flops"] for x in every), details)
