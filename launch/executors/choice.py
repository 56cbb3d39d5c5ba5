"""Choice: the flags that say where workers run, and the executor that they name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from absl import flags as absl_flags

from launch import cli
from launch.executors.executor import Executor
from models.errors import require

EXECUTORS = ("local", "slurm", "ray")


@dataclass(frozen=True)
class Options:
    """The flags that say where workers run."""

    executor: str = "local"
    devices_per_worker: int = 0
    nodes_per_worker: int = 1
    partition: str = ""
    sbatch: tuple[str, ...] = ()
    ray_address: str = ""


def define_flags(flag_values: absl_flags.FlagValues) -> None:
    """Flags of a command that starts workers; `main` hands them to `options`."""
    cli.DEFINE_enum("executor", "local", list(EXECUTORS), "where the workers run", flag_values=flag_values)
    words = "accelerators of each worker; 0: all of this machine's for the one local worker, none on a cluster"
    cli.DEFINE_integer("devices_per_worker", 0, words, flag_values=flag_values)
    words = "SLURM: machines that one worker spans, for trials larger than one"
    cli.DEFINE_integer("nodes_per_worker", 1, words, flag_values=flag_values)
    cli.DEFINE_string("partition", "", "SLURM: partition (default: the cluster's)", flag_values=flag_values)
    words = "SLURM: one more option for sbatch, such as --sbatch=--account=x; may be repeated"
    cli.DEFINE_multi_string("sbatch", [], words, flag_values=flag_values)
    words = 'Ray: address of a cluster, or "auto"; empty: one is started on this machine'
    cli.DEFINE_string("ray_address", "", words, flag_values=flag_values)


def options(flags: dict[str, Any]) -> Options:
    """Take the flags of `define_flags` out of `flags`. Raises ConfigError for numbers out of range."""
    taken = {name: flags.pop(name) for name in Options.__dataclass_fields__}
    taken["sbatch"] = tuple(taken["sbatch"])
    for name, least in (("devices_per_worker", 0), ("nodes_per_worker", 1)):
        require(taken[name] >= least, f"--{name}", f"is {taken[name]}", f"give {least} or more")
    chosen = taken["executor"]
    for name, owner in (("partition", "slurm"), ("sbatch", "slurm"), ("ray_address", "ray")):
        fix = f"give --executor={owner}, or leave it out"
        require(not taken[name] or chosen == owner, f"--{name}", f"is for the {owner} executor, not {chosen}", fix)
    problem = f"is {taken['nodes_per_worker']}, but only SLURM starts workers that span machines"
    fix = "give --executor=slurm, or start the workers yourself with launch.supervisor"
    require(taken["nodes_per_worker"] == 1 or chosen == "slurm", "--nodes_per_worker", problem, fix)
    return Options(**taken)


def make(options: Options) -> Executor:
    """The executor that the flags name; ConfigError or ModuleNotFoundError when it is not installed."""
    if options.executor == "slurm":
        from launch.executors.slurm import SlurmExecutor

        return SlurmExecutor(options.partition, options.sbatch)
    if options.executor == "ray":
        from launch.executors.ray import RayExecutor

        return RayExecutor(options.ray_address)
    from launch.executors.local import LocalExecutor

    return LocalExecutor()
