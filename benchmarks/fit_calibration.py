"""How often the intervals of a fit hold what they should: on laws that are true, and on published runs.

    python benchmarks/fit_calibration.py [--data shared/data/scaling] [--sets 1000] [--seconds 3600] [--quick] [--keep]

synthetic   95 % intervals of all parameters, and of two runs 10 and 100 times larger than the largest fitted one, over
            `--sets` tables of 100 runs drawn from a known Chinchilla law with 0.5 % noise (--seconds stops earlier).
small       90 % intervals of runs 8 and 30 times larger, from sweeps of 15 to 25 runs over a factor 8 to 16 in compute.
published   90 % intervals, calibrated on the rows before the cut only, of the rows beyond it. The peer is the usual
            interval, percentiles of the bootstrapped curve. Needs --data (or ISOFLOP_DATA).

Prints one JSON line per case and then two Markdown tables: how often intervals hold, and coverage, width and interval
score of every held-out test. --write PAGE puts the second between the marks of that page (docs/laws.md).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.fit import emit  # noqa: E402
from scaling.fitting.law import Values  # noqa: E402
from scaling.laws import CHINCHILLA, fit, holdout  # noqa: E402
from scaling.laws.chinchilla import compute_exponent, optimal_params  # noqa: E402

TRUTH = Values(A=400.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36)
SMALL_TRUTHS = (
    TRUTH,
    Values(A=40.0, B=400.0, E=1.2, alpha=0.30, beta=0.35),
    Values(A=15.0, B=60.0, E=1.0, alpha=0.22, beta=0.25),
    Values(A=100.0, B=150.0, E=1.5, alpha=0.35, beta=0.28),
)
REACHES = (10, 100)
SMALL_REACHES = (8, 30)


def measured(truth: Values, params, tokens, noise: float, rng: np.random.Generator) -> pd.DataFrame:
    """Runs with losses of a known law and relative Gaussian noise."""
    params, tokens = np.asarray(params, float), np.asarray(tokens, float)
    loss = CHINCHILLA(truth, params=params, tokens=tokens) * np.exp(noise * rng.standard_normal(len(params)))
    return pd.DataFrame({"params": params, "tokens": tokens, "flops": 6 * params * tokens, "loss": loss})


def larger(truth: Values, runs: pd.DataFrame, reaches, noise: float, rng: np.random.Generator) -> pd.DataFrame:
    """One compute-optimal run of the law per reach beyond the largest of `runs`."""
    flops = runs["flops"].max() * np.asarray(reaches, float)
    params = optimal_params(truth, flops)
    return measured(truth, params, flops / (6 * params), noise, rng)


def synthetic(seed: int, rows: int = 100, noise: float = 0.005, resamples: int = 300) -> dict[str, bool]:
    """Whether each 95 % interval of one synthetic table holds: parameters, N* exponent, and two larger runs, with the
    law's own error allowed for and with the law taken as true."""
    rng = np.random.default_rng(seed)
    sizes = (np.exp(rng.uniform(np.log(low), np.log(high), rows)) for low, high in ((5e7, 1e10), (1e9, 3e11)))
    runs = measured(TRUTH, *sizes, noise, rng)
    fitted = fit(CHINCHILLA, runs, bootstrap=resamples, seed=seed)
    intervals = fitted.interval(0.95)
    held = {name: intervals[name].low <= value <= intervals[name].high for name, value in TRUTH.items()}
    held["a"] = intervals["a"].low <= compute_exponent(TRUTH) <= intervals["a"].high
    new = larger(TRUTH, runs, REACHES, noise, rng)
    for words, calibrated in (("", True), (", law taken as true", False)):
        band = fitted.predict(0.95, calibrated, params=new["params"].to_numpy(), tokens=new["tokens"].to_numpy())
        inside = (band.low <= new["loss"]) & (new["loss"] <= band.high)
        held |= {f"a run at {reach}x{words}": bool(hit) for reach, hit in zip(REACHES, inside, strict=True)}
    return held


