"""PostTrainConfig: one post-training run as a trial, whose id is a hash of its config."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np

from models.errors import ConfigError, require
from models.serialize import added, digest
from scaling.sweep.trial import default_of, override
from scaling.tasks import Task, task_by_name
from scaling.train.config import TrainConfig
from scaling.train.objectives import Objective, PolicyGradient, check_batch
from scaling.typed import STEPS, at_most, typed
from search.posttrain.filters import Filter
from search.posttrain.progress import Progress
from search.posttrain.shaping import CosineLength

BOOKKEEPING = tuple(f"train.{name}" for name in ("log_every", "eval_every", "checkpoint_every", "keep_checkpoints"))


@dataclass(frozen=True)
class RolloutConfig:
    """How a run draws its own batches: `train.batch_size` prompts a step, `train.objective.group` completions each."""

    problems: int = 1000  # of the task's training split, practised on in an order of train.seed
    seed: int = 1  # of these problems; another than that of the examples that the policy read, which it knows by heart
    updates: int = 1  # on the completions of one rollout; they are as old as the first of them
    most_calls: int = added(8)  # of a completion to its environment, beyond which it is cut off
    filter: Filter | None = added(None)  # draws more completions than the objective's group, and keeps so many
    shaping: CosineLength | None = added(None)  # of the verifier's reward, 1 or 0; None: it stays as it is
    staleness: int | None = added(None)  # None: the trainer draws. Else a process of its own does, ahead of it, from
    # the policy as it was so many rollouts before; 0: it waits for every update, and the run has the bits of None
    anchor_every: int | None = added(None)  # updates after which the objective's reference becomes the policy as it
    # then is; None: it stays what it was
    progress: Progress | None = added(None)  # what each segment of a completion adds to the chance of a right answer,
    # for train.objective.progress
    most_unscorable: float = 0.1  # share of completions of a step without a finite reward, above which the run stops

    def __post_init__(self) -> None:
        typed(self, "rollouts")
        at_most(self, "rollouts", updates=1024, problems=10**7, most_calls=1024, staleness=1024, anchor_every=STEPS)
        for name in ("problems", "updates", "most_calls"):
            require(getattr(self, name) >= 1, f"rollouts.{name}", f"is {getattr(self, name)}", "give 1 or more")
        known = self.anchor_every is None or self.anchor_every >= 1
        require(known, "rollouts.anchor_every", f"is {self.anchor_every}", "give 1 or more, or none")
        known = self.staleness is None or self.staleness >= 0
        require(known, "rollouts.staleness", f"is {self.staleness}", "give 0 or more, or none")
        require(0 <= self.seed < 2**32, "rollouts.seed", f"is {self.seed}", "give an integer in [0, 2^32)")
        problem = f"is {self.most_unscorable}"
        require(0 <= self.most_unscorable <= 1, "rollouts.most_unscorable", problem, "give a share from 0 to 1")


@dataclass(frozen=True)
class MeasureConfig:
    """How a policy is measured on held-out problems: before the first update, on the way, and after the last."""

    problems: int = 200  # of the task's test split
    samples: int = 16  # of each, at temperature 1; votes and coverage of every smaller power of two follow
    every: int = 0  # updates; 0: before and after only
    seed: int = 0  # of the problems and of the samples
    served: int = 10_000  # problems whose answers count as inference in the total of the figure

    def __post_init__(self) -> None:
        typed(self, "measure")
        at_most(self, "measure", problems=10**6, samples=2**16, served=10**15, every=STEPS)
        for name in ("problems", "samples"):
            require(getattr(self, name) >= 1, f"measure.{name}", f"is {getattr(self, name)}", "give 1 or more")
        for name in ("every", "served"):
            require(getattr(self, name) >= 0, f"measure.{name}", f"is {getattr(self, name)}", "give 0 or more")
        require(0 <= self.seed < 2**32, "measure.seed", f"is {self.seed}", "give an integer in [0, 2^32)")


def grpo() -> TrainConfig:
    """Training with the objective of GRPO."""
    return TrainConfig(objective=PolicyGradient())


@dataclass(frozen=True)
class PostTrainConfig:
    """One post-training run: a policy (`train.init_from`) that practises a task with a verifier."""

    name: str = "posttrain"  # of the runs in a results table
    task: str = "arithmetic:operation=add"  # one of scaling.tasks, whose verifier gives the reward
    train: TrainConfig = field(default_factory=grpo)  # with GRPO's objective; steps are updates, batch_size prompts;
    # init_from: the starting policy, a trial's directory or a Hugging Face folder
    rollouts: RolloutConfig = field(default_factory=RolloutConfig)  # what is drawn
    measure: MeasureConfig = field(default_factory=MeasureConfig)  # what is measured
    pretrain_tokens: int | None = None  # that a Hugging Face policy had read, for its FLOPs; a trial says it itself
    threads: int = 1  # CPU threads

    def __post_init__(self) -> None:
        typed(self)
        at_most(self, "", threads=4096, pretrain_tokens=10**18)
        require(self.threads >= 1, "threads", f"is {self.threads}", "give 1 or more")
        known = self.pretrain_tokens is None or self.pretrain_tokens >= 0
        require(known, "pretrain_tokens", f"is {self.pretrain_tokens}", "give a number of tokens")
        task_by_name(self.task)
        trains = self.train.trains
        problem = f"is {type(trains).__name__}, whose result no engine can draw from"
        require(trains.linear, "train.trains", problem, "use one that can be merged, such as LowRank")

    def check(self) -> None:
        """ConfigError for what no rollout can train: no starting policy, or a field that rollouts do not have."""
        fix = "give a trial, as in runs/x/trials/0123456789ab, a Hugging Face folder, or --policies with a sweep"
        require(self.train.init_from is not None, "train.init_from", "names no starting policy", fix)
        asked = self.train.evaluations.suites
        problem = "are measured by nobody while a policy practises"
        require(not asked, "train.evaluations.suites", problem, "set `measure`, or use launch.evaluate afterwards")
        check_batch(self.train.objective, batch_shapes(self.train, self.rollouts.progress is not None))

    @functools.cached_property
    def tasked(self) -> Task:
        """The task."""
        return task_by_name(self.task)

    @functools.cached_property
    def id(self) -> str:
        """12 hex digits of the sha256 of the config, bookkeeping fields aside."""
        return digest(override(self, {path: default_of(type(self), path) for path in BOOKKEEPING}))[:12]

    def from_policy(self, directory: str) -> PostTrainConfig:
        """The same run from another starting policy."""
        return override(self, {"train.init_from": directory})


def posttrained(directory: str | Path) -> Path | None:
    """The folder of the run that a policy's directory is the result of, by whose name the run is known; None for a
    policy that did not practise. Of a Hugging Face policy it is the folder around the model's."""
    path = Path(directory).resolve()
    run = path.parent if path.name == "model" else path
    return run if (run / "posttrain.json").is_file() else None


def temperature_of(objective: Objective) -> float:
    """The temperature at which an objective takes completions to be drawn."""
    return objective.temperature if isinstance(objective, PolicyGradient) else 1.0


def batch_shapes(train: TrainConfig, progress: bool = False) -> dict[str, jax.ShapeDtypeStruct]:
    """The fields of a batch of rollouts, by which an objective is checked before anything is drawn."""
    group, seq = train.objective.sequences, train.seq_len
    rows, whole = (train.batch_size, group, seq), (train.batch_size, group)
    forms: dict[str, tuple[tuple[int, ...], type]] = {
        "tokens": ((*whole, seq + 1), np.int32), "weights": (rows, np.float32), "sampled_logprobs": (rows, np.float32),
        "rewards": (whole, np.float32), "truncated": (whole, np.float32),
    }  # fmt: skip
    if progress:
        forms["progress"] = rows, np.float32
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in forms.items()}


def refuse_changed(before: str, now: str, place: str) -> None:
    """ConfigError when a run went on from another starting policy than it began with; digests of both."""
    if before != now:
        problem = f"the starting policy changed since this run began (digest {before[:12]} is now {now[:12]})"
        raise ConfigError(place, problem, "restore it, or start a new --workdir")
