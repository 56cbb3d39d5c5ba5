"""Thoughts pay at middle sizes of a puzzle: the smallest need none, and at the largest nothing helps.

    python -m launch.reproduce puzzle_regimes --workdir runs/reproductions/puzzle_regimes

The policy and what it writes are shared with puzzle_gains.
"""

import numpy as np
import pandas as pd

from configs.reproductions._stacks import SAMPLES, SIZES, plan, written
from scaling.laws.coverage import pass_at_k
from scaling.reproduction import Measured, Reproduction, Workspace, bootstrap_interval

MIDDLE = (4, 5)
THOUGHTS = (1, 2, 3)


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="puzzle_regimes",
        methods=(226,),
        claim="At equal tokens, what thoughts add to moves alone is most at middle sizes of a puzzle and less at the "
        "smallest and at the largest",
        source="Shojaee et al. 2025, The Illusion of Thinking, arXiv:2506.06941",
        smallest_effect=0.02,
        unit="accuracy: what one thought adds to as many tokens of moves alone, of which the best counts, at 4 and 5 "
        "blocks; less the same at 3 and at 7 blocks, whichever is more",
        minutes=10,
        not_covered="language models; towers of Hanoi, checkers and river crossings, for which no policy was trained. "
        "A thought is the arrangement after every move. Larger sizes are rarer in what the policy learned from",
        simulated=False,
        run=run,
        sweeps=lambda quick: (plan(quick),),
    )


def by_problem(table: pd.DataFrame, forms: tuple[str, ...] = tuple(SAMPLES)) -> pd.DataFrame:
    """One row per problem: its level, and of each form how many were right and their mean tokens."""
    groups = table.groupby(["level", "problem", "form"])
    wide = groups.agg(right=("correct", "sum"), tokens=("generated_tokens", "mean")).unstack()
    wide.columns = [f"{form} {name}" for name, form in wide.columns]
    return wide.reset_index()


def leads(rows: pd.DataFrame, thoughts: int = 1) -> tuple[pd.DataFrame, pd.Series]:
    """Per problem, the chance that one of so many thoughts is right and that one of as many tokens of moves alone is;
    per level, how many of the latter that is."""
    means = rows.groupby("level")[["thought tokens", "none tokens"]].mean()
    equal = (thoughts * means["thought tokens"] / means["none tokens"]).round().clip(1, SAMPLES["none"]).astype(int)
    found = pd.DataFrame({
        "level": rows["level"],
        "thought": pass_at_k(SAMPLES["thought"], rows["thought right"].to_numpy(), thoughts),
        "none": [float(pass_at_k(SAMPLES["none"], right, equal[level]))
                 for level, right in zip(rows["level"], rows["none right"])],
    })  # fmt: skip
    return found, equal


def run(work: Workspace) -> Measured:
    table = written(work)
    rows = by_problem(table)
    one, equal = leads(rows)

    def lead(values: np.ndarray) -> dict[int, float]:
        return {size: float(values[values[:, 0] == size, 1].mean()) for size in SIZES if (values[:, 0] == size).any()}

    def effect(values: np.ndarray) -> float:
        at = lead(values)
        return float(np.mean([at[size] for size in MIDDLE]) - max(at.get(SIZES[0], 0.0), at.get(SIZES[-1], 0.0)))

    values = np.stack([one["level"], one["thought"] - one["none"]], 1)
    accuracy = {n: leads(rows, n)[0].groupby("level")[["thought", "none"]].mean() for n in THOUGHTS}
    tokens = table.groupby(["form", "level"])["generated_tokens"].mean().unstack(0)
    x = [int(size) for size in tokens.index]
    details = {
        "curves": [
            {"x": "blocks", "y": f"accuracy, tokens of {n} thoughts", "log": "",
             "lines": {form: {"x": x, "y": by[form].tolist()} for form in SAMPLES}} for n, by in accuracy.items()
        ] + [{"x": "blocks", "y": "tokens", "log": "",
              "lines": {form: {"x": x, "y": tokens[form].tolist()} for form in SAMPLES}}],
        "what a thought adds, by blocks": {str(size): value for size, value in lead(values).items()},
        "moves alone for one thought, by blocks": {str(size): int(k) for size, k in equal.items()},
        "problems, by blocks": {str(size): int(n) for size, n in one["level"].value_counts().sort_index().items()},
        "one of moves alone": {str(s): float(v) for s, v in
                               table[table["form"] == "none"].groupby("level")["correct"].mean().items()},
    }  # fmt: skip
    flops = sum(trial.flops for trial in plan(work.quick).trials())
    return Measured(effect(values), bootstrap_interval(values, effect), float(flops), details)
