"""Thousands of programs, ten submissions: filtered on two examples, clustered by what they give, the largest first.

    python -m launch.reproduce ten_submissions --workdir runs/reproductions/ten_submissions

One minute. Nothing is trained: a policy draws programs at random, and the better it is, the more often such as give
what an example shows.
"""

from functools import partial

import numpy as np

from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from scaling.tasks.programs import Asked, Programs
from search.metrics.clusters import submitted

TASK = Programs(modulus=11, operations=4, examples=2)
SKILLS = {"small": 0.0, "medium": 1.5, "large": 3.0}  # nats in favour of a program for each example that it gets right
DRAWS = 10 ** np.arange(1, 6)
INPUTS = 3  # generated inputs that programs are clustered by


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="ten_submissions",
        methods=(236,),
        claim="With ten submissions of k programs, filtered and clustered, the share of problems solved rises with "
        "log k in a straight line, and with the size of the policy",
        source="Li et al. 2022, Competition-level code generation with AlphaCode, arXiv:2203.07814",
        smallest_effect=0.95,
        unit="R² of 10@k on log k, k = 10 to 100,000, the least of three policies",
        minutes=3,
        not_covered="trained policies and programs of a real language: a policy's size is simulated by how much it "
        "prefers programs that agree with an example. Hidden tests are all 11 inputs, and every function is as likely "
        "to be asked for, as settled after a trial in which problems drawn by random programs were all solved",
        simulated=True,
        run=run,
    )


def solved(skill: float, problems: int) -> dict:
    """10@k of every problem `[problems][k]`: with filter and clusters, and with ten that pass the filter at random."""
    task, rng = TASK, np.random.default_rng(0)
    outputs, share = task.functions()
    both: dict[str, list] = {"clustered": [], "ten that pass": []}
    for _ in range(problems):
        asked = Asked(tuple(outputs[rng.integers(len(outputs))]), tuple(rng.permutation(task.modulus)[: task.examples]))
        agrees = outputs[:, list(asked.shown)] == np.array([asked.outputs[x] for x in asked.shown])
        chance = share * np.exp(skill * agrees.sum(1))
        passed, chance = agrees.all(1), chance / chance.sum()
        kinds, p = outputs[passed], chance[passed]
        hidden = rng.permutation(np.setdiff1d(np.arange(task.modulus), asked.shown))[:INPUTS]
        behaviour = np.unique(kinds[:, hidden], axis=0, return_inverse=True)[1].ravel()
        right = (kinds == np.array(asked.outputs)).all(1)
        rows: list[list[float]] = [[], []]
        for k in DRAWS:
            counts = rng.multinomial(k, [*p, max(0.0, 1 - p.sum())])[:-1]
            rows[0].append(submitted(counts, np.ones(len(p)), behaviour, right))
            wrong, drawn = float(counts[~right].sum()), counts.sum()
            missed = np.prod([max(wrong - i, 0) / max(drawn - i, 1) for i in range(min(10, int(drawn)))])
            rows[1].append(float(1 - missed) if drawn else 0.0)
        both["clustered"].append(rows[0])
        both["ten that pass"].append(rows[1])
    return both


def run(work: Workspace) -> Measured:
    problems = 40 if work.quick else 1000
    found = {name: work.keep(name, partial(solved, s, problems)) for name, s in SKILLS.items()}
    ten = np.stack([np.array(one["clustered"]) for one in found.values()], 1)  # [problems, policies, k]
    x = np.log10(DRAWS)

    def least(rows: np.ndarray) -> float:
        return float(min(np.corrcoef(x, y)[0, 1] ** 2 for y in rows.mean(0)))

    lines = {f"{name}, {how}": {"x": DRAWS.tolist(), "y": np.mean(one[how], 0).tolist()}
             for name, one in found.items() for how in one}  # fmt: skip
    steps = np.diff(ten.mean(0)[:, -1])
    details = {
        "curves": [{"x": "programs drawn", "y": "problems solved by ten submissions", "log": "x", "lines": lines}],
        "gain per decade of k": [float(np.polyfit(x, y, 1)[0]) for y in ten.mean(0)],
        "gain from a policy to the next at the end": steps.tolist(),
        "of 100, from a policy to the next": np.diff(ten.mean(0)[:, 1]).tolist(),
    }
    return Measured(least(ten), bootstrap_interval(ten, least), 0.0, details)
