"""Fit a scaling law to a run directory or to any table of runs.

    python -m launch.fit --results runs/quickstart --law chinchilla --out fits/quickstart
    python -m launch.fit --results table.csv --columns params=N,tokens=D --holdout "flops>1e20" --out fits/table

Writes OUT/fit.json (full precision, for launch.plan and notebooks), OUT/summary.txt and OUT/predicted.png.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

from launch import cli
from models.errors import ConfigError, nearest, printable

FLAGS = cli.new_flags()
cli.DEFINE_string("results", None, "run directory, or a .csv, .parquet, .jsonl table", flag_values=FLAGS, required=True)
cli.DEFINE_string("law", "chinchilla", "name of the law", flag_values=FLAGS)
cli.DEFINE_string("out", None, "directory for the fit", flag_values=FLAGS, required=True)
cli.DEFINE_string("holdout", "", "rows to test on instead of fitting, such as 'flops>1e20'", flag_values=FLAGS)
cli.DEFINE_list("columns", [], "renames, law's name = table's: params=N,tokens=D", flag_values=FLAGS)
cli.DEFINE_string("cluster", "", "column that names the run of each row", flag_values=FLAGS)
cli.DEFINE_string("weights", "", "column of inverse variances", flag_values=FLAGS)
cli.DEFINE_string("objective", "", "huber, lad, gaussian, student_t; default: the law's", flag_values=FLAGS)
cli.DEFINE_integer("bootstrap", 1000, "resamples for intervals; 0: none", flag_values=FLAGS, lower_bound=0)
cli.DEFINE_integer("seed", 0, "of the resamples", flag_values=FLAGS, lower_bound=0)


def main(
    results: str, law: str, out: str, holdout: str, columns: list[str], cluster: str, weights: str, objective: str,
    bootstrap: int, seed: int,
) -> int:  # fmt: skip
    import scaling
    from scaling.kept import write_atomically
    from scaling.laws import by_name

    chosen, runs = by_name(law), scaling.load(results)
    options: dict[str, Any] = {
        "columns": dict(_rename(pair, list(map(str, runs.columns))) for pair in columns) or None,
        "cluster": cluster or None,
        "weights": weights or None,
        "objective": objective or None,
        "seed": seed,
    }
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        if holdout:
            test = scaling.holdout(chosen, runs, holdout, bootstrap=bootstrap, **options)
            fit, text = test.fit, f"{test.fit.summary()}\n\n{test.summary()}"
        else:
            fit = scaling.fit(chosen, runs, bootstrap=bootstrap, **options)
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
