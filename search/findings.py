"""Findings: what a study shows, each beside the direction that the literature reports, with the numbers either way."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import beta

from models.errors import ConfigError
from scaling import finding, kept
from scaling.finding import Finding
from search.allocation import CHOSEN, compute_optimal, difficulty
from search.metrics import Samples, best_of_k, fit_coverage, sample_efficiency, verified_curve
from search.strategy_table import KEYS, budgets_from, samples_of, strategy_rows, strategy_table

FALSE_POSITIVES = (0.0, 0.01, 0.1)
NOISES = (0.0, 1.0, 2.0, 4.0)  # standard deviations on the logit of the score


@dataclass(frozen=True)
class Direction:
    """One direction of the literature: the finding, over the cases of a study in which it could be seen, and the table.

    note: what the columns of the table are.
    """

    title: str
    finding: Finding
    seen: pd.DataFrame
    note: str = ""

    @property
    def holds(self) -> float:
        """Share of the cases in which it does, NaN when no case could tell."""
        return self.finding.effect

    @property
    def text(self) -> str:
        """The claim with its source, and the note."""
        source = f" ({self.finding.source})" if self.finding.source else ""
        return f"{self.finding.claim}{source}. {self.note}".strip()

    @property
    def share(self) -> str:
        """In how many of the cases it holds, in words."""
        return "no case could tell" if np.isnan(self.holds) else f"holds in {self.holds:.0%} of the cases"

    def to_json(self) -> dict[str, Any]:
        """The finding's names, and title, note and table."""
        seen = {str(name): [_written(value) for value in self.seen[name]] for name in self.seen}
        return self.finding.to_json() | {"title": self.title, "note": self.note, "seen": seen}


@dataclass(frozen=True)
class Findings:
    """All of them, with the table at equal FLOPs that they stand on."""

    found: tuple[Direction, ...]
    table: pd.DataFrame

    def markdown(self, more: Sequence[str] = ()) -> str:
        """One page: curves, who leads at the largest budget, and every claim with its verdict.

        more: sections between the two. The numbers are in table.csv and findings.json, the pictures in figures/.
        """
        tasks = list(dict.fromkeys(self.table["task"]))
        drawn = [f"![every strategy on {task}](figures/strategies-{i}.png)\n" for i, task in enumerate(tasks, 1)]
        seen = pd.DataFrame([
            {"": f.title, "claim": f.text, "here": f"{f.share}: {f.finding.verdict}"} for f in self.found
        ])  # fmt: skip
        parts = [
            "## Accuracy against FLOPs\n",
            "The best strategy of each policy at each budget, with its 90 % interval over problems; dashed: coverage, "
            "which a verifier that never errs would reach.\n",
            "![accuracy against FLOPs per problem, by policy](figures/policies.png)\n",
            f"At the largest budget:\n\n{_shown(self._leaders())}\n",
            "## Strategies at equal FLOPs\n", *drawn,
            *more,
            f"## Against the literature\n\n{_shown(seen)}\n",
        ]  # fmt: skip
        return "\n".join(parts)

    def _leaders(self) -> pd.DataFrame:
        """Per task and policy, the leading strategy at the largest budget beside one that never errs in choosing."""
        rows = []
        for (task, params, policy), group in self.table.groupby(["task", "params", "policy"], sort=False):
            last = group[group["budget"] == group["budget"].max()].set_index("strategy")
            best = last.drop(index="coverage", errors="ignore")["accuracy"].idxmax()
            accuracy, low, high = last.loc[best, ["accuracy", "low", "high"]]
            rows.append({
                "task": task, "policy": self._named(params, policy), "leads": best,
                "accuracy": f"{accuracy:.2f} [{low:.2f}, {high:.2f}]",
                "coverage": f"{last.loc['coverage', 'accuracy']:.2f}" if "coverage" in last.index else "",
            })  # fmt: skip
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """A line per task and policy with the leading strategy at the largest budget, and a line per finding."""
        lines = []
        real = self.table[self.table["strategy"] != "coverage"]
        for (task, params, policy), group in real.groupby(["task", "params", "policy"], sort=False):
            best = group.sort_values(["budget", "accuracy"]).iloc[-1]
            found = f"{best['accuracy']:.2f} [{best['low']:.2f}, {best['high']:.2f}] {best['strategy']}"
            lines.append(f"{task}, {self._named(params, policy)}, {best['budget']:.2g} FLOPs per problem: {found}")
        return "\n".join([*lines, "", "Against the literature", *(f"  {f.title}: {f.share}" for f in self.found)])

    def _named(self, params: int, policy: str) -> str:
        """What a policy is called: its size, and its name beside others of that size."""
        alone = self.table.loc[self.table["params"] == params, "policy"].nunique() == 1
        return f"{params:,} parameters" + ("" if alone else f" ({policy})")

    def to_json(self) -> str:
        """The findings without the table, for `from_json`."""
        return json.dumps([direction.to_json() for direction in self.found], indent=1, allow_nan=False)


