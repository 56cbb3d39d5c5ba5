"""Held-out loss: nats per token and bits per byte, on the device in one call."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from models.config import ModelConfig
from scaling.data import HeldOut
from scaling.train.processes import fetch
from scaling.train.step import Batch, summed_loss


class Score(NamedTuple):
    """loss: nats per scored token; bpb: bits per byte of the text that those tokens spell; tokens: how many."""

    loss: float
    bpb: float
    tokens: int


@partial(jax.jit, static_argnums=0)
def summed_losses(model: ModelConfig, params: Any, batches: Batch) -> tuple[jax.Array, jax.Array]:
    """(summed loss, summed weight) `[count]` float32 of every batch, leaves of `batches` `[count, batch, ...]`."""

    def one(_: None, batch: Batch) -> tuple[None, tuple[jax.Array, jax.Array]]:
        return None, summed_loss(model, params, batch)

    return jax.lax.scan(one, None, jax.tree.map(jnp.asarray, batches))[1]


def score(model: ModelConfig, params: Any, heldout: HeldOut) -> Score:
    """Score `params` on the whole held-out set; per-batch sums are added in float64 on the host."""
    losses, weights = fetch(summed_losses(model, params, heldout.batches()))
    loss = float(losses.sum(dtype="float64") / weights.sum(dtype="float64"))
    return Score(loss, heldout.bits_per_byte(loss), heldout.scored_tokens)
