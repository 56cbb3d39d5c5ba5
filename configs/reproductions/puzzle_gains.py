"""More attempts, side by side or one after the other with a checker's word, gain less at larger sizes of a puzzle.

    python -m launch.reproduce puzzle_gains --workdir runs/reproductions/puzzle_gains

The policy and what it writes are shared with puzzle_regimes.
"""

from functools import partial

import numpy as np
import pandas as pd

from configs.reproductions._stacks import MARKS, SAMPLES, SIZES, go_on, own, plan, posed, stacker, written
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval
from search.metrics import Samples
from search.metrics.selection import vote_values

ATTEMPTS = SAMPLES["thought"]
MIDDLE, LARGE = (4, 5), (6, 7)


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="puzzle_gains",
        methods=(173,),
        claim="What eight attempts gain, side by side or one after the other with feedback, is less at large sizes of "
        "a puzzle than at middle ones, and at one size solutions with more tokens are not right more often",
        source="Balachandran et al. 2025, Inference-time scaling for complex tasks, arXiv:2504.00294",
        smallest_effect=0.0,
        unit="accuracy, the least of: gain of the best of eight at 4 and 5 blocks less that at 6 and 7; the same of "
        "eight rounds with feedback; shorter half of a size's solutions less longer half",
        minutes=10,
        not_covered="language models and NP-hard problems; one policy. Feedback is a checker that leaves the legal "
        "steps with the arrangements that they truly led to, from which the policy goes on. The largest size is not "
        "beyond the policy: gains may shrink where hardly anything is right, which is not seen here",
        simulated=False,
        run=run,
        sweeps=lambda quick: (plan(quick),),
    )


def rounds(work: Workspace) -> list[list[float]]:
    """Of every problem, whether it is solved after each round `[ATTEMPTS]`, each going on from what a checker left."""
    policy, problems = stacker(work), posed(work)
    texts = [MARKS["thought"]] * len(problems)
    solved = np.zeros((len(problems), ATTEMPTS))
    for i in range(ATTEMPTS):
        open_ = [j for j in range(len(problems)) if not texts[j].endswith(".")]
        said = go_on(policy, [problems[j].prompt + texts[j] for j in open_], 1, seed=1 + i)
        for j, ((text, _),) in zip(open_, said, strict=True):
            task, problem = own(problems[j])
            texts[j] = task.accepted(problem, texts[j] + text)
        solved[:, i] = [text.endswith(".") for text in texts]
        work.say(f"round {i + 1}: {solved[:, i].mean():.3f} solved")
    return solved.tolist()


def halves(table: pd.DataFrame) -> pd.Series:
    """Per problem, its right less wrong share among the shorter and the longer half of its size: the size's gap is the
    sum over its problems."""
    middle = table.groupby("level")["generated_tokens"].transform("median")
    short = table["generated_tokens"] <= middle
    counts = short.groupby(table["level"]).transform("sum"), (~short).groupby(table["level"]).transform("sum")
    signed = table["correct"] * np.where(short, 1 / counts[0], -1 / counts[1].clip(lower=1))
    return signed.groupby(table["problem"]).sum()


def run(work: Workspace) -> Measured:
    table = written(work)
    table = table[table["form"] == "thought"]
    feedback = np.array(work.keep("rounds", partial(rounds, work)))
    samples = Samples.from_table(table)
    first = table.groupby("problem").agg(level=("level", "first"), mean=("correct", "mean"), best=("correct", "max"))
    level, single = first["level"].to_numpy(), first["mean"].to_numpy()
    votes = vote_values(samples, np.array([ATTEMPTS]), subsets=200)[0][:, 0]
    values = np.stack([level, single, first["best"], feedback[:, 0], feedback[:, -1], votes,
                       halves(table).to_numpy()], 1)  # fmt: skip

    def of(rows: np.ndarray, sizes: tuple[int, ...], column: int) -> float:
        at = [rows[rows[:, 0] == size, column] for size in sizes]
        return float(np.mean([one.mean() for one in at if len(one)] or [0.0]))

    def parts(rows: np.ndarray) -> list[float]:
        gains = [of(rows, MIDDLE, b) - of(rows, MIDDLE, a) - of(rows, LARGE, b) + of(rows, LARGE, a)
                 for a, b in ((1, 2), (3, 4))]  # fmt: skip
        shorter = [rows[rows[:, 0] == size, 6].mean() * (level == size).sum() for size in (*MIDDLE, *LARGE)
                   if (rows[:, 0] == size).any()]  # fmt: skip
        return [*gains, float(np.mean(shorter))]

    def effect(rows: np.ndarray) -> float:
        return min(parts(rows))

    sizes = [size for size in SIZES if (level == size).any()]
    named = {"one": 1, "vote of eight": 5, "best of eight": 2, "first round": 3, "eight rounds with feedback": 4}
    lines = {name: {"x": sizes, "y": [of(values, (size,), column) for size in sizes]} for name, column in named.items()}
    tokens = table.groupby("level")["generated_tokens"].mean()
    details = {
        "curves": [{"x": "blocks", "y": "accuracy", "log": "", "lines": lines}],
        "parts of the effect": parts(values),
        "tokens of an attempt, by blocks": {str(size): float(mean) for size, mean in tokens.items()},
        "rounds, by blocks": {str(size): feedback[level == size].mean(0).tolist() for size in sizes},
    }
    flops = sum(trial.flops for trial in plan(work.quick).trials())
    return Measured(effect(values), bootstrap_interval(values, effect), float(flops), details)