_AGAIN = "run the study's command again: it is made anew"
_VALUE = (bool, int, float, str, None)
_DIRECTIONS: kept.Shape = [{"title": str, "note": str, "seen": {str: [_VALUE]}}]


def from_json(text: str | bytes, table: pd.DataFrame) -> Findings:
    """What `Findings.to_json` wrote, with its table."""
    found = []
    for f in kept.parsed(text, _DIRECTIONS, "findings.json", _AGAIN):
        seen = pd.DataFrame({name: [_read(value) for value in column] for name, column in f["seen"].items()})
        found.append(Direction(f["title"], finding.of_json(f, "findings.json"), seen, f["note"]))
    return Findings(tuple(found), table)


def _written(value: Any) -> Any:
    """A number as JSON has it: null for NaN, "inf" for infinity."""
    number = value.item() if isinstance(value, np.generic) else value
    if isinstance(number, float) and not np.isfinite(number):
        return None if np.isnan(number) else str(number)
    return number


def _read(value: Any) -> Any:
    return {None: float("nan"), "inf": float("inf"), "-inf": float("-inf")}.get(value, value)


def find(
    samples: pd.DataFrame, searches: pd.DataFrame, budgets: int = 6, factor: float = 4.0
) -> tuple[pd.DataFrame, pd.DataFrame, Findings]:
    """(rows per problem, table, findings) of a study; samples and searches of all policies, as `Study` gives them."""
    rows = strategy_rows(samples, searches, list(budgets_from(samples, budgets, factor)))
    table = strategy_table(rows)
    parts: list[Callable[[], Direction]] = [
        lambda: coverage(samples),
        lambda: plateau(table),
        lambda: ceiling(samples),
        lambda: optimal_choice(samples, rows),
        lambda: small_against_large(samples, rows),
        lambda: noise(samples),
        lambda: a_star(rows),
    ]
    return rows, table, Findings(tuple(part() for part in parts), table)


