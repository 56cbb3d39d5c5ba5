"""Direct coverage optimisation: the probability that one of N samples is right."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from models.config import ModelConfig
from models.errors import require
from models.transformer import shifted
from scaling.train.objectives.objective import (
    TOKENS,
    WEIGHTS,
    Batch,
    Frozen,
    Objective,
    Summed,
    masked_mean,
    read,
    summed,
    target_logprobs,
)
from scaling.typed import typed

if TYPE_CHECKING:
    from scaling.train.config import TrainConfig

SMALL = -16.0  # log(N p) below which 1 - (1 - p)^N is N p to float32's last bits
ALMOST_ONE = 2.0**-23  # 1 - p of float32's largest p below 1


@dataclass(frozen=True)
class Coverage(Objective):
    """-log(1 - (1 - p)^N), p the probability of a row's whole completion (Chen et al. 2025, direct coverage).

    A mean over rows, each of which holds one answer. N = 1 is cross-entropy summed over the answer. What a row weighs
    against cross-entropy is the factor N p (1 - p)^(N - 1) / (1 - (1 - p)^N): near 0 once N samples find the answer.
    """

    samples: int = 16  # N: how many are drawn for a problem when the model is used

    def __post_init__(self) -> None:
        typed(self, "train.objective")
        problem = f"is {self.samples}"
        require(1 <= self.samples <= 2**20, "train.objective.samples", problem, "give a number from 1 to 1,048,576")

    @property
    def needs(self) -> dict[str, str]:
        return {"tokens": TOKENS, "weights": WEIGHTS}

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("answer_logprob", "coverage_factor")

    def loss(
        self, model: ModelConfig, train: TrainConfig, params: Any, batch: Batch, frozen: Mapping[str, Frozen]
    ) -> tuple[jax.Array, Summed]:
        inputs, targets, score, segments = shifted(batch["tokens"], batch["weights"], batch.get("segments"))
        found = read(model, params, inputs, segments)
        logp = jnp.sum(target_logprobs(found, targets) * score, 1)
        row = (score.sum(1) > 0).astype(jnp.float32)
        each, factor = coverage_loss(logp, self.samples)
        measured = {"answer_logprob": masked_mean(logp, row), "coverage_factor": masked_mean(factor, row)}
        return summed(found, jnp.sum(each * row), row, measured)


def coverage_loss(logp: jax.Array, samples: int) -> tuple[jax.Array, jax.Array]:
    """(-log(1 - (1 - p)^N), its slope in -log p) of log p, elementwise float32; finite for every log p <= 0.

    The gradient is that of the slope, held fixed, times -log p: differentiating the formula itself gives 0 times
    infinity at p = 1, and p underflows in float32 below log p = -103.
    """
    fixed = jnp.minimum(jax.lax.stop_gradient(logp), -ALMOST_ONE)
    log_np = math.log(samples) + fixed
    small = log_np < SMALL
    safe = jnp.where(small, -1.0, fixed)
    log_miss = log1m_exp(safe)  # log(1 - p)
    log_found = log1m_exp(samples * log_miss)  # log(1 - (1 - p)^N)
    value = jnp.where(small, -log_np, -log_found)
    log_slope = math.log(samples) + safe + (samples - 1) * log_miss - log_found
    slope = jnp.where(small, 1.0, jnp.exp(log_slope))
    return value + slope * (jax.lax.stop_gradient(logp) - logp), slope


def log1m_exp(x: jax.Array) -> jax.Array:
    """log(1 - e^x) of x < 0 without cancellation (Maechler 2012)."""
    near = x > -math.log(2)
    return jnp.where(near, jnp.log(-jnp.expm1(jnp.where(near, x, -1.0))), jnp.log1p(-jnp.exp(jnp.where(near, -1.0, x))))
