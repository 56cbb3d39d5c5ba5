"""Regimes of a puzzle's size: moves alone do at the smallest, thoughts win in the middle, neither works at the largest.

    python -m launch.reproduce puzzle_regimes --workdir runs/reproductions/puzzle_regimes

The policy and what it writes are shared with puzzle_gains. A first form of the effect, what thoughts add in the middle
less what they add at both ends, could not tell (0.021 [-0.049, 0.073]) and would have held where thoughts lose at every
size, as they do here; this one replaced it after that was seen.
"""

import numpy as np
import pandas as pd

from configs.reproductions._stacks import SAMPLES, SIZES, plan, written
from scaling.laws.coverage import pass_at_k
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval

SMALL, MIDDLE, LARGE = SIZES[0], (4, 5), SIZES[-1]
THOUGHTS = (1, 2, 3)
COLLAPSED = 0.1
COLUMNS = ("level", "lead", "thought", "lead of an attempt")


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="puzzle_regimes",
        methods=(226,),
        claim="At equal tokens moves alone are as right as thoughts on the smallest puzzles, thoughts win on middle "
        "ones, and on the largest a thought is right less than once in ten",
        source="Shojaee et al. 2025, The Illusion of Thinking, arXiv:2506.06941",
        smallest_effect=0.0,
        unit="accuracy, the least of: moves alone less a thought at 3 blocks, a thought less moves alone at 4 and 5, "
        "and a tenth less a thought at 7; of as many tokens of moves alone as a thought takes the best counts",
        minutes=12,
        not_covered="language models and more than one policy; towers of Hanoi, checkers and river crossings, for "
        "which no policy was trained. A thought is the arrangement after every move. Larger sizes are rarer in what "
        "the policy learned from. Tokens of a thought do not fall at any of these sizes (details)",
        simulated=False,
        run=run,
        sweeps=lambda quick: (plan(quick),),
    )


def by_problem(table: pd.DataFrame) -> pd.DataFrame:
    """One row per problem: its level, and of each form how many were right and their mean tokens."""
    groups = table.groupby(["level", "problem", "form"])
    wide = groups.agg(right=("correct", "sum"), tokens=("generated_tokens", "mean")).unstack()
    wide.columns = [f"{form} {name}" for name, form in wide.columns]
    return wide.reset_index()


def equal_tokens(rows: pd.DataFrame, thoughts: int = 1) -> tuple[pd.DataFrame, pd.Series]:
    """Per problem, the chance that one of so many thoughts is right and that one of as many tokens of moves alone is;
    per level, how many of the latter that is."""
    means = rows.groupby("level")[["thought tokens", "none tokens"]].mean()
    equal = (thoughts * means["thought tokens"] / means["none tokens"]).round().clip(1, SAMPLES["none"]).astype(int)
    none = [
        float(pass_at_k(SAMPLES["none"], right, equal[level]))
        for level, right in zip(rows["level"], rows["none right"])
    ]
    thought = pass_at_k(SAMPLES["thought"], rows["thought right"].to_numpy(), thoughts)
    return pd.DataFrame({"level": rows["level"], "thought": thought, "none": none}), equal


def run(work: Workspace) -> Measured:
    table = written(work)
    rows = by_problem(table)
    one, equal = equal_tokens(rows)
    attempt = one["thought"] - rows["none right"] / SAMPLES["none"]
    values = np.stack([one["level"], one["thought"] - one["none"], one["thought"], attempt], 1)

    def at(values: np.ndarray, size: int, column: str) -> float:
        found = values[values[:, 0] == size, COLUMNS.index(column)]
        return float(found.mean()) if len(found) else 0.0

    def parts(values: np.ndarray) -> list[float]:
        middle = float(np.mean([at(values, size, "lead") for size in MIDDLE]))
        return [-at(values, SMALL, "lead"), middle, COLLAPSED - at(values, LARGE, "thought")]

    def effect(values: np.ndarray) -> float:
        return min(parts(values))

    accuracy = {n: equal_tokens(rows, n)[0].groupby("level")[["thought", "none"]].mean() for n in THOUGHTS}
    tokens = table.groupby(["form", "level"])["generated_tokens"].mean().unstack(0)
    sizes = [int(size) for size in tokens.index]
    panels = {f"accuracy, tokens of {n} thoughts": by for n, by in accuracy.items()} | {"tokens": tokens}
    by_size = {size: values[values[:, 0] == size] for size in sizes}
    details = {
        "curves": [{"x": "blocks", "y": name, "log": "",
                    "lines": {form: {"x": sizes, "y": by[form].tolist()} for form in SAMPLES}}
                   for name, by in panels.items()],
        "parts of the effect": parts(values),
        **{f"{name}, by blocks": {str(size): [at(values, size, name), *bootstrap_interval(those[:, i])]
                                  for size, those in by_size.items()} for i, name in enumerate(COLUMNS) if i},
        "moves alone for one thought, by blocks": {str(size): int(k) for size, k in equal.items()},
        "problems, by blocks": {str(size): len(those) for size, those in by_size.items()},
    }  # fmt: skip
    flops = sum(trial.flops for trial in plan(work.quick).trials())
    return Measured(effect(values), bootstrap_interval(values, effect), float(flops), details)
