"""Fit a scaling law to a run directory or to any table of runs.

    python -m launch.fit --results runs/quickstart --law chinchilla --out fits/quickstart
    python -m launch.fit --results table.csv --columns params=N,tokens=D --holdout "flops>1e20" --out fits/table

Writes OUT/fit.json (full precision, for launch.plan and notebooks), OUT/summary.txt and OUT/predicted.png.
"""

from __future__ import annotations

from pathlib import Path

from launch import cli
from models.errors import ConfigError

FLAGS = cli.new_flags()
cli.DEFINE_string("results", None, "run directory, or a .csv, .parquet, .jsonl table", flag_values=FLAGS, required=True)
cli.DEFINE_string("law", "chinchilla", "name of the law", flag_values=FLAGS)
cli.DEFINE_string("out", None, "directory for the fit", flag_values=FLAGS, required=True)
cli.DEFINE_string("holdout", "", "rows to test on instead of fitting, such as 'flops>1e20'", flag_values=FLAGS)
cli.DEFINE_list("columns", [], "renames, law's name = table's: params=N,tokens=D", flag_values=FLAGS)
cli.DEFINE_string("cluster", "", "column that names the run of each row", flag_values=FLAGS)
cli.DEFINE_string("weights", "", "column of inverse variances", flag_values=FLAGS)
cli.DEFINE_string("objective", "", "huber, lad, gaussian, student_t; default: the law's", flag_values=FLAGS)
cli.DEFINE_integer("bootstrap", 1000, "resamples for intervals", flag_values=FLAGS)
cli.DEFINE_integer("seed", 0, "of the resamples", flag_values=FLAGS)


def main(
    results: str, law: str, out: str, holdout: str, columns: list[str], cluster: str, weights: str, objective: str,
    bootstrap: int, seed: int,
) -> int:  # fmt: skip
    import scaling
    from scaling.sweep.results import write_atomically

    options = {
        "columns": dict(_rename(pair) for pair in columns) or None,
        "cluster": cluster or None,
        "weights": weights or None,
        "objective": objective or None,
        "seed": seed,
    }
    runs = scaling.load(results)
    if holdout:
        test = scaling.holdout(law, runs, holdout, bootstrap=bootstrap, **options)
        fit, text = test.fit, f"{test.fit.summary()}\n\n{test.summary()}"
    else:
        fit = scaling.fit(law, runs, bootstrap=bootstrap, **options)
        text = fit.summary()
    directory = Path(out)
    write_atomically(directory / "fit.json", fit.to_json())
    write_atomically(directory / "summary.txt", text + "\n")
    fit.plot().figure.savefig(directory / "predicted.png", dpi=150, bbox_inches="tight")
    print(text)
    print(f"wrote {directory / 'fit.json'}, summary.txt, predicted.png")
    return 0


def _rename(pair: str) -> tuple[str, str]:
    law_name, equals, table_name = pair.partition("=")
    if not (equals and law_name and table_name):
        raise ConfigError("--columns", f"{pair!r} is no rename", "write params=N,tokens=D")
    return law_name, table_name


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__)
