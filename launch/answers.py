"""Compare what several jobs of searches answered: one row per job, with its strategy, accuracy and cost per prompt.

    python -m launch.answers --workdir samples

takes every finished job in the folder and in those below it. Jobs of other prompts are set apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import cli

if TYPE_CHECKING:
    import pandas as pd

FLAGS = cli.new_flags()
cli.DEFINE_string("workdir", None, "folder of jobs", flag_values=FLAGS, required=True)
cli.DEFINE_string("out", None, "file for the table, .csv (default: none)", flag_values=FLAGS)


def main(workdir: str, out: str | None) -> int:
    from models.errors import printable, require

    root = Path(workdir)
    require(root.is_dir(), workdir, "no such directory", "give the folder of some jobs")
    frame = table(root)
    require(len(frame) > 0, workdir, "holds no finished job of searches", "run launch.infer --strategy first")
    for prompts, group in frame.groupby("prompts_file", sort=False):
        print(printable(f"{prompts}:"))
        print(printable(shown(group)))
    if out is not None:
        frame.to_csv(out, index=False)
    return 0


def table(root: Path) -> pd.DataFrame:
    """One row per finished job below `root`, by its name: accuracy is a share, costs are means over prompts."""
    import pandas as pd

    return pd.DataFrame(row for path in sorted(root.rglob("manifest.json")) for row in _row(root, path))


def _row(root: Path, path: Path) -> Iterator[dict[str, Any]]:
    from launch.jobs import Job
    from launch.tally import wilson
    from search.named import written

    if not (path.parent / "job.json").exists():  # of something else
        return
    job, _ = Job.find(path.parent)
    if job.config.strategy is None:
        return
    manifest = job.verify()
    count, right = (sum(counts[i] for counts in manifest.get("right", {}).values()) for i in (0, 1))
    low, high = wilson(right, count)
    searched = max(manifest["prompts"], 1)
    yield {
        "prompts_file": str(job.prompts.path),
        "job": str(path.parent.relative_to(root)),
        "strategy": written(job.config.strategy),
        "verifier": "" if job.config.verifier is None else written(job.config.verifier),
        "prompts": manifest["prompts"],
        "accuracy": right / count if count else float("nan"),
        "low": low,
        "high": high,
        "unanswered": manifest["prompts"] - manifest["finish_reasons"].get("answer", 0),
        "failed": manifest["finish_reasons"].get("failed", 0),
        **{name: manifest[name] / searched for name in ("generated_tokens", "verifier_tokens", "flops", "depth")},
    }


def shown(frame: pd.DataFrame) -> str:
    """The table as people read it."""
    columns = {
        "strategy": frame["strategy"],
        "verifier": frame["verifier"],
        "right": [f"{a:.1%}" if a == a else "-" for a in frame["accuracy"]],
        "90 % interval": [f"{low:.1%} to {high:.1%}" for low, high in zip(frame["low"], frame["high"])],
        "of": frame["prompts"],
        "no answer": frame["unanswered"],
        "tokens": [f"{x:,.0f}" for x in frame["generated_tokens"] + frame["verifier_tokens"]],
        "depth": [f"{x:,.0f}" for x in frame["depth"]],
        "FLOPs": [f"{x:.3g}" for x in frame["flops"]],
    }
    text = {name: [name, *map(str, values)] for name, values in columns.items()}
    width = {name: max(map(len, cells)) for name, cells in text.items()}
    rows = range(len(frame) + 1)
    left = ("strategy", "verifier")
    return "\n".join(
        "  ".join(text[name][i].ljust(n) if name in left else text[name][i].rjust(n) for name, n in width.items())
        for i in rows
    )


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__)
