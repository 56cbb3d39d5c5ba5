"""Arms: several models trained alike from the same seeds, and compared seed by seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from models.errors import require

if TYPE_CHECKING:
    from models.config import ModelConfig
    from scaling.reproduction import Workspace
    from scaling.sweep.config import SweepConfig


@dataclass(frozen=True)
class Arms:
    """losses: arm -> held-out nats/token of every seed, in the same order; flops: of all training."""

    losses: dict[str, np.ndarray]
    flops: float

    def excess(self, arm: str, against: str) -> np.ndarray:
        """By how many per cent the loss of `arm` lies above that of the other, seed by seed."""
        return 100 * (self.losses[arm] / self.losses[against] - 1)

    def details(self) -> dict[str, Any]:
        """The losses and their means, as JSON."""
        means = {arm: round(float(found.mean()), 5) for arm, found in self.losses.items()}
        return {"mean_loss": means, "loss": {arm: [round(x, 5) for x in found] for arm, found in self.losses.items()}}


def sweeps(base: SweepConfig, models: Mapping[str, ModelConfig]) -> list[SweepConfig]:
    """One sweep per arm: that of `base` with its model and its name."""
    return [dataclasses.replace(base, name=name, model=model) for name, model in models.items()]


def train(work: Workspace, base: SweepConfig, models: Mapping[str, ModelConfig]) -> Arms:
    """Every model with the data, the steps and the seeds of `base`; ConfigError when a run failed."""
    losses, flops = {}, 0.0
    for config in sweeps(base, models):
        table = work.sweep(config, config.name).sort_values("seed")
        failed = table[table["status"] != "done"]
        require(failed.empty, f"sweeps/{config.name}", f"{len(failed)} of {len(table)} runs failed", "lower the rate")
        losses[config.name] = table["loss"].to_numpy()
        flops += float(table["flops"].sum())
    return Arms(losses, flops)
