"""A small policy's chain is put where a better one would think, and the better one answers at once.

    python -m launch.reproduce lent_thoughts --workdir runs/reproductions/lent_thoughts

The two policies are shared with other reproductions. The better one always repeats what the chain ends with, right or
wrong: of 1000 problems it alone solves all, and with the weaker one's chains the 956 that these solve.
"""

from functools import partial

import numpy as np

from configs.reproductions._policy import ANSWER_TOKENS, TASK, plan, thinkers, write
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from scaling.tasks import task_by_name
from search.engine.sampling import Sampling
from search.policy import load_policy

SAVED, LOSS = 0.3, 0.02
LENT = {"greedy": 0.0, "sampled": 1.0}  # temperature of the weak policy's chain; the first decides


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="lent_thoughts",
        methods=(185,),
        claim="With a weaker policy's chain in the place of its thought, a policy writes 30 % fewer tokens and stays "
        "within two points of its accuracy",
        source="Liu et al. 2025, Thought manipulation: external thought can be efficient for large reasoning models, "
        "arXiv:2504.13626",
        smallest_effect=0.0,
        unit="the lesser of: share of the better policy's tokens saved, less 0.3; accuracy with the chain less "
        "without, plus 0.02",
        minutes=8,
        not_covered="language models, and chains that are shorter than a thought: both policies write steps of one "
        "form, are of one size and differ in training, and what follows a thought is an answer alone, with no room to "
        "mend it. A chain that is absent or cannot be read is bypassed: the better policy thinks. Both write greedily",
        simulated=False,
        run=run,
        sweeps=lambda quick: (plan(quick),),
    )


def asked(work: Workspace) -> dict:
    """By temperature of the chain, of every problem: right and tokens of the strong policy alone, right and tokens of
    it with the chain, whether the chain is there, whether the weak policy was right."""
    task = task_by_name(TASK)
    problems = task.generate(3, 24 if work.quick else 1000, "test")
    weak, strong = (load_policy(folder) for folder in thinkers(work).values())
    prompts = [problem.prompt for problem in problems]
    alone = [row[0] for row in write(strong, prompts, 1, Sampling(0.0))]
    found = {}
    for name, temperature in LENT.items():
        chains = [row[0][0] for row in write(weak, prompts, 1, Sampling(temperature))]
        work.say(f"{name}: {chains[:3]}")
        there = [i for i, text in enumerate(chains) if "|" in text and task.answer(text) is not None]
        lent = {i: chains[i][: chains[i].rfind("|") + 2] for i in there}  # up to the mark that ends thinking
        said = write(strong, [prompts[i] + text for i, text in lent.items()], 1, Sampling(0.0), ANSWER_TOKENS)
        ends = dict(zip(lent, (row[0] for row in said), strict=True))
        rows = []
        for i, (problem, (thought, tokens, _)) in enumerate(zip(problems, alone, strict=True)):
            text, written = (lent[i] + ends[i][0], ends[i][1]) if i in lent else (thought, tokens)
            right = [task.verify(problem, each) for each in (thought, text, chains[i])]
            rows.append([float(x) for x in (right[0], tokens, right[1], written, i in lent, right[2])])
        found[name] = rows
    return found


def parts(rows: np.ndarray) -> list[float]:
    """Tokens saved above 30 %, and accuracy above two points less than alone."""
    alone, tokens, right, written = rows.mean(0)[:4]
    return [float(1 - written / tokens) - SAVED, float(right - alone) + LOSS]


def effect(rows: np.ndarray) -> float:
    """What decides."""
    return min(parts(rows))


def run(work: Workspace) -> Measured:
    found = {name: np.array(rows) for name, rows in work.keep("asked", partial(asked, work)).items()}
    named = ("right alone", "tokens alone", "right with", "tokens with", "chain there", "weak policy right")
    points = {f"chain lent, {name}": rows.mean(0)[[3, 2]] for name, rows in found.items()}
    chosen = found["greedy"]
    points |= {"alone": chosen.mean(0)[[1, 0]]}
    lines = {name: {"x": [float(x)], "y": [float(y)]} for name, (x, y) in points.items()}
    details = {
        "curves": [{"x": "tokens of the better policy, a problem", "y": "accuracy", "log": "", "lines": lines}],
        "parts of the effect": {name: parts(rows) for name, rows in found.items()},
        "means": {name: dict(zip(named, rows.mean(0).tolist(), strict=True)) for name, rows in found.items()},
        "right with a chain, by whether the weak policy was right": {
            str(bool(right)): float(chosen[chosen[:, 5] == right, 2].mean()) for right in np.unique(chosen[:, 5])},
    }  # fmt: skip
    spent = sum(trial.flops for trial in plan(work.quick).trials())
    return Measured(effect(chosen), bootstrap_interval(chosen, effect), float(spent), details)
