"""TrainConfig: how one model is trained; Hyperparameters: the part of it that one compiled step takes as inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from models.config import ModelConfig
from models.errors import HUGE, require
from models.pipeline import Schedule
from models.serialize import added, located
from models.weight import WeightTree
from scaling.train.adaptation import AnyAdaptation, Everything
from scaling.train.evaluations import Evaluations
from scaling.train.objectives import AnyObjective, NextToken
from scaling.train.objectives.objective import BESIDE
from scaling.typed import STEPS, at_most, typed

MOST: dict[str, float] = {  # of every number: more is a slip, and would fill memory or overflow
    **dict.fromkeys(("steps", "warmup_steps", "eval_every", "log_every", "checkpoint_every", "eval_sequences"), STEPS),
    "batch_size": 2**24, "seq_len": 2**24, "accumulate": 2**24, "microbatches": 2**24, "rounds": 2**12,
    "keep_checkpoints": 10**6, "learning_rate": 1e6, "eps": 1e6, "weight_decay": 1e6,
    "grad_clip": HUGE, "spike_factor": HUGE,
}  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation, length and bookkeeping of one run. Steps count optimiser updates; tokens = steps x batch x seq."""

    steps: int = 1000  # optimiser updates
    batch_size: int = 16  # sequences per step
    seq_len: int = 256  # scored tokens per sequence
    seed: int = 0  # initialisation and data order
    learning_rate: float = 3e-3  # peak
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"  # of the learning rate, after the warm-up
    warmup_fraction: float = 0.05  # of steps, linear from zero
    warmup_steps: int | None = None  # overrides warmup_fraction; runs that branch from one trunk must share it
    decay_fraction: float = 0.2  # of steps, WSD's final linear decay (Hu et al. 2024)
    final_learning_rate: float = 0.1  # as a fraction of the peak
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: on hidden matrices, AdamW on the rest
    beta1: float = 0.9  # AdamW's, of the mean of gradients
    beta2: float = 0.95  # AdamW's, of the mean of their squares
    eps: float = 1e-8  # AdamW's
    momentum: float = 0.95  # Muon's, on hidden matrices; the rest of the model uses AdamW
    weight_decay: float = 0.1  # decoupled, times the learning rate; matrices and the head only
    grad_clip: float = 1.0  # global norm; 0 turns it off
    accumulate: int = 1  # micro-batches per step, one after the other
    zero: Literal[0, 1, 2, 3] = 3  # ZeRO stage: 1 splits moments over data x fsdp, 2 gradients, 3 parameters (fsdp)
    offload: Literal["none", "optimizer"] = "none"  # keep the moments in the host's memory between updates
    pipeline: Literal["gpipe", "circular", "1f1b"] = "1f1b"  # schedule where the mesh has stages (models.pipeline)
    microbatches: int | None = None  # of the pipeline, for each of `accumulate`; None: twice the stages
    rounds: int = 1  # times that a circular pipeline goes round: runs of layers per stage
    init_from: str | None = None  # a trial directory whose final parameters start this run
    eval_sequences: int = 256  # held-out sequences scored at the end and every eval_every steps
    eval_every: int = 0  # steps; 0: only at the end
    log_every: int = 100  # steps between metric rows; the host reads nothing in between
    checkpoint_every: int = 1000  # steps
    keep_checkpoints: int = 2  # the newest ones
    spike_factor: float = 2.0  # a smoothed loss above this many times its best (at least 1 nat) stops the trial
    objective: AnyObjective = added(NextToken())  # what is minimised: one of scaling.train.objectives
    trains: AnyAdaptation = added(Everything())  # which weights: one of scaling.train.adaptation
    evaluations: Evaluations = added(Evaluations())  # what is measured on the way, beside the held-out loss

    def __post_init__(self) -> None:
        typed(self, "train")
        at_most(self, "train", **MOST)
        positive = "steps batch_size seq_len accumulate eval_sequences log_every keep_checkpoints rounds"
        for field in positive.split():
            value = getattr(self, field)
            require(value >= 1, f"train.{field}", f"is {value}", "give a positive integer")
        micro = self.microbatches
        require(micro is None or micro >= 1, "train.microbatches", f"is {micro}", "give a positive integer, or None")
        for field in ("eval_every", "checkpoint_every", "warmup_steps"):
            value = getattr(self, field)
            fix = "give a number of steps, or 0 for never"
            require(value is None or value >= 0, f"train.{field}", f"is {value}", fix)
        for field in ("warmup_fraction", "decay_fraction", "final_learning_rate", "momentum"):
            value = getattr(self, field)
            require(0 <= value <= 1, f"train.{field}", f"is {value}", "give a fraction between 0 and 1")
        for field in ("beta1", "beta2"):
            value = getattr(self, field)
            require(0 <= value < 1, f"train.{field}", f"is {value}", "give a decay rate of at least 0 and below 1")
        for field in ("learning_rate", "eps"):
            value = getattr(self, field)
            require(value > 0, f"train.{field}", f"is {value}", "give a positive number")
        for field in ("weight_decay", "grad_clip"):
            value = getattr(self, field)
            require(value >= 0, f"train.{field}", f"is {value}", "give a number that is not negative")
        require(self.spike_factor > 1, "train.spike_factor", f"is {self.spike_factor}", "give a factor above 1")
        require(0 <= self.seed < 2**32, "train.seed", f"is {self.seed}", "give an integer in [0, 2^32)")
        problem = f"is {type(self.trains).__name__}, which changes a model that train.init_from does not name"
        fix = "set train.init_from to a trial's directory, or train everything"
        require(not self.trains.based or self.init_from is not None, "train.trains", problem, fix)
        for name, path in self.objective.reads.items():
            problem = "is what the run starts from, which train.init_from does not name"
            known = path is not None or self.init_from is not None
            require(known, f"train.objective.{name}", problem, "set train.init_from, or name a directory")
        problem = f"is set, and of {type(self.trains).__name__} no model is left that a command could read"
        kept = not self.evaluations.keep or self.trains.linear
        require(kept, "train.evaluations.keep", problem, "leave it out")
        require(
            self.batch_size % self.accumulate == 0,
            "train.accumulate",
            f"{self.accumulate} micro-batches do not divide batch_size {self.batch_size}",
            "use a divisor of batch_size",
        )

    def schedule_over(self, stages: int) -> Schedule:
        """The pipeline schedule over `stages`; ConfigError when the fields do not make one."""
        rows = self.batch_size // self.accumulate
        m = 2 * stages if self.microbatches is None else self.microbatches
        problem = f"{m} micro-batches do not divide the {rows} sequences of a pass"
        require(m >= 1 and rows % m == 0, "train.microbatches", problem, f"use a divisor of {rows}")
        with located(TrainConfig, "train"):
            return Schedule(self.pipeline, stages, m, self.rounds)

    def flops(self, model: ModelConfig, tokens: int, frozen: Mapping[str, ModelConfig]) -> int:
        """Exact FLOPs of `tokens` tokens of training, of the passes of frozen models of these configs too."""
        whole = self.objective.flops(model, tokens, self.seq_len, frozen)
        return whole + self.trains.flops(model.resolved(), tokens)

    def weights(self, model: ModelConfig) -> WeightTree:
        """The declarations of all that trains; `model` is resolved."""
        own = self.objective.beside(model)
        return {**self.trains.weights(model), **({BESIDE: own} if own else {})}

    @property
    def reads_models(self) -> bool:
        """Whether a step reads models that it does not train."""
        return bool(self.objective.reads) or self.trains.based

    @property
    def warmup(self) -> int:
        """Steps of linear warm-up."""
        return round(self.warmup_fraction * self.steps) if self.warmup_steps is None else self.warmup_steps

    @property
    def decay_start(self) -> int:
        """First step of WSD's decay: before it, the run does not depend on its own length."""
        return self.steps - round(self.decay_fraction * self.steps)

    @property
    def tokens_per_step(self) -> int:
        """Tokens per optimiser update, of all sequences that a row of a batch holds."""
        return self.batch_size * self.seq_len * self.objective.sequences

    @property
    def tokens(self) -> int:
        """Tokens of the whole run."""
        return self.steps * self.tokens_per_step


