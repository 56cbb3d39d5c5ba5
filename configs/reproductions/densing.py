"""Later recipes need fewer parameters for the same score: the slope of ln density over three generations of training.

    python -m launch.reproduce densing --workdir runs/reproductions/densing

Generations: AdamW at a constant rate; AdamW with a cosine to zero, which is the reference ladder; Muon on the hidden
matrices with the same cosine. Ten minutes on two cores, five of them for the ladder that other reproductions share.
"""

import dataclasses

import numpy as np
import pandas as pd

from configs.reproductions._text import folders, ladder, trained
from scaling.evaluate.completion import completions, token_rates
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.sweep.combinators import Point, product, seeds
from scaling.sweep.config import SweepConfig
from search.policy import load_policy

WIDTHS = (12, 16)  # well inside the reference ladder, since sizes beyond it cannot be read off
RECIPES = {0: {"train.schedule": "constant"}, 2: {"train.optimizer": "muon"}}  # generation 1 is the ladder itself
CONTEXT, LENGTH = 48, 8


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="densing",
        methods=(128,),
        claim="The density of models, effective over actual parameters, grows from generation to generation of recipes",
        source="Xiao et al. 2024, Densing law of LLMs, arXiv:2412.04315",
        smallest_effect=0.05,
        unit="slope of ln density per generation",
        minutes=10,
        not_covered="generations of data and architecture, benchmarks, dates; a generation here is a step of the "
        "optimiser, and the doubling time in months has no counterpart",
        simulated=False,
        run=run,
        sweeps=lambda quick: (ladder(quick), recipes(quick)),
    )


def recipes(quick: bool) -> SweepConfig:
    """Generations 0 and 2 at two widths, with the ladder's own seeds."""
    base = ladder(quick)
    points: list[Point] = [
        {"model.d_model": width, "train.learning_rate": 0.4 / width} | recipe
        for recipe in RECIPES.values()
        for width in WIDTHS
    ]
    repeated = product(points, seeds(1 if quick else 2))
    return dataclasses.replace(base, name="recipes", points=tuple(map(dict, repeated)))


def run(work: Workspace) -> Measured:
    reference = trained(work)
    new = work.sweep(recipes(work.quick), "recipes")
    scores = work.keep("scores", lambda: [
        scored(work, folders(work, reference)),
        scored(work, (work.folder / "sweeps" / "recipes" / "trials" / trial for trial in new["trial"])),
    ])  # fmt: skip
    reference, new = reference.assign(score=scores[0]), new.assign(score=scores[1])
    curve = reference.groupby("params")["score"].mean()  # size -> score of the reference recipe
    density = pd.concat([reference.assign(generation=1), new.assign(generation=generation(new))])
    density = density[density["d_model"].isin(WIDTHS)]
    beyond = {} if work.quick else {"left": np.nan, "right": np.nan}  # what the reference does not reach is unknown
    sizes = np.interp(density["score"], curve.cummax(), np.log(curve.index), **beyond)
    density = density.assign(log_density=sizes - np.log(density["params"]))
    wide = density.pivot_table("log_density", ["d_model", "seed"], "generation", aggfunc="first", dropna=False)
    slopes = ((wide[2] - wide[0]) / 2).dropna().to_numpy()  # least squares over three equal steps
    means = density.groupby("generation")["log_density"].mean()
    lines = {"mean over widths and seeds": {"x": means.index.astype(int).tolist(), "y": np.exp(means).tolist()}}
    details = {
        "curves": [{"x": "generation", "y": "density", "log": "y", "lines": lines}],
        "reference curve, parameters and score": [[int(n), float(s)] for n, s in curve.items()],
        "ln density of generations 0, 1, 2, by width and seed": {
            f"{width}, {seed}": [None if np.isnan(x) else float(x) for x in row]
            for (width, seed), row in zip(wide.index, wide.to_numpy(), strict=True)
        },
        "slopes": slopes.tolist(),
    }
    flops = float(reference["flops"].sum() + new["flops"].sum())
    return Measured(float(slopes.mean()), t_interval(slopes), flops, details)


def generation(table: pd.DataFrame) -> list[int]:
    return [2 if '"muon"' in config else 0 for config in table["config"]]


def scored(work: Workspace, places) -> list[float]:
    """Share of the tokens of held-out completions that each model ranks first."""
    given = completions(ladder(work.quick).data, 40 if work.quick else 1500, CONTEXT, LENGTH)
    policies = map(load_policy, places)
    return [float(token_rates(policy.model, policy.params, given).greedy.mean()) for policy in policies]
