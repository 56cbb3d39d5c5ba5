"""How often the intervals of a fit hold what they should: on laws that are true, and on published runs.

    python benchmarks/fit_calibration.py [--data shared/data/scaling] [--sets 1000] [--seconds 3600] [--quick] [--keep]

synthetic   95 % intervals of all parameters, and of two runs 10 and 100 times larger than the largest fitted one, over
            `--sets` tables of 100 runs drawn from a known Chinchilla law with 0.5 % noise (--seconds stops earlier).
small       90 % intervals of runs 8 and 30 times larger, from sweeps of 15 to 25 runs over a factor 8 to 16 in compute.
published   90 % intervals, calibrated on the rows before the cut only, of the rows beyond it, for every set of
            published runs with a law. The peer is the usual interval, percentiles of the bootstrapped curve. Needs
            --data (or ISOFLOP_DATA).

Prints one JSON line per case and then two Markdown tables: how often intervals hold, and per set coverage by reach,
width and interval score. --write PAGE puts the second between the marks of that page (docs/laws.md).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
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
REACH = (0, 3, 10)  # how far a held-out run lies beyond the fitted ones: up to 3 times, up to 10, farther


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


@dataclasses.dataclass(frozen=True)
class Case:
    """One published test: set, part of it, law, runs, and which rows are held out."""

    name: str
    part: str
    law: str
    runs: pd.DataFrame
    where: str
    options: dict[str, str] = dataclasses.field(default_factory=dict)


def published(folder: Path) -> Iterator[Case]:
    """Every published test, set by set."""
    for family in (chinchilla, gadre, olmo, llama3, marin, clark, porian, parscale, gemstones, datablations, colpret):
        yield from family(folder)


def chinchilla(folder: Path) -> Iterator[Case]:
    """Hoffmann et al. 2022, 240 runs read off a figure."""
    runs = pd.read_csv(folder / "chinchilla_fig4.csv").rename(columns={"N": "params", "D": "tokens", "C": "flops"})
    for cut in ("3e20", "1e20", "3e19"):
        yield Case("chinchilla", "", "chinchilla", runs[runs["kept_epoch240"]], f"flops > {cut}")


def gadre(folder: Path) -> Iterator[Case]:
    """Gadre et al. 2024: over-training."""
    runs = pd.read_csv(folder / "gadre104.csv").rename(columns={"N": "params", "D": "tokens", "loss_c4_val": "loss"})
    for trained_on, part in (("c4_original", "C4"), ("rw_original", "RefinedWeb")):
        wheres = [f"flops > {cut}" for cut in ("3e18", "1e19", "3e19", "1e20")] + ["params > 2e8", "params > 4.2e8"]
        for where in wheres:
            yield Case("gadre", part, "chinchilla", runs[runs["train_set"] == trained_on], where)


def olmo(folder: Path) -> Iterator[Case]:
    """OLMo ladder: bits per byte of two tasks."""
    runs = pd.read_csv(folder / "olmo_ladder_step1.csv").rename(columns={"N": "params", "bpb_last5": "loss"})
    runs["tokens"] = runs["D"].astype(float)
    runs["flops"] = runs["flops_per_token"] * runs["tokens"]
    for task, part in (("mmlu_avg_test_5shot", "MMLU"), ("hellaswag_val_5shot", "HellaSwag")):
        for where in ("flops > 3e20", "flops > 5e20", "flops > 1e21", "mode == 'eval'"):
            yield Case("olmo", part, "chinchilla", runs[runs["task"] == task], where)


def llama3(folder: Path) -> Iterator[Case]:
    """Llama 3's isoFLOP runs, read off a figure."""
    runs = pd.read_csv(folder / "llama3_isoflop.csv")
    for flops in sorted(runs["flops"].unique())[2:-1]:
        yield Case("llama3", "", "chinchilla", runs, f"flops > {flops * 1.01:.3g}")


