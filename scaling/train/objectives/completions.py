"""Supervised fine-tuning on completions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp

from models.config import ModelConfig
from models.cross_entropy import cross_entropy
from models.transformer import shifted
from scaling.train.objectives.objective import TOKENS, WEIGHTS, Batch, Frozen, Objective, Summed, read, summed

if TYPE_CHECKING:
    from scaling.train.config import TrainConfig


@dataclass(frozen=True)
class Completions(Objective):
    """-log p of the tokens of completions: those of prompts, and padding, have weight 0.

    normalize "token": a mean over all tokens of the batch, so that long completions count more; "sequence": the mean
    of each row first, then over the rows that have a scored token.
    """

    normalize: Literal["token", "sequence"] = "token"  # what the mean is over

    @property
    def needs(self) -> dict[str, str]:
        return {"tokens": TOKENS, "weights": WEIGHTS}

    def loss(
        self, model: ModelConfig, train: TrainConfig, params: Any, batch: Batch, frozen: Mapping[str, Frozen]
    ) -> tuple[jax.Array, Summed]:
        inputs, targets, score, segments = shifted(batch["tokens"], batch["weights"], batch.get("segments"))
        found = read(model, params, inputs, segments)
        each = score.sum(1)
        if self.normalize == "sequence":
            score = score / jnp.where(each > 0, each, 1)[:, None]
            each = (each > 0).astype(jnp.float32)
        loss, _ = cross_entropy(found.hidden, found.head, targets, score, softcap=model.logit_softcap)
        return summed(found, loss, each)
