"""Post-train policies: each practises a task whose verifier rewards it, as a trial with an id, a ledger and a report.

    python -m launch.posttrain --config configs/posttrain.py --config.train.init_from=runs/x/trials/ID --workdir runs/rl

--policies runs/x takes every finished trial of a sweep as a starting policy, one run each; other policies may be added
to the same --workdir later, and share its tables, results.parquet and accuracy.parquet, and its report. Running it
again continues where it stopped, with the same bits; --dry_run says what it would cost.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import cli, environment

if TYPE_CHECKING:
    from search.posttrain.config import PostTrainConfig
    from search.posttrain.trial import PostTrial

FLAGS = cli.new_flags(config=True)
cli.DEFINE_string("workdir", None, "run directory: made, or continued", flag_values=FLAGS, required=True)
words = "directory of a sweep whose finished trials are the starting policies, in place of train.init_from"
cli.DEFINE_string("policies", None, words, flag_values=FLAGS)
cli.DEFINE_bool("dry_run", False, "Say what the runs would cost, and end.", flag_values=FLAGS)

SAVED = 75  # exit code after SIGTERM, with everything kept (EX_TEMPFAIL)


def kinds() -> tuple[type, ...]:
    from search.posttrain.config import PostTrainConfig

    return (PostTrainConfig,)


def main(config: PostTrainConfig, workdir: str, policies: str | None, dry_run: bool, **_: Any) -> int:
    from launch.report import write_report
    from launch.stop import StopRequest
    from models.errors import printable
    from scaling.sweep.directory import RunDirectory
    from scaling.train.loop import Interrupted
    from search.posttrain.report import write_table
    from search.posttrain.trial import PostTrial

    environment.limit_threads(config.threads)
    path = Path(workdir)
    check_owner(path)
    trials = [PostTrial(one, path) for one in runs_of(config, policies)]
    if dry_run:
        return told_prices(trials)
    with RunDirectory(path).locked():
        stop = StopRequest()
        for trial in trials:
            try:
                row = trial.row or run(trial, stop)
            except Interrupted:
                return SAVED
            print(printable(summary(row)))
        found = write_table(path)
    print(f"{path / 'accuracy.parquet'}: {len(found)} rows; {write_report(path)}")
    return 0


def runs_of(config: PostTrainConfig, policies: str | None) -> list[PostTrainConfig]:
    """The runs of a config: one, or one from each finished trial of a sweep, the smallest first."""
    from models.errors import require
    from scaling.sweep.directory import RunDirectory

    if policies is None:
        return [config]
    directory = RunDirectory(Path(policies))
    missing = not (directory.path / "config.json").exists()
    require(not missing, "--policies", f"{policies} is no run directory", "give that of a sweep that has trained")
    rows = directory.results.frame()
    done = rows[rows["status"] == "done"].sort_values(["params", "flops", "trial"], kind="stable")
    require(len(done) > 0, "--policies", f"{policies} has no finished trial", "train it first")
    return [config.from_policy(str(Path(policies) / "trials" / trial)) for trial in done["trial"]]


def check_owner(path: Path) -> None:
    """ConfigError when the directory holds something else than post-training runs."""
    from models.errors import require
    from search.posttrain.report import is_posttraining

    present = [p.name for p in path.iterdir() if not p.name.startswith(".")] if path.is_dir() else []
    problem = f"is not empty ({', '.join(sorted(present)[:3])}) and holds no post-training run"
    ours = not present or is_posttraining(path)
    require(ours, str(path), problem, "choose a new --workdir")


@contextlib.contextmanager
def drawing(trial: PostTrial) -> Iterator[Callable[[], bool]]:
    """The process that draws ahead for a run, where there is one; gives whether it lives. It ends with this one."""
    from launch.executors.executor import importable

    if trial.config.rollouts.staleness is None:
        yield lambda: True
        return
    trial.begin()
    trial.handover().begin()
    made = environment.worker_environment(trial.config.threads)
    made["PYTHONPATH"] = importable(made)
    command = [sys.executable, "-m", "launch.rollouts", "--workdir", str(trial.path.parent.parent)]
    command += ["--trial", trial.config.id, "--launcher", str(os.getpid())]
    with open(trial.path / "rollouts.log", "ab") as log:  # its own session: Ctrl-C is for the trainer, which ends it
        process = subprocess.Popen(command, stdout=log, stderr=log, env=made, start_new_session=True)
    try:
        yield lambda: process.poll() is None
    finally:
        process.terminate()
        process.wait()


def run(trial: PostTrial, stop: Callable[[], bool]) -> dict[str, Any]:
    """One run to its end; its row."""
    every = trial.config.train.log_every

    def report(step: int, row: dict[str, float]) -> None:
        if step % every == 0 or step == trial.config.train.steps:
            gap = f"  gap {row['sampler_gap']:.1e} nats" if "sampler_gap" in row else ""
            shown = f"reward {row.get('reward', float('nan')):.3f}{gap}  {row['flops']:.3g} FLOPs"
            print(f"{trial.config.id}  update {step:,} of {trial.config.train.steps:,}  {shown}", flush=True)

    with drawing(trial) as alive:
        return trial.run(trial.training(stop=stop, alive=alive), report)


def told_prices(trials: list[PostTrial]) -> int:
    """Print what every run costs, in FLOPs."""
    from models import counts
    from models.errors import printable
    from scaling.report.numbers import count

    columns = "".join(f"{name:>11}" for name in ("pre-train", "rollouts", "reference", "updates", "measure"))
    print(f"{'trial':14}{'params':>8}{columns}  policy")
    for trial in trials:
        p = trial.price()
        spent = "".join(f"{x:>11.3g}" for x in (p.pretrain, p.rollout, p.reference, p.update, p.measure))
        done = "  (done)" if trial.row is not None else ""
        size = count(counts.params(trial.model))
        print(printable(f"{trial.config.id:14}{size:>8}{spent}  {trial.source}{done}"))
    print("FLOPs; of rollouts and measurements at most: every completion as long as its row")
    return 0


def summary(row: dict[str, Any]) -> str:
    """What a run came to, as one line."""
    low, high, k = row["accuracy_low"], row["accuracy_high"], row["coverage_samples"]
    gap = "" if row["sampler_gap"] is None else f", gap of the sampler at most {row['sampler_gap']:.1e} nats"
    return (
        f"{row['trial']}  accuracy {row['accuracy_before']:.3f} -> {row['accuracy']:.3f} [{low:.3f}, {high:.3f}], "
        f"pass@{k} {row['coverage_before']:.3f} -> {row['coverage']:.3f}{gap}; FLOPs: {row['pretrain_flops']:.3g} of "
        f"pre-training, {row['rollout_flops']:.3g} of rollouts, {row['reference_flops']:.3g} of references, "
        f"{row['update_flops']:.3g} of updates"
    )


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__, kinds)
