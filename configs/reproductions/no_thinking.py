"""Without a thought, many answers and a vote, against thoughts that must end within as many tokens.

    python -m launch.reproduce no_thinking --workdir runs/reproductions/no_thinking

Eight minutes, most of them for two policies that other reproductions share.
"""

from functools import partial

import numpy as np

from configs.reproductions._policy import ANSWER_TOKENS, STEPS, answers, cut_answers, plan, thoughts
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from search.metrics import Samples
from search.metrics.selection import vote_values

LOW = (6, 12, 18)  # tokens of a problem, below a thought's
HIGH = (1, 2, 4)  # whole thoughts that vote


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="no_thinking",
        methods=(183,),
        claim="With fewer tokens than a thought takes, a vote of answers without thoughts beats a thought cut short",
        source="Ma et al. 2025, Reasoning models can be effective without thinking, arXiv:2504.09858",
        smallest_effect=0.02,
        unit="accuracy, mean over 6, 12 and 18 tokens of a problem: vote of answers at once less one thought cut short",
        minutes=10,
        not_covered="language models; confidence instead of votes. The policy learned answers at once and after a part "
        "of a thought, from a fifth of its solutions each",
        simulated=False,
        run=run,
        sweeps=lambda quick: (plan(quick),),
    )


def compared(work: Workspace, name: str) -> dict:
    """Accuracy of every problem: without a thought and with one cut short, `[problems][LOW]`; and with whole ones."""
    thought, direct = thoughts(work, name), Samples.from_table(answers(work, name))
    cut = [cut_answers(work, name, thought, budget).mean(1).tolist() for budget in LOW]
    each = float(thought["generated_tokens"].mean())
    equal = np.clip([round(each * n / ANSWER_TOKENS) for n in HIGH], 1, 64)
    few = np.array(LOW) // ANSWER_TOKENS
    none = vote_values(direct, np.unique([*few, *equal]), subsets=200)[0]
    size = {int(k): none[:, i] for i, k in enumerate(np.unique([*few, *equal]))}
    return {
        "none": [size[int(k)].tolist() for k in few], "cut": cut, "tokens of a thought": each,
        "none, as many tokens as whole thoughts": [float(size[int(k)].mean()) for k in equal],
        "whole": vote_values(Samples.from_table(thought), np.array(HIGH), subsets=200)[0].mean(0).tolist(),
        "one answer at once": float(np.mean([row.mean() for row in direct.correct])),
    }  # fmt: skip


def run(work: Workspace) -> Measured:
    found = {name: work.keep(name, partial(compared, work, name)) for name in STEPS}
    both = {name: np.stack([np.array(one["none"]).T, np.array(one["cut"]).T], 1) for name, one in found.items()}

    def lead(rows: np.ndarray) -> float:
        none, cut = rows.mean((0, 2))
        return float(none - cut)

    panels = []
    for name, one in found.items():
        x = [*LOW, *(one["tokens of a thought"] * n for n in HIGH)]
        low = both[name].mean(0)
        lines = {"no thought, vote": [*low[0], *one["none, as many tokens as whole thoughts"]],
                 "thoughts": [*low[1], *one["whole"]]}  # fmt: skip
        panels.append({"x": "tokens of a problem", "y": f"accuracy, {name} policy", "log": "x",
                       "lines": {k: {"x": x, "y": list(map(float, v))} for k, v in lines.items()}})  # fmt: skip
    details = {
        "curves": panels,
        "lead by policy": {name: [lead(rows), *bootstrap_interval(rows, lead)] for name, rows in both.items()},
        "tokens of a thought": {name: one["tokens of a thought"] for name, one in found.items()},
        "accuracy at 6, 12 and 18 tokens, without and cut": {n: r.mean(0).tolist() for n, r in both.items()},
    }
    flops = sum(trial.flops for trial in plan(work.quick).trials())
    return Measured(lead(both["strong"]), bootstrap_interval(both["strong"], lead), float(flops), details)