def marin(folder: Path) -> Iterator[Case]:
    """Marin's isoFLOP runs on DCLM."""
    runs = pd.read_csv(folder / "marin_dclm.csv")
    for budget in sorted(runs["budget"].unique())[2:-1]:
        yield Case("marin", "", "chinchilla", runs, f"budget > {budget * 1.01:.3g}")


def clark(folder: Path) -> Iterator[Case]:
    """Clark et al. 2022: routed models, sizes and experts."""
    runs = pd.read_csv(folder / "clark_sbase.csv")
    for part, some in (("dense and S-Base", runs), ("S-Base", runs[runs["router"] == "S-Base"])):
        for size in ("1e8", "3e8", "1e9"):
            yield Case("clark", part, "routed_moe", some, f"params > {size}")


def porian(folder: Path) -> Iterator[Case]:
    """Porian et al. 2024: isoFLOP runs under fifteen set-ups."""
    runs = pd.read_csv(folder / "porian_isoflop.csv").rename(columns={"n": "params", "t": "tokens"})
    for key, some in runs.groupby(["dataset", "hparams", "warmup", "decay", "param_count", "val"]):
        budgets = sorted(some["flops"].unique())
        for index in (3, 6, 8):
            yield Case("porian", " ".join(key), "chinchilla", some, f"flops > {budgets[index] * 1.01:.3g}")


def parscale(folder: Path) -> Iterator[Case]:
    """ParScale: parallel streams."""
    names = {"N_nonembed": "params_nonembed", "P": "streams", "loss_stack_python": "loss"}
    runs = pd.read_csv(folder / "parscale.csv").rename(columns=names)
    for where in ("streams > 4", "params_nonembed > 2e9"):
        yield Case("parscale", "", "parscale", runs, where)


def gemstones(folder: Path) -> Iterator[Case]:
    """Gemstones: points of training curves, by run."""
    runs = pd.read_csv(folder / "gemstones.csv").rename(columns={"N": "params", "D": "tokens"})
    runs = runs[runs["subset"] == "cool_end"].assign(flops=lambda t: 6 * t["params"] * t["tokens"])
    for cut in (0.4, 0.6, 0.8):
        where = f"flops > {runs['flops'].quantile(cut):.3g}"
        yield Case("gemstones", "", "chinchilla", runs, where, {"cluster": "run_name"})


def datablations(folder: Path) -> Iterator[Case]:
    """Muennighoff et al. 2023: repeated data; runs that diverged are left out as the paper does."""
    names = {"N": "params", "D": "tokens", "U": "unique_tokens"}
    runs = pd.read_csv(folder / "datablations_contour.csv").rename(columns=names)
    runs = runs[(runs["parse_err"] == 0) & (runs["tokens"] / runs["unique_tokens"] <= 20)]
    runs = runs.assign(flops=6 * runs["params"] * runs["tokens"])
    for cut in (0.5, 0.7, 0.85):
        yield Case("datablations", "", "data_constrained", runs, f"flops > {runs['flops'].quantile(cut):.3g}")


def colpret(folder: Path) -> Iterator[Case]:
    """Alabdulmohsin et al. 2022: learning curves of language models, their own split."""
    names = {"Seen Examples": "tokens", "Loss": "loss"}
    runs = pd.read_csv(folder / "colpret_revisiting_lang.csv").rename(columns=names)
    for key, some in runs[runs["Domain"] == "LM"].groupby("Model"):
        yield Case("colpret", str(key), "hestness", some, "Training == 0")


