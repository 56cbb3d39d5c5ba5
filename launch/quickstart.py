"""The whole loop on a CPU in minutes: train an isoFLOP sweep on real text, fit it, predict a bigger run, train that.

    python -m launch.quickstart --workdir runs/quickstart
"""

from __future__ import annotations

from pathlib import Path

from launch import cli
from launch.overrides import load_config

FLAGS = cli.new_flags()
cli.DEFINE_string("workdir", "runs/quickstart", "run directory: made, or continued", flag_values=FLAGS)
cli.DEFINE_integer("seed", 0, "of initialisation and data order", flag_values=FLAGS)


def main(workdir: str, seed: int) -> int:
    from launch.sweep import run_sweep
    from scaling.sweep.config import SweepConfig
    from scaling.sweep.trial import override

    path = Path(__file__).resolve().parents[1] / "configs" / "quickstart.py"
    config = load_config(path, (SweepConfig,))
    return run_sweep(override(config, {"train.seed": seed}), Path(workdir))


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__)
