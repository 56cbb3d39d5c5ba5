"""Arms: several models trained alike from the same seeds, and compared seed by seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
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
    return train_sweeps(work, sweeps(base, models))


def train_sweeps(work: Workspace, configs: Sequence[SweepConfig]) -> Arms:
    """One arm for each sweep, by its name; they have the same seeds."""
    losses, flops = {}, 0.0
    for config in configs:
        table = work.sweep(config, config.name).sort_values("seed")
        failed = table[table["status"] != "done"]
        require(failed.empty, f"sweeps/{config.name}", f"{len(failed)} of {len(table)} runs failed", "lower the rate")
        losses[config.name] = table["loss"].to_numpy()
        flops += float(table["flops"].sum())
    return Arms(losses, flops)


def heldout(config: SweepConfig, windows: int) -> np.ndarray:
    """The first held-out windows of a sweep's data, `[windows, seq + 1]` int32."""
    from scaling.data import prepare

    train = config.train
    found = prepare(config.data).heldout_batches(train.seq_len, train.batch_size).tokens
    return np.asarray(found).reshape(-1, found.shape[-1])[:windows]


def trained(work: Workspace, config: SweepConfig, learning_rate: float | None = None) -> list[Any]:
    """What the runs of a sweep that `work` has trained ended with, in the order of the seeds: the parameters of their
    models, or what trained where the two are not the same (`Adaptation.linear`). None: of every rate."""
    from scaling.train.checkpoint import load

    place, name = work.folder / "sweeps" / config.name / "trials", "params" if config.train.trains.linear else "trained"
    chosen = [t for t in config.trials() if learning_rate in (None, t.train.learning_rate)]
    ordered = sorted(chosen, key=lambda trial: trial.train.seed)
    return [load(place / trial.id / "checkpoints", subtree=name).state for trial in ordered]


def heldout_loss(model: ModelConfig, params: Any, tokens: np.ndarray) -> float:
    """Nats/token of tokens `[rows, seq + 1]`."""
    import jax

    from models import transformer

    total, count = jax.jit(transformer.loss, static_argnums=0)(model, params, tokens)
    return float(total / count)


def routing(model: ModelConfig, params: Any, tokens: np.ndarray) -> dict[str, float]:
    """The statistics of a model's routers (models.routing.Routing) on tokens `[rows, seq + 1]`, mean over rows."""
    import jax

    from models import transformer

    found = jax.jit(lambda params, tokens: transformer.forward(model, params, tokens).routing)(params, tokens[:, :-1])
    return {name: round(float(value.mean()), 4) for name, value in found._asdict().items()}


def losses_without_later_tokens(
    model: ModelConfig, params: Any, tokens: np.ndarray, filler: int = 32
) -> tuple[float, float]:
    """(loss as in training, loss of every target by a model that is shown `filler` for all tokens after the last that
    it may know), nats/token of tokens `[rows, seq + 1]`: alike for a model that reads no later tokens."""
    import jax
    import jax.numpy as jnp

    from models import transformer

    seq = tokens.shape[1] - 1

    @jax.jit
    def both(params: Any, row: jax.Array) -> tuple[jax.Array, jax.Array]:
        given, at = row[:-1], jnp.arange(seq)
        masked = jnp.where(at <= at[:, None], given, filler)  # row t of it ends with token t
        scores = jax.nn.log_softmax(transformer.apply(model, params, masked))[at, at]
        known = jax.nn.log_softmax(transformer.apply(model, params, given[None]))[0]
        return -known[at, row[1:]].mean(), -scores[at, row[1:]].mean()

    found = np.array([both(params, row) for row in tokens])
    return float(found[:, 0].mean()), float(found[:, 1].mean())