# What a compiled step takes as an input, and a value for each: trials that differ only here share a program.
TRACED: dict[str, Any] = {
    "steps": 1, "seed": 0, "learning_rate": 1.0, "warmup_fraction": 0.0, "warmup_steps": None, "decay_fraction": 0.0,
    "final_learning_rate": 0.0, "beta1": 0.0, "beta2": 0.0, "eps": 1.0, "momentum": 0.0, "weight_decay": 0.0,
    "grad_clip": 0.0,
}  # fmt: skip


class Hyperparameters(NamedTuple):
    """Traced inputs of a train step, float32 scalars (or `[trials]`): runs that differ only here share one program."""

    learning_rate: jax.Array | np.ndarray | float
    steps: jax.Array | np.ndarray | float
    warmup_steps: jax.Array | np.ndarray | float
    decay_steps: jax.Array | np.ndarray | float
    final_learning_rate: jax.Array | np.ndarray | float
    beta1: jax.Array | np.ndarray | float
    beta2: jax.Array | np.ndarray | float
    eps: jax.Array | np.ndarray | float
    momentum: jax.Array | np.ndarray | float
    weight_decay: jax.Array | np.ndarray | float
    grad_clip: jax.Array | np.ndarray | float


def hyperparameters(config: TrainConfig) -> Hyperparameters:
    """The traced inputs of `config`; warm-up and decay in whole steps."""
    values = {field: getattr(config, field, None) for field in Hyperparameters._fields}
    values |= {"warmup_steps": config.warmup, "decay_steps": config.steps - config.decay_start}
    return Hyperparameters(**{field: np.asarray(value, np.float32) for field, value in values.items()})
