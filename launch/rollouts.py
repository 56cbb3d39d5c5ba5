"""Draw rollouts ahead for a post-training run with `rollouts.staleness`, from what its trainer hands over.

launch.posttrain starts it beside itself, and ends it; it takes what to draw from the run's folder:

    python -m launch.rollouts --workdir runs/rl --trial 0123456789ab
"""

from __future__ import annotations

import json
from pathlib import Path

from launch import cli, environment
from launch.stop import StopRequest

FLAGS = cli.new_flags()
cli.DEFINE_string("workdir", None, "run directory of launch.posttrain", flag_values=FLAGS, required=True)
cli.DEFINE_string("trial", None, "the run's id", flag_values=FLAGS, required=True)
cli.DEFINE_integer("launcher", 0, "process to end with: the one that trains", flag_values=FLAGS)


def main(workdir: str, trial: str, launcher: int) -> int:
    from models.errors import require
    from models.serialize import from_json
    from scaling import kept
    from search.posttrain.config import PostTrainConfig
    from search.posttrain.trial import PostTrial

    stop = StopRequest(launcher)
    file = Path(workdir) / "trials" / trial / "posttrain.json"
    require(file.is_file(), "--trial", f"{workdir} has no post-training run {json.dumps(trial)}", "begin it first")
    config = from_json(PostTrainConfig, kept.read(file, dict))
    environment.limit_threads(config.threads)
    run = PostTrial(config, Path(workdir))
    run.handover()  # refuses a run whose trainer draws itself
    run.draw(stop)
    return 0


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__)
