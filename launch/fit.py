"""Fit a scaling law to a run directory or to any table of runs.

    python -m launch.fit --results runs/quickstart --law chinchilla --out fits/quickstart
    python -m launch.fit --results table.csv --columns params=N,tokens=D --holdout "flops>1e20" --out fits/table
    python -m launch.fit --results table.csv.gz --where "tokens>1e9" --drop_bad --fixed E=1.7 --out fits/table

Writes OUT/fit.json (full precision, for launch.plan and notebooks), OUT/summary.txt and OUT/predicted.png.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import cli
from models.errors import ConfigError, nearest, printable, require

if TYPE_CHECKING:
    import pandas as pd

    import scaling

FLAGS = cli.new_flags()
cli.DEFINE_string("results", None, "run directory, or a .csv, .parquet, .jsonl table", flag_values=FLAGS, required=True)
cli.DEFINE_string("law", "chinchilla", "name of the law", flag_values=FLAGS)
cli.DEFINE_string("out", None, "directory for the fit", flag_values=FLAGS, required=True)
cli.DEFINE_string("holdout", "", "rows to test on instead of fitting, such as 'flops>1e20'", flag_values=FLAGS)
cli.DEFINE_multi_string("columns", [], "renames: params=N,tokens=D; repeatable", flag_values=FLAGS)
cli.DEFINE_string("where", "", "rows to fit, such as 'tokens>1e9 and kept'", flag_values=FLAGS)
cli.DEFINE_bool("drop_bad", False, "leave out rows that are not finite or positive, and say so", flag_values=FLAGS)
cli.DEFINE_string("cluster", "", "column that names the run of each row", flag_values=FLAGS)
cli.DEFINE_string("weights", "", "column of inverse variances", flag_values=FLAGS)
cli.DEFINE_string("objective", "", "huber, lad, gaussian, student_t; default: the law's", flag_values=FLAGS)
cli.DEFINE_string("space", "", "residuals in log, raw or logit; default: the law's", flag_values=FLAGS)
cli.DEFINE_string("delta", "", "Huber width: a number, mad or cv", flag_values=FLAGS)
cli.DEFINE_multi_string("fixed", [], "parameters held: E=1.7,alpha=0.34; repeatable", flag_values=FLAGS)
cli.DEFINE_string("trials", "", "column with the number of trials of a share", flag_values=FLAGS)
cli.DEFINE_integer("bootstrap", 1000, "resamples for intervals; 0: none", flag_values=FLAGS, lower_bound=0)
cli.DEFINE_integer("seed", 0, "of the resamples", flag_values=FLAGS, lower_bound=0)


def main(
    results: str, law: str, out: str, holdout: str, columns: list[str], where: str, drop_bad: bool, cluster: str,
    weights: str, objective: str, space: str, delta: str, fixed: list[str], trials: str, bootstrap: int, seed: int,
) -> int:  # fmt: skip
    import scaling
    from scaling.kept import write_atomically
    from scaling.laws import by_name

    chosen, runs = by_name(law), scaling.load(results)
    options: dict[str, Any] = {
        "columns": _once("--columns", [_rename(pair, list(map(str, runs.columns))) for pair in _pairs(columns)]),
        "cluster": cluster or None,
        "weights": weights or None,
        "objective": objective or None,
        "space": space or None,
        "delta": _number("--delta", delta) if delta and delta not in ("mad", "cv") else delta or None,
        "fixed": _once("--fixed", [_held(pair) for pair in _pairs(fixed)]),
        "trials": trials or None,
        "drop_bad": drop_bad,
        "seed": seed,
    }
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        if holdout:
            kept = runs if not where else rows(chosen, runs, where, options["columns"])
            test = scaling.holdout(chosen, kept, holdout, bootstrap=bootstrap, **options)
            fit, text = test.fit, f"{test.fit.summary()}\n\n{test.summary()}"
        else:
            fit = scaling.fit(chosen, runs, bootstrap=bootstrap, where=where or None, **options)
            text = fit.summary()
        directory = Path(out)
        write_atomically(directory / "fit.json", fit.to_json())
        write_atomically(directory / "summary.txt", text + "\n")
        figure = fit.plot().get_figure(root=True)
        assert figure is not None  # plot() made the figure
        figure.savefig(directory / "predicted.png", dpi=150, bbox_inches="tight")
    print(text)
    print(f"wrote {directory / 'fit.json'}, summary.txt, predicted.png")
    return 0


def rows(law: scaling.laws.Law, runs: pd.DataFrame, where: str, columns: dict[str, str] | None) -> pd.DataFrame:
    """The rows that `where` selects, by the law's names or the table's."""
    from scaling.fitting.runs import as_table
    from scaling.fitting.where import select

    table = as_table(runs, columns, (*law.inputs, law.output))
    return table[select(table, where, "--where")]


def _pairs(given: list[str]) -> list[str]:
    """Every entry of --columns or --fixed, given together with commas or one at a time."""
    return [pair for group in given for pair in group.split(",") if pair]


def _once(flag: str, pairs: list[tuple[str, Any]]) -> dict[str, Any] | None:
    """The pairs as a dict, None without any; ConfigError for a name that is given twice."""
    names = [name for name, _ in pairs]
    for name in names:
        require(names.count(name) == 1, flag, f"{name!r} is given {names.count(name)} times", "give it once")
    return dict(pairs) or None


def _number(flag: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(flag, f"{text!r} is no number", "give a number such as 1e-3") from None


def _held(pair: str) -> tuple[str, float]:
    """(parameter, value) of one --fixed entry."""
    name, equals, value = pair.partition("=")
    if not (equals and name and value):
        raise ConfigError("--fixed", f"{pair!r} holds nothing", "write E=1.7,alpha=0.34")
    return name, _number(f"--fixed {name}", value)


def _rename(pair: str, have: list[str]) -> tuple[str, str]:
    """(law's name, table's name) of one --columns entry; `have` are the table's columns."""
    law_name, equals, table_name = pair.partition("=")
    if not (equals and law_name and table_name):
        raise ConfigError("--columns", f"{pair!r} is no rename", "write params=N,tokens=D")
    if table_name not in have:
        near = nearest(table_name, have)
        fix = f"did you mean {near!r}?" if near else f"have {', '.join(have)}"
        raise ConfigError("--columns", f"{pair!r}: the table has no column {table_name!r}", fix)
    return law_name, table_name


def _warn(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """Show a warning as one line, without the place in our code that raised it."""
    print(printable(f"warning: {' '.join(str(message).split())}"), file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__)
