"""The next token: what pre-training minimises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax

from models import transformer
from models.config import ModelConfig
from models.pipeline import Totals, pipelined_loss
from models.sharding import axis_size
from scaling.train.objectives.objective import Batch, Frozen, Objective, Summed

if TYPE_CHECKING:
    from scaling.train.config import TrainConfig


@dataclass(frozen=True)
class NextToken(Objective):
    """-log p of every scored target, and the routers' penalties where there are experts; a mean over targets.

    A batch may hold weights and segments too (`scaling.data.Batches.batch`). Runs through a pipeline of stages.
    """

    staged: ClassVar[bool] = True

    def loss(
        self, model: ModelConfig, train: TrainConfig, params: Any, batch: Batch, frozen: Mapping[str, Frozen]
    ) -> tuple[jax.Array, Summed]:
        inputs = {"loss_weights": batch.get("weights"), "segments": batch.get("segments")}
        if (stages := axis_size("stage")) > 1:
            minimised, totals = pipelined_loss(model, train.schedule_over(stages), params, batch["tokens"], **inputs)
            return minimised, Summed(totals, {})
        if not model.routed:
            loss, weight = transformer.loss(model, params, batch["tokens"], **inputs)
            return loss, Summed(Totals(loss, weight), {})
        loss, weight, penalty, routing = transformer.routed_loss(model, params, batch["tokens"], **inputs)
        totals = Totals(loss, weight, penalty, routing.balance.sum(), routing.dropped.sum())
        return totals.objective, Summed(totals, {})
