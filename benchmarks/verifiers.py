"""What the verifiers of studies can tell apart: right answers from wrong ones, for a policy that a study trained.

    python benchmarks/verifiers.py --study runs/search_table [--policy 1] [--kinds confidence,value]

For every kind and task: the share of single samples that is right, the area under the curve between right and wrong
samples, over all problems and within them, and how often the best of a problem's samples by score is right. One JSON
line per kind; no peer.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    """Fit, sample, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", required=True, help="directory of a study whose policies are trained")
    parser.add_argument("--policy", type=int, default=1, help="which of them, from the smallest on, counted from 0")
    parser.add_argument("--kinds", default="confidence,value,process,outcome")
    parser.add_argument("--problems", type=int, default=40)
    parser.add_argument("--samples", type=int, default=32)
    options = parser.parse_args()
    import pandas as pd

    from scaling import kept
    from search.metrics.verification import told_apart
    from search.policy import load_policy
    from search.study import Study, StudyConfig

    path = Path(options.study)
    given = kept.read(path / "study.json", {"study": dict})["study"]
    lists = {name: tuple(given[name]) for name in ("tasks", "strategies")}
    trained = pd.read_parquet(path / "policies" / "results.parquet").sort_values("params")
    policy = load_policy(path / "policies" / "trials" / trained["trial"].iloc[options.policy])
    for kind in options.kinds.split(","):
        config = dataclasses.replace(
            StudyConfig(**{**given, **lists}), verifier=kind,
            problems=options.problems, samples=options.samples, width=options.samples,
        )  # fmt: skip
        samples = Study(policy, config).samples()
        tasks = {
            str(task): {name: round(share, 3) for name, share in told_apart(group).items()}
            for task, group in samples.groupby("task")
        }
        params = int(trained["params"].iloc[options.policy])
        print(json.dumps({"bench": "verifiers", "case": kind, "params": params, "tasks": tasks}), flush=True)


if __name__ == "__main__":
    main()
