"""The whole loop on a CPU in minutes: train an isoFLOP sweep on real text, fit it, predict a bigger run, train that.

    python -m launch.quickstart --workdir runs/quickstart

`--part search` does the same for test-time compute: train small policies, search with them, compare at equal FLOPs.
Where both were run without --workdir, runs/quickstart/report.html shows both.
"""

from __future__ import annotations

from pathlib import Path

from launch import cli
from launch.overrides import load_config

FLAGS = cli.new_flags()
cli.DEFINE_string("workdir", "", "made, or continued (default: runs/quickstart[/search])", flag_values=FLAGS)
cli.DEFINE_enum("part", "quickstart", ["quickstart", "search"], "training, or test-time compute", flag_values=FLAGS)
cli.DEFINE_integer("seed", 0, "of initialisation and data order", flag_values=FLAGS)


def main(workdir: str, part: str, seed: int) -> int:
    path = Path(__file__).resolve().parents[1] / "configs" / f"{'search_' * (part == 'search')}quickstart.py"
    directory = Path(workdir or ("runs/quickstart/search" if part == "search" else "runs/quickstart"))
    return search(path, directory, seed) if part == "search" else train(path, directory, seed)


def train(config: Path, workdir: Path, seed: int) -> int:
    from launch.sweep import run_sweep
    from scaling.sweep.config import SweepConfig
    from scaling.sweep.trial import override

    return run_sweep(override(load_config(config, (SweepConfig,)), {"train.seed": seed}), workdir)


def search(config: Path, workdir: Path, seed: int) -> int:
    from launch.search import run_study
    from scaling.sweep.trial import override
    from search.study import SearchSweepConfig

    loaded = load_config(config, (SearchSweepConfig,))
    return run_study(override(loaded, {"policies.train.seed": seed, "study.seed": seed}), workdir)


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__)