def coverage(samples: pd.DataFrame) -> Direction:
    """log coverage = a k^b, fitted to a quarter of the samples and tested on the rest."""
    seen = []
    for key, group in samples.groupby(KEYS, sort=False):
        mine = samples_of(group)
        try:
            fitted = fit_coverage(mine, max(4, int(mine.counts.min()) // 4), bootstrap=100)
        except ConfigError as error:
            seen.append(dict(zip(KEYS[1:], key[1:]), r_squared=np.nan, note=error.problem))
            continue
        rates = mine.right / mine.counts
        seen.append(dict(
            zip(KEYS[1:], key[1:]), r_squared=fitted.r_squared, b=fitted.power.params.b,
            error_power=fitted.error("power"), error_beta=fitted.error("beta"),
            pass_rate=rates.mean(), spread=rates.std() / np.sqrt(rates.mean() * (1 - rates.mean()) + 1e-12), note="",
        ))  # fmt: skip
    table = pd.DataFrame(seen)
    known = table.get("r_squared", pd.Series(dtype=float))
    claim = "Coverage follows log c = a k^b on heterogeneous tasks, R² > 0.99, and not on homogeneous ones"
    source = "Brown et al. 2024; Schaeffer et al. 2025"
    return Direction(
        "Coverage",
        _finding("coverage", (4,), claim, source, known > 0.99, known),
        table,
        "`spread` is the standard deviation of pass rates over its largest value; errors are beyond a quarter of the "
        "samples, which the fit saw.",
    )


def plateau(table: pd.DataFrame) -> Direction:
    """What the last budget adds to a vote, to the best by score, and to coverage."""
    seen = []
    for key, group in table.groupby(KEYS, sort=False):
        gains = {}
        for name in ("majority", "best_of_n", "coverage"):
            mine = group[group["strategy"] == name].sort_values("budget").drop_duplicates("flops")
            curve = mine["accuracy"].to_numpy()
            gains[name] = curve[-1] - curve[-2] if len(curve) > 1 else np.nan
        seen.append(dict(zip(KEYS[1:], key[1:]), **{f"gain_{name}": gain for name, gain in gains.items()}))
    out = pd.DataFrame(seen)
    smaller = (out["gain_majority"] < out["gain_coverage"]) & (out["gain_best_of_n"] < out["gain_coverage"])
    claim = "Majority and reward selection level off while coverage goes on growing"
    return Direction(
        "Plateau",
        _finding("plateau", (4,), claim, "Brown et al. 2024", smaller, out["gain_coverage"]),
        out,
        "Gains at the last budget over the one before it.",
    )


def ceiling(samples: pd.DataFrame) -> Direction:
    """Resampling until a verifier with false positives accepts: accuracy at most attempts against its prediction."""
    seen = []
    rng = np.random.default_rng(0)
    for key, group in samples.groupby(KEYS, sort=False):
        mine = samples_of(group)
        for rate in FALSE_POSITIVES:
            accepted = [np.where(c > 0, 1.0, rng.random(len(c)) < rate) for c in mine.correct]
            judged = Samples.of(mine.correct, accepted=accepted, problems=mine.problems)
            if all(row.min() == 1 for row in accepted) or not mine.right.sum():
                continue
            found = verified_curve(judged, penalty=1.0, bootstrap=100)
            last = found.table.iloc[-1]
            seen.append(dict(
                zip(KEYS[1:], key[1:]), false_positives=rate, accuracy=last["accuracy"], predicted=last["predicted"],
                ceiling=found.ceiling, best_k=found.best_k, predicted_best_k=found.predicted_best_k,
            ))  # fmt: skip
    columns = ["false_positives", "accuracy", "predicted", "ceiling", "best_k", "predicted_best_k"]
    out = pd.DataFrame(seen, columns=[*KEYS[1:], *columns])  # which nobody fills where no sample is right
    claim = (
        "A false-positive rate puts the predicted ceiling on accuracy (within 2 points) and makes the best number of "
        "attempts finite when a wrong answer costs as much as a right one gains"
    )
    within = (out["accuracy"] - out["predicted"]).abs() <= 0.02
    return Direction(
        "Imperfect verifiers", _finding("ceiling", (35,), claim, "Stroebl et al. 2024", within, out["accuracy"]), out
    )


def optimal_choice(samples: pd.DataFrame, rows: pd.DataFrame) -> Direction:
    """How much less a strategy chosen per difficulty needs than best-of-N, cross-validated."""
    seen = []
    for key, group in rows[rows["strategy"] != "coverage"].groupby(KEYS, sort=False):
        mine = samples_of(_same(samples, key))
        for by in ("pass_rate", "score"):
            try:
                chosen = compute_optimal(group, difficulty(mine, by), bootstrap=200)
                both = pd.concat([group, chosen.rows], ignore_index=True)
                e = sample_efficiency(both, CHOSEN, "best_of_n", bootstrap=200)
            except ConfigError as error:
                seen.append(dict(zip(KEYS[1:], key[1:]), difficulty=by, ratio=np.nan, note=error.problem))
                continue
            seen.append(dict(
                zip(KEYS[1:], key[1:]), difficulty=by, ratio=e.ratio, low=e.interval.low, high=e.interval.high,
                accuracy=e.target, note="",
            ))  # fmt: skip
    out = pd.DataFrame(seen)
    claim = "The best strategy per difficulty needs 2 to 4 times fewer FLOPs than best-of-N for its accuracy"
    return Direction(
        "Compute-optimal choice",
        _finding("optimal_choice", (2,), claim, "Snell et al. 2024", out["ratio"] >= 2, out["ratio"]),
        out,
        "`ratio` is best-of-N's budget over the choice's, on problems that did not make the choice.",
    )


def small_against_large(samples: pd.DataFrame, rows: pd.DataFrame) -> Direction:
    """The best search with each policy at the least and the largest budget that all of them have, by difficulty."""
    seen: list[dict[str, Any]] = []
    for task, group in rows[~rows["strategy"].isin(["coverage"])].groupby("task", sort=False):
        sizes = sorted(group["params"].unique())
        budgets = set.intersection(*(set(group[group["params"] == n]["budget"]) for n in sizes))
        if len(sizes) < 2 or not budgets:
            continue
        hardest = group[group["params"] == sizes[-1]]["policy"].iloc[0]
        bins = difficulty(samples_of(_same(samples, (hardest, sizes[-1], task))))
        for budget in sorted({min(budgets), max(budgets)}):
            at = group[group["budget"] == budget]
            at = at.assign(difficulty=at["problem"].map(bins))
            best = at.groupby(["difficulty", "params", "strategy"])["correct"].mean()
            for label, values in best.groupby(["difficulty", "params"]).max().groupby("difficulty"):
                seen.append(dict(
                    task=task, difficulty=int(label), budget=budget, small=values.iloc[0], large=values.iloc[-1],
                    smallest_params=sizes[0], largest_params=sizes[-1],
                ))  # fmt: skip
    sizes_of = ["smallest_params", "largest_params"]
    out = pd.DataFrame(seen, columns=["task", "difficulty", "budget", "small", "large", *sizes_of])
    easy, hard = out["difficulty"] <= 2, out["difficulty"] == out["difficulty"].max()
    agrees = (easy & (out["small"] >= out["large"])) | (hard & (out["small"] <= out["large"]))
    claim = "At equal FLOPs a small model with search passes a larger one on easy problems, not on the hardest"
    telling = easy | hard
    return Direction(
        "Small against large",
        _finding("small_against_large", (2,), claim, "Snell et al. 2024", agrees[telling], out["small"][telling]),
        out,
        "Difficulty 1 is the easiest; every policy has its best strategy.",
    )


def noise(samples: pd.DataFrame) -> Direction:
    """The best by score (mode search) against a draw in proportion to the score, as the scores get noisier."""
    seen = []
    rng = np.random.default_rng(0)
    for key, group in samples.groupby(KEYS, sort=False):
        mine = samples_of(group)
        assert mine.scores is not None
        n = int(mine.counts.min())
        for sigma in NOISES:
            best, drawn = [], []
            for correct, scores in zip(mine.correct, mine.scores):
                noisy = expit(logit(np.clip(scores, 1e-4, 1 - 1e-4)) + sigma * rng.standard_normal(len(scores)))
                best.append(best_of_k(correct, noisy, n)[0])
                drawn.append(float((noisy * correct).sum() / noisy.sum()))
            seen.append(dict(zip(KEYS[1:], key[1:]), sigma=sigma, mode=np.mean(best), sampled=np.mean(drawn)))
    out = pd.DataFrame(seen)
    out["sampled_minus_mode"] = out["sampled"] - out["mode"]
    gains = out.groupby([*KEYS[1:], "sigma"], sort=False)["sampled_minus_mode"].mean()  # over policies of one size
    ends = gains.groupby(KEYS[1:], sort=False).agg(["first", "last"])
    claim = "Sampling in proportion to the reward gains on taking the best as the reward gets noisier"
    return Direction(
        "Noisy rewards",
        _finding("noise", (9,), claim, "Puri et al. 2025", ends["last"] > ends["first"], ends["last"]),
        out,
        "sigma: standard deviation on the logit of the reward.",
    )


def a_star(rows: pd.DataFrame) -> Direction:
    """The FLOPs of A* for the accuracy that best-of-N has at its largest budget that A* can reach."""
    seen = []
    for key, group in rows.groupby(KEYS, sort=False):
        if not {"astar", "best_of_n"} <= set(group["strategy"]):
            continue
        top = group[group["strategy"] == "astar"].groupby("budget")["correct"].mean().max()
        e = sample_efficiency(group, "astar", "best_of_n", target=float(top), bootstrap=200)
        seen.append(dict(
            zip(KEYS[1:], key[1:]), accuracy=e.target, flops=e.budget, best_of_n_flops=e.baseline_budget,
            ratio=e.ratio, low=e.interval.low, high=e.interval.high,
        ))  # fmt: skip
    out = pd.DataFrame(seen, columns=[*KEYS[1:], "accuracy", "flops", "best_of_n_flops", "ratio", "low", "high"])
    claim = "A* needs at most half the tokens of best-of-N for its accuracy"
    return Direction(
        "A*",
        _finding("a_star", (268,), claim, "", out["ratio"] >= 2, out["ratio"]),
        out,
        "The accuracy is A*'s best here; `ratio` is best-of-N's budget over A*'s (inf: best-of-N never got there).",
    )


def scores_section(apart: pd.DataFrame) -> str:
    """What scores tell apart (`told_apart` by policy, params and task), as a section of the page."""
    wide = apart.assign(cell=[f"{row.within:.2f} / {row.best_of_all:.2f}" for row in apart.itertuples()])
    wide = wide.pivot(index="task", columns=["params", "policy"], values="cell").reindex(apart["task"].unique())
    sizes = [params for params, _ in wide.columns]
    wide.columns = [
        f"{params:,} parameters" + f" ({policy})" * (sizes.count(params) > 1) for params, policy in wide.columns
    ]
    said = (
        "Area under the curve between right and wrong samples of one problem / how often the best-scored one is right."
    )
    return f"## What the scores tell apart\n\n{said}\n\n{_shown(wide.reset_index())}\n"


def _shown(table: pd.DataFrame) -> str:
    """A Markdown table, numbers to four digits; empty where there is none."""

    def cell(value: object) -> str:
        if isinstance(value, float):
            return "" if np.isnan(value) else f"{value:.4g}"
        return str(value)

    head = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + "---|" * table.shape[1]]
    return "\n".join(head + ["| " + " | ".join(map(cell, row)) + " |" for row in table.itertuples(index=False)])


def _same(samples: pd.DataFrame, key: tuple) -> pd.DataFrame:
    return samples[(samples[KEYS] == list(key)).all(axis=1)]


def _finding(
    name: str, methods: tuple[int, ...], claim: str, source: str, holds: pd.Series, known: pd.Series
) -> Finding:
    """The share of the cases with a known value in which the claim holds; it holds when it does in most cases.

    The interval is Jeffreys' 90 % for a share, as if the cases were independent.
    """
    effect, interval = float("nan"), (float("nan"), float("nan"))
    if not known.isna().all():
        cases = holds[known.notna()]
        yes, no = int(cases.sum()), int((~cases).sum())
        low, high = beta.ppf([0.05, 0.95], yes + 0.5, no + 0.5)
        effect, interval = float(cases.mean()), (float(low) if yes else 0.0, float(high) if no else 1.0)
    left = "cases share problems and policies, so the interval is narrower than it should be"
    return Finding(
        name, methods, claim, source, effect, interval, 0.5, "of the cases", command="python -m launch.search",
        not_covered=left,
    )  # fmt: skip