def small_sweep(seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """15 to 25 runs, on isoFLOP budgets or scattered, with 0.3-1 % noise; and the larger runs to predict."""
    rng = np.random.default_rng(seed)
    truth, noise, count = SMALL_TRUTHS[seed % 4], (0.003, 0.005, 0.01)[seed % 3], int(rng.integers(15, 26))
    span, base = rng.uniform(8, 16), 10 ** rng.uniform(12.5, 18)
    if seed % 2:
        flops, shape = base * span ** rng.uniform(0, 1, count), np.exp(rng.uniform(-1.3, 1.3, count))
    else:
        budgets = int(rng.integers(3, 6))
        flops = np.sort(np.resize(np.geomspace(base, base * span, budgets), count))
        shape = np.exp(rng.uniform(-1.3, 1.3, count))
    params = optimal_params(truth, flops) * shape
    runs = measured(truth, params, flops / (6 * params), noise, rng)
    return runs, larger(truth, runs, SMALL_REACHES, noise, rng)


def small(seed: int) -> list[tuple[bool, float]]:
    """Per reach, whether the 90 % interval of one small sweep holds, and its half-width relative to the prediction."""
    runs, new = small_sweep(seed)
    band = fit(CHINCHILLA, runs).predict(0.9, params=new["params"].to_numpy(), tokens=new["tokens"].to_numpy())
    inside = (band.low <= new["loss"]) & (new["loss"] <= band.high)
    half = (np.asarray(band.high) - np.asarray(band.low)) / 2 / np.asarray(band.mean)
    return [(bool(hit), float(width)) for hit, width in zip(inside, half, strict=True)]


def published(folder: Path) -> Iterator[tuple[str, str, pd.DataFrame, str]]:
    """Set, part of it, runs and held-out expression of every published test."""
    runs = pd.read_csv(folder / "chinchilla_fig4.csv").rename(columns={"N": "params", "D": "tokens", "C": "flops"})
    for cut in ("3e20", "1e20", "3e19"):
        yield "chinchilla", "", runs[runs["kept_epoch240"]], f"flops > {cut}"
    runs = pd.read_csv(folder / "gadre104.csv").rename(columns={"N": "params", "D": "tokens", "loss_c4_val": "loss"})
    for trained_on, part in (("c4_original", "C4"), ("rw_original", "RefinedWeb")):
        for cut in ("3e18", "1e19", "3e19", "1e20"):
            yield "gadre", part, runs[runs["train_set"] == trained_on], f"flops > {cut}"
        for size in ("2e8", "4.2e8"):
            yield "gadre", part, runs[runs["train_set"] == trained_on], f"params > {size}"
    runs = pd.read_csv(folder / "olmo_ladder_step1.csv").rename(columns={"N": "params", "bpb_last5": "loss"})
    runs["tokens"] = runs["D"].astype(float)
    runs["flops"] = runs["flops_per_token"] * runs["tokens"]
    for task, part in (("mmlu_avg_test_5shot", "MMLU"), ("hellaswag_val_5shot", "HellaSwag")):
        for where in ("flops > 3e20", "flops > 5e20", "flops > 1e21", "mode == 'eval'"):
            yield "olmo", part, runs[runs["task"] == task], where


def held_out(folder: Path) -> pd.DataFrame:
    """One row per published test: coverage, width and interval score of our intervals and of the usual ones."""
    rows = []
    for name, part, runs, where in published(folder):
        test = holdout(CHINCHILLA, runs, where)
        naive = (test.table["naive_high"] - test.table["naive_low"]) / test.table["predicted"].abs()
        rows.append(
            {
                "set": name,
                "part": part,
                "where": where,
                "fitted_on": test.fit.certificate.points,
                "held_out": len(test.table),
            }
            | {"coverage": test.coverage, "width": test.width, "score": test.score}
            | {"naive_coverage": test.naive_coverage, "naive_width": naive.mean(), "naive_score": test.naive_score}
        )
    return pd.DataFrame(rows)


def in_sample(sets: int, seconds: float, report: Callable[..., None]) -> None:
    """The synthetic cases: up to `sets` tables within about `seconds`, then a quarter as many small sweeps."""
    start, table = time.monotonic(), []
    while len(table) < sets and (len(table) < 20 or time.monotonic() - start < seconds):
        table.append(synthetic(len(table)))
    held = pd.DataFrame(table)
    for name in held:
        report(f"synthetic: {name}", 0.95, float(held[name].mean()), None, len(held))
    sweeps = np.array([small(seed) for seed in range(max(len(table) // 4, 20))])
    for reach, column in zip(SMALL_REACHES, sweeps.transpose(1, 0, 2), strict=True):
        half = float(np.median(column[:, 1]))
        report(f"small sweeps at {reach}x", 0.9, float(column[:, 0].mean()), None, len(column), half_width=half)


def markdown(rows: list[dict]) -> str:
    """The synthetic cases as a table."""
    lines = ["| interval | nominal | covered | of |", "|---|---|---|---|"]
    for row in rows:
        if row["peer"] is None:
            lines.append(f"| {row['case']} | {row['nominal']:.0%} | {row['ours']:.1%} | {row['tests']} |")
    return "\n".join(lines)


def totals(tests: pd.DataFrame) -> pd.DataFrame:
    """One row per published set: figures of all its cuts, each held-out run counting once."""
    names = [name for name in tests if str(name).endswith(("coverage", "width", "score"))]
    rows = []
    for name, group in tests.groupby("set", sort=False):
        mean = {column: float(np.average(group[column], weights=group["held_out"])) for column in names}
        rows.append({"set": name, "part": "", "where": "all cuts", "held_out": int(group["held_out"].sum())} | mean)
    return pd.DataFrame(rows)


def held_out_markdown(tests: pd.DataFrame) -> str:
    """Coverage, width and score of every held-out test, calibrated / naive."""
    head = "| runs | held out | fitted on | tested on | covered | width | score |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for row in pd.concat([tests, totals(tests)]).to_dict("records"):
        fitted = "" if pd.isna(row["fitted_on"]) else f"{row['fitted_on']:.0f}"
        cells = [f"{row['coverage']:.0%} / {row['naive_coverage']:.0%}"]
        cells += [f"{row[name]:.3f} / {row['naive_' + name]:.3f}" for name in ("width", "score")]
        name = f"{row['set']} {row['part']}".strip()
        lines.append(f"| {name} | {row['where']} | {fitted} | {row['held_out']} | {' | '.join(cells)} |")
    return "\n".join(lines)


MARKS = "<!-- calibration -->\n", "<!-- /calibration -->"


def write_into(page: Path, text: str) -> None:
    """Put the tables between the marks of a page."""
    before, rest = page.read_text().split(MARKS[0])
    page.write_text(before + MARKS[0] + text + MARKS[1] + rest.split(MARKS[1], 1)[1])


def main() -> None:
    """Run every case and print its line, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("ISOFLOP_DATA")
    folder = Path(default) / "scaling" if default else None
    parser.add_argument("--data", type=Path, default=folder, help="folder of the published runs")
    parser.add_argument("--sets", type=int, default=1000, help="synthetic tables")
    parser.add_argument("--seconds", type=float, default=np.inf, help="stop drawing synthetic tables after so long")
    parser.add_argument("--quick", action="store_true", help="40 synthetic tables")
    parser.add_argument("--write", type=Path, help="page to put the tables of the published runs into")
    parser.add_argument("--keep", action="store_true", help="append to benchmarks/results/fit_calibration.jsonl")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    sets, lines = 40 if options.quick else options.sets, []

    def report(case: str, nominal: float, ours: float, peer: float | None, tests: int, **more) -> None:
        line = {"nominal": nominal, "tests": tests, **more}
        lines.append(line | {"case": case, "ours": ours, "peer": peer})
        emit(case, "share covered", ours, peer, bench="fit_calibration", keep=options.keep, ratio=None, **line)

    if sets:
        in_sample(sets, options.seconds, report)
    if options.data is not None:
        tests = held_out(options.data)
        for row in tests.to_dict("records"):
            name = f"{row['set']} {row['part']}: {row['where']}"
            report(name, 0.9, row["coverage"], row["naive_coverage"], row["held_out"], **row)
        for row in totals(tests).to_dict("records"):
            report(f"{row['set']}: all cuts", 0.9, row["coverage"], row["naive_coverage"], row["held_out"], **row)
        print("\n" + held_out_markdown(tests))
        if options.write:
            write_into(options.write, held_out_markdown(tests) + "\n")
    print("\n" + markdown(lines))


if __name__ == "__main__":
    main()