def held_out(folder: Path, only: Sequence[str] = ()) -> pd.DataFrame:
    """One row per published test: coverage, width and interval score of our intervals and of the usual ones, and how
    many of its rows lie at each of REACH; `only` some sets."""
    rows = []
    for case in published(folder):
        if only and case.name not in only:
            continue
        try:
            test = holdout(case.law, case.runs, case.where, **case.options)
        except ValueError as error:
            rows.append({"set": case.name, "part": case.part, "where": case.where, "refused": str(error)})
            continue
        table = test.table
        naive = (table["naive_high"] - table["naive_low"]) / table["predicted"].abs()
        inputs = {name: table[name].to_numpy(float) for name in test.fit.law.inputs}
        reach = np.exp(test.fit.reach(**inputs).to_numpy().max(1))
        bins = np.digitize(reach, REACH[1:])
        known = table["inside"].notna().to_numpy()
        inside = table["inside"].fillna(False).to_numpy(bool)
        rows.append(
            {
                "set": case.name,
                "part": case.part,
                "where": case.where,
                "fitted_on": test.fit.certificate.points,
                "held_out": len(table),
            }
            | {"coverage": test.coverage, "width": test.width, "score": test.score}
            | {"naive_coverage": test.naive_coverage, "naive_width": naive.mean(), "naive_score": test.naive_score}
            | {f"rows_{k}": int((known & (bins == k)).sum()) for k in range(len(REACH))}
            | {f"inside_{k}": int((inside & (bins == k)).sum()) for k in range(len(REACH))}
            | {"doubts": "; ".join(test.doubts), "no_interval": test.fit.certificate.no_interval}
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
    """One row per published set: figures of all its tests with intervals, each held-out run counting once."""
    means = [name for name in tests if str(name).endswith(("coverage", "width", "score"))]
    counts = [name for name in tests if str(name).startswith(("rows_", "inside_"))]
    rows = []
    for name, group in tests.groupby("set", sort=False):
        known = group[group["coverage"].notna()]
        mean = {column: float(np.average(known[column], weights=known["held_out"])) for column in means}
        sums = {column: int(known[column].sum()) for column in counts}
        said = {"tests": len(group), "without": len(group) - len(known), "held_out": int(known["held_out"].sum())}
        flagged = int((known["doubts"] != "").sum()) if "doubts" in known else 0
        rows.append({"set": name, "flagged": flagged} | said | mean | sums)
    return pd.DataFrame(rows)


def held_out_markdown(tests: pd.DataFrame) -> str:
    """One line per set: coverage by reach, width and score, calibrated / naive."""
    reach = [f"{low:g}x" for low in REACH]
    reach = [f"to {high}" for high in reach[1:]] + [f"beyond {reach[-1]}"]
    head = f"| runs | cuts | tested on | covered | {' | '.join(reach)} | width | score | said at use |"
    lines = [head, "|" + "---|" * (7 + len(reach))]
    for row in totals(tests).to_dict("records"):
        cells = [str(row["set"]), str(row["tests"]), str(row["held_out"])]
        cells.append(f"{row['coverage']:.0%} / {row['naive_coverage']:.0%}")
        for k in range(len(REACH)):
            count = row[f"rows_{k}"]
            cells.append(f"{row[f'inside_{k}'] / count:.0%} of {count}" if count else "")
        cells += [f"{row[name]:.3f} / {row['naive_' + name]:.3f}" for name in ("width", "score")]
        cells.append(f"{row['flagged']} of {row['tests']}" + (f", {row['without']} without" if row["without"] else ""))
        lines.append(f"| {' | '.join(cells)} |")
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
        for row in tests[tests["coverage"].notna()].to_dict("records"):
            name = f"{row['set']} {row['part']}: {row['where']}"
            report(name, 0.9, row["coverage"], row["naive_coverage"], row["held_out"], **row)
        for row in totals(tests).to_dict("records"):
            more = {key: value for key, value in row.items() if key != "tests"}
            report(f"{row['set']}: all cuts", 0.9, row["coverage"], row["naive_coverage"], row["held_out"], **more)
        print("\n" + held_out_markdown(tests))
        if options.write:
            write_into(options.write, held_out_markdown(tests) + "\n")
    print("\n" + markdown(lines))


if __name__ == "__main__":
    main()
