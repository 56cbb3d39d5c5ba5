"""Preferences: one completion of a prompt is better than another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp

from models.config import ModelConfig
from models.errors import require
from models.transformer import shifted
from scaling.train.objectives.objective import (
    Batch,
    Frozen,
    Objective,
    Summed,
    masked_mean,
    read,
    read_frozen,
    sequences_of,
    summed,
    target_logprobs,
)
from scaling.typed import typed

if TYPE_CHECKING:
    from scaling.train.config import TrainConfig


@dataclass(frozen=True)
class Preference(Objective):
    """A loss of the margin between a chosen (0) and a rejected (1) completion, a mean over pairs.

    With l the summed log-probability of a completion, less that of the reference, and h = l_chosen - l_rejected:

        dpo    -log sigmoid(beta h), less smoothed by `smoothing` (Rafailov et al. 2023)
        hinge  max(0, 1 - beta h)
        ipo    (h - 1 / (2 beta))^2, l a mean over tokens (Azar et al. 2023)
        simpo  -log sigmoid(beta h - gap), l a mean over tokens, no reference (Meng et al. 2024)

    A run that starts from its reference starts with the DPO loss ln 2.
    """

    kind: Literal["dpo", "hinge", "ipo", "simpo"] = "dpo"  # which loss of the margin
    beta: float = 0.1  # how sharply a margin counts; in simpo 2 or so
    smoothing: float = 0.0  # dpo: the share of pairs whose order is taken to be wrong
    gap: float = 0.5  # simpo: the margin that is asked for
    reference: str | None = None  # a trial's directory or Hugging Face folder; None: what the run starts from

    def __post_init__(self) -> None:
        typed(self, "train.objective")
        require(self.beta > 0, "train.objective.beta", f"is {self.beta}", "give a positive number")
        problem, fix = f"is {self.smoothing}", "give a share from 0 to 0.5, of dpo only"
        fits = 0 <= self.smoothing <= 0.5 and (self.kind == "dpo" or self.smoothing == 0)
        require(fits, "train.objective.smoothing", problem, fix)

    @property
    def needs(self) -> dict[str, str]:
        return {"tokens": "[batch, 2, seq + 1] int32", "weights": "[batch, 2, seq] float32"}

    @property
    def reads(self) -> dict[str, str | None]:
        return {} if self.kind == "simpo" else {"reference": self.reference}

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("preferred", "margin", "chosen_logprob", "rejected_logprob")

    @property
    def sequences(self) -> int:
        return 2

    def loss(
        self, model: ModelConfig, train: TrainConfig, params: Any, batch: Batch, frozen: Mapping[str, Frozen]
    ) -> tuple[jax.Array, Summed]:
        flat = sequences_of(batch)
        inputs, targets, score, segments = shifted(flat["tokens"], flat["weights"], flat.get("segments"))
        found = read(model, params, inputs, segments)
        logp = target_logprobs(found, targets)
        relative = logp
        if self.kind != "simpo":
            relative = logp - target_logprobs(read_frozen(frozen["reference"], inputs, segments), targets)
        count = score.sum(1)
        total = jnp.sum(relative * score, 1)
        if self.kind in ("ipo", "simpo"):
            total = total / jnp.maximum(count, 1)
        own = jnp.sum(logp * score, 1).reshape(-1, 2)
        pair = jnp.all(count.reshape(-1, 2) > 0, 1).astype(jnp.float32)  # a pair without a token on one side is none
        margin = total.reshape(-1, 2) @ jnp.array([1.0, -1.0])
        measured = {
            "preferred": masked_mean((margin > 0).astype(jnp.float32), pair),
            "margin": masked_mean(margin, pair),
            "chosen_logprob": masked_mean(own[:, 0], pair),
            "rejected_logprob": masked_mean(own[:, 1], pair),
        }
        minimised = jnp.sum(self.of_margin(margin) * pair)
        total, sums = summed(found, minimised, jnp.repeat(pair, 2) / 2, measured)
        return total, sums

    def of_margin(self, margin: jax.Array) -> jax.Array:
        """The loss of margins h, elementwise."""
        scaled = self.beta * margin
        if self.kind == "hinge":
            return jax.nn.relu(1 - scaled)
        if self.kind == "ipo":
            return jnp.square(margin - 1 / (2 * self.beta))
        if self.kind == "simpo":
            return -jax.nn.log_sigmoid(scaled - self.gap)
        right, wrong = -jax.nn.log_sigmoid(scaled), -jax.nn.log_sigmoid(-scaled)
        return right if self.smoothing == 0 else (1 - self.smoothing) * right + self.smoothing * wrong
