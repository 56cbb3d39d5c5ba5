"""Predictions of a study: written down before what they foretell is measured, and judged when it has been.

Three kinds, each from what the study knows at that moment:

samples  coverage, votes and best-of-N of all of a policy's samples, from the first eighth or so of them
sizes    the accuracy of one sample of a policy, from the smaller policies
budgets  the accuracy of a search's largest size, from its smaller ones, each a like factor more than the one before

Coverage follows from the success rates of problems: Beta densities, one for every level of difficulty, whose
uncertainty comes from resampled problems, and the problems' own counts beside them. Best-of-N adds how far apart the
scores of right and wrong samples lie. Votes go on with their last slope per doubling, times a factor that nobody knows
and that lies between SHRINKS. Sizes follow a line of
log-odds in ln(parameters) for every level, whose scatter all levels share. Intervals are for the problems of the study,
not for others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import norm
from scipy.stats import t as student

from scaling import kept
from scaling.laws.coverage import fit_beta_binomial
from search.metrics import Samples
from search.metrics.selection import selection_results

LEVEL = 0.9
DRAWS = 2000
SHRINKS = (0.1, 1.0)  # of a slope from one doubling to the next
SEARCHES_SHRINK = (0.0, 1.0)  # of a search's gain from one size to the next
VOTES = ("majority", "weighted_vote")
ONE = "one sample"
SUFFIX, JUDGED = ".foretold.json", "foretold.csv"


@dataclass(frozen=True)
class Foretold:
    """One prediction: `what` of a policy on a task will lie in [low, high] with probability LEVEL.

    at: the number of samples or the search that is foretold. given: what was known.
    """

    policy: str
    params: int
    task: str
    what: str
    at: str
    given: str
    predicted: float
    low: float
    high: float


# -- kept ------------------------------------------------------------------------------------------------------------


def register(file: Path, found: Sequence[Foretold]) -> None:
    """Write down what is foretold of one part, unless that was done before: durable when this returns."""
    if found:
        kept.create(file, json.dumps([asdict(f) for f in found], indent=1, allow_nan=False))


def registered(file: Path) -> list[Foretold]:
    """What was foretold of a part; nothing where there is no such file."""
    if not file.exists():
        return []
    words = dict.fromkeys(("policy", "task", "what", "at", "given"), str)
    shape: kept.Shape = [words | {"params": int} | dict.fromkeys(("predicted", "low", "high"), (float, int))]
    fix = "restore it: predictions that are made again foretell nothing"
    return [Foretold(**row) for row in kept.read(file, shape, fix)]


# -- foretelling -----------------------------------------------------------------------------------------------------


def of_samples(first: pd.DataFrame, samples: int) -> list[Foretold]:
    """What all of a policy's `samples` per problem will show, from the first of them (columns of `Study.samples`)."""
    found = []
    for (policy, params, task), group in first.groupby(["policy", "params", "task"], sort=False):
        drawn = Samples.from_table(group)
        count = int(drawn.counts.min())
        if count < 4 or samples <= count:
            continue
        levels = group.drop_duplicates("problem")["level"].to_numpy(float)
        rng = np.random.default_rng([count, samples, len(levels)])
        right = _right(drawn, levels, samples, rng)
        draws = {"coverage": (right > 0).mean(1)}
        ks = np.array([count // 4, count // 2, count])
        values = selection_results(drawn, ks)
        curves = {
            name: group.pivot(index="problem", columns="budget", values="correct")[ks].to_numpy(float)
            for name, group in values.groupby("strategy")
        }
        doublings = np.log2(samples / count)
        draws["best_of_n"] = _best(drawn.right, curves["best_of_n"][:, 2], count, right, samples, rng)
        for name in VOTES:
            draws[name] = _further(curves[name], doublings, rng)
        named = (str(policy), int(params), str(task))
        given = f"{count} samples"
        found += [_foretold(*named, what, f"{samples} samples", given, drawn) for what, drawn in draws.items()]
    return found


def of_sizes(samples: pd.DataFrame, policy: str, params: int) -> list[Foretold]:
    """The accuracy of one sample of a policy of `params` parameters, from those of at least three smaller sizes."""
    smaller = samples[samples["params"] < params]
    sizes = np.unique(smaller["params"])
    if len(sizes) < 3:
        return []
    groups = smaller.assign(level=smaller["level"].fillna(0)).groupby(["task", "level", "params"], sort=True)["correct"]
    rates = ((groups.sum() + 0.5) / (groups.count() + 1)).unstack("params")
    lines = logit(rates.dropna().to_numpy(float))  # [cells, sizes]
    x = np.log(sizes)
    design = np.column_stack([np.ones(len(x)), x])
    weights = np.array([1.0, np.log(params)]) @ np.linalg.pinv(design)  # of the sizes, in the value at `params`
    scatter = lines - lines @ np.linalg.pinv(design).T @ design.T
    freedom = len(lines) * (len(x) - 2)
    sigma = np.sqrt(np.square(scatter).sum() / freedom * (1 + np.square(weights).sum()))
    rng = np.random.default_rng([len(x), params])
    # what the levels of a task have in common is not averaged away
    shocks = student.rvs(freedom, size=DRAWS, random_state=rng) * sigma
    problems = samples.drop_duplicates(["task", "problem"]).assign(level=lambda rows: rows["level"].fillna(0))
    share = problems.groupby(["task", "level"]).size()
    cells = pd.Series(list(lines @ weights), index=rates.dropna().index)
    return [
        _foretold(
            policy, params, str(task), ONE, ONE, f"{len(x)} smaller policies",
            (share[task] / share[task].sum()).to_numpy() @ expit(cells[task].to_numpy()[:, None] + shocks[None]),
        )
        for task in dict.fromkeys(samples["task"])
        if task in cells and set(share[task].index) == set(cells[task].index)
    ]  # fmt: skip


def of_budgets(searches: pd.DataFrame, size: str, smaller: Sequence[str]) -> list[Foretold]:
    """The accuracy of a search at `size`, from the last two of its smaller sizes (columns of `Study.search`)."""
    found: list[Foretold] = []
    if len(smaller) < 2:
        return found
    for (policy, params, task), group in searches.groupby(["policy", "params", "task"], sort=False):
        before, last = (group.loc[group["size"] == name, "correct"].to_numpy(float) for name in smaller[-2:])
        if not len(before) or len(before) != len(last):
            continue
        rng = np.random.default_rng([len(last), len(found)])
        # Of a problem's outcome only a part is chance: two searches of one problem agree more often than strangers
        chance = np.sqrt(max(np.mean((before - last) ** 2), 1 / len(last)) / len(last) / 2)
        noise = rng.normal(0, chance, (3, DRAWS))
        gain = last.mean() + noise[1] - before.mean() - noise[0]
        draws = last.mean() + noise[1] + rng.uniform(*SEARCHES_SHRINK, DRAWS) * gain + noise[2]
        given = " and ".join(smaller[-2:])
        found.append(_foretold(str(policy), int(params), str(task), size.partition(":")[0], size, given, draws))
    return found


def _right(drawn: Samples, levels: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Draws [DRAWS, problems] of how many of `samples` are right, given those of the first ones that are."""
    right, count = drawn.right, drawn.counts
    rates = np.empty((DRAWS, len(levels)))
    for level in np.unique(levels):
        mine = np.isnan(levels) if np.isnan(level) else levels == level
        r, n = right[mine], count[mine]
        density = fit_beta_binomial(n, r, bootstrap=100, seed=0)
        if density.draws.size:
            a, b = density.draws[rng.integers(0, len(density.draws), DRAWS)].T
            rates[:, mine] = rng.beta(a[:, None] + r, b[:, None] + n - r)
        elif 0 < r.sum() < n.sum() and density.alpha + density.beta < 1000 * n.max():  # solved always or never
            rates[:, mine] = rng.beta(density.alpha + r, density.beta + n - r, (DRAWS, len(r)))
        else:  # one rate fits all problems
            rates[:, mine] = rng.beta(0.5 + r.sum(), 0.5 + (n - r).sum(), (DRAWS, 1))
    return right + rng.binomial(samples - count, rates)


def _best(
    right: np.ndarray, chosen: np.ndarray, count: int, later: np.ndarray, samples: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws [DRAWS] of the accuracy of the best-scored of `samples`, `later` [DRAWS, problems] of them right.

    Scores of right and wrong samples are taken for normal densities of one width, `apart` of it from each other; how
    far is learned from which problems the best of the first `count` samples got (`chosen` [problems], with `right` of
    them right).
    """
    apart = np.linspace(-3, 8, 111)
    known = _best_right(count, apart)[:, right]  # [apart, problems]
    known = np.clip(known, 1e-9, 1 - 1e-9)
    fits = (chosen * np.log(known) + (1 - chosen) * np.log1p(-known)).sum(1) - (apart - 1) ** 2 / 8
    weights = np.exp(fits - fits.max())
    picked = rng.choice(len(apart), DRAWS, p=weights / weights.sum())
    won = _best_right(samples, apart)[picked[:, None], later]
    return (rng.random(won.shape) < won).mean(1)


def _best_right(samples: int, apart: np.ndarray) -> np.ndarray:
    """P(the highest score is a right sample's) [len(apart), samples + 1], of 0 to `samples` right ones."""
    x = np.linspace(-7, 15, 500)  # scores, in widths of the wrong ones' density
    n = np.arange(samples + 1)
    middle = (x[1:] + x[:-1]) / 2
    wrong = np.exp((samples - n)[:, None] * norm.logcdf(middle))  # [n, x]: all wrong ones are below
    below = norm.logcdf(x - apart[:, None])  # [apart, x], of one right one
    return np.array([np.diff(np.exp(k * below), axis=1) @ wrong[k] for k in n]).T


def _further(values: np.ndarray, doublings: float, rng: np.random.Generator) -> np.ndarray:
    """Draws [DRAWS] of a curve's mean `doublings` beyond its last point; values [problems, 3] at a quarter, a half and
    all of the samples, each an expectation over which samples were drawn."""
    curve, half = values.mean(0), values[:, 1]
    # what is chance in a mean: which samples were drawn, here and again where the prediction is measured
    chance = np.sqrt(np.maximum(half * (1 - half), 1 / len(half)).mean() / len(half))
    slope = (curve[2] - curve[0]) / 2 + rng.normal(0, chance / 3, DRAWS)
    shrink = rng.uniform(*SHRINKS, DRAWS)
    steps = np.arange(1, int(np.ceil(doublings)) + 1)
    part = np.minimum(1, doublings - steps + 1)  # the last doubling may be a part of one
    gain = slope * (shrink[:, None] ** steps * part).sum(1)
    return curve[2] + gain + rng.normal(0, chance, DRAWS)


def _foretold(policy: str, params: int, task: str, what: str, at: str, given: str, draws: np.ndarray) -> Foretold:
    low, middle, high = np.quantile(np.clip(draws, 0, 1), [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2])
    return Foretold(policy, params, task, what, at, given, float(middle), float(low), float(high))


# -- judging ---------------------------------------------------------------------------------------------------------


def judge(foretold: Iterable[Foretold], samples: pd.DataFrame, searches: pd.DataFrame) -> pd.DataFrame:
    """Every prediction beside what was measured: the fields of `Foretold`, measured, inside, and the interval score.

    samples, searches: all of the study's, with columns `policy` and `params`. What has not been measured is left out.
    """
    rows: list[dict[str, Any]] = []
    curves: dict[tuple[str, str], dict[str, float]] = {}
    for prediction in foretold:
        key = (prediction.policy, prediction.task)
        mine = samples[(samples["policy"] == key[0]) & (samples["task"] == key[1])]
        if prediction.what == ONE:
            measured = float(mine["correct"].mean()) if len(mine) else np.nan
        elif prediction.at.endswith(" samples"):
            count = int(prediction.at.split()[0])
            if key not in curves and len(mine):
                values = selection_results(Samples.from_table(mine), [count])
                curves[key] = values.groupby("strategy")["correct"].mean().to_dict()
            measured = curves.get(key, {}).get(prediction.what, np.nan)
        else:
            one = searches[(searches["policy"] == key[0]) & (searches["task"] == key[1])]
            measured = float(one.loc[one["size"] == prediction.at, "correct"].mean())
        if np.isfinite(measured):
            rows.append(asdict(prediction) | {"measured": measured})
    table = pd.DataFrame(rows)
    if len(table):
        slack = 1e-9  # an interval of no width around a count
        table["inside"] = table["measured"].between(table["low"] - slack, table["high"] + slack)
        width, low, high = table["high"] - table["low"], table["low"], table["high"]
        outside = np.maximum(low - table["measured"], 0) + np.maximum(table["measured"] - high, 0)
        table["score"] = width + 2 / (1 - LEVEL) * outside
    return table


def said_of(judged: pd.DataFrame) -> str:
    """How many predictions there are, and how many of their intervals hold, in one line per kind."""
    if not len(judged):
        return (
            "No prediction was registered: a study needs four samples or more in an eighth of study.samples, three"
            " smaller policies, or two smaller sizes of a search."
        )
    kinds = judged.groupby("what", sort=False)["inside"].agg(["sum", "count"])
    each = ", ".join(f"{name} {row['sum']} of {row['count']}" for name, row in kinds.iterrows())
    share = judged["inside"].mean()
    return f"{len(judged)} predictions, made before: {share:.0%} inside their {LEVEL:.0%} intervals ({each})"


def section(judged: pd.DataFrame) -> str:
    """The predictions as a section of the study's page, in Markdown."""
    drawn = "![what was foretold against what was measured](figures/foretold.png)\n" if len(judged) else ""
    return f"## Foretold\n\n{said_of(judged)}\n\n{drawn}"
