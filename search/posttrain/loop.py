"""The loop of post-training: rollout, update, checkpoint. Every part is a function of the step and the state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from models.config import ModelConfig
from models.errors import require
from models.serialize import canonical
from scaling.train.checkpoint import Checkpoints, NoCheckpoint
from scaling.train.config import TrainConfig, hyperparameters
from scaling.train.metrics import MetricsWriter
from scaling.train.objectives import Frozen
from scaling.train.state import TrainState
from scaling.train.step import init_state, train_step
from scaling.typed import at_most, typed
from search.posttrain.rollouts import Rollouts


@dataclass(frozen=True)
class RolloutConfig:
    """How a run draws its own batches: `train.batch_size` prompts a step, `train.objective.group` completions each."""

    updates: int = 1  # on the completions of one rollout; they are as old as the first of them
    most_unscorable: float = 0.1  # share of completions without a reward at which the run stops

    def __post_init__(self) -> None:
        typed(self, "rollouts")
        at_most(self, "rollouts", updates=1024)
        require(self.updates >= 1, "rollouts.updates", f"is {self.updates}", "give a positive integer")


class PostTraining:
    """Trains a policy on what it writes.

    params: of the policy at the start, which is also the reference where the objective has one. directory: of metric
    rows and checkpoints; a run that is begun again there goes on from its newest checkpoint and ends with the same
    bits, wherever it was stopped: a rollout is a function of seed, step and parameters.
    """

    def __init__(
        self, model: ModelConfig, train: TrainConfig, params: Any, rollouts: Rollouts, directory: Path,
        config: RolloutConfig | None = None,
    ):  # fmt: skip
        self.model, self.train, self.rollouts = model.resolved(), train, rollouts
        self.config = config or RolloutConfig()
        self.directory = Path(directory)
        sizes = (rollouts.prompts, rollouts.group, rollouts.seq_len)
        asked = (train.batch_size, train.objective.sequences, train.seq_len)
        require(sizes == asked, "rollouts", f"give {sizes} prompts, samples and tokens, not {asked}", "use equal sizes")
        self.hyper = hyperparameters(train)
        self.start = jax.tree.map(np.asarray, params)
        self.frozen = {name: Frozen(self.model, self.start) for name in train.objective.reads}
        self._step = jax.jit(partial(train_step, self.model, train, train.spike_factor))
        self.flops = 0.0

    def run(self, report: Callable[[int, dict[str, float]], None] = lambda step, row: None) -> TrainState:
        """Train to `train.steps` updates; the final state."""
        with Checkpoints(self.directory / "checkpoints", keep=self.train.keep_checkpoints) as checkpoints:
            state = self._restored(checkpoints)
            writer = MetricsWriter(self.directory, int(state.step))
            try:
                while int(state.step) < self.train.steps:
                    state = self._rollout(state, writer, report)
                    due = int(state.step) % max(1, self.train.checkpoint_every) < self.config.updates
                    if (self.train.checkpoint_every and due) or int(state.step) >= self.train.steps:
                        checkpoints.save(int(state.step), state, self._metadata())
            finally:
                writer.close()
        return state

    def _rollout(self, state: TrainState, writer: MetricsWriter, report: Callable[..., None]) -> TrainState:
        """One rollout and its updates."""
        first = int(state.step)
        batch, cost = self.rollouts.batch(first, state.params)
        wanted = {name: batch[name] for name in self.train.objective.needs}
        read = {name: frozen.config for name, frozen in self.frozen.items()}
        per_update = self.train.flops(self.model, self.train.tokens_per_step, read)
        self.flops += cost.flops
        for _ in range(min(self.config.updates, self.train.steps - first)):
            state, (loss, norm) = self._step(state, wanted, self.hyper, self.frozen)
            self.flops += per_update
        measured = {name: float(x) for name, x in state.measured.items()}
        row = {
            "loss": float(loss), "grad_norm": float(norm), "flops": self.flops, "rollout_flops": float(cost.flops),
            "length": cost.tokens / batch["rewards"].size, "truncated": float(batch["truncated"].mean()),
        }  # fmt: skip
        writer.write({"step": int(state.step)} | row | measured)
        report(int(state.step), row | measured)
        return state

    def _restored(self, checkpoints: Checkpoints) -> TrainState:
        initial = jax.jit(partial(init_state, self.model, self.train))(np.uint32(self.train.seed), self.hyper)
        try:
            found = checkpoints.restore(initial)
        except NoCheckpoint:
            return initial._replace(params=jax.tree.map(jax.numpy.asarray, self.start))
        problem = "was begun with another config"
        same = found.metadata["train"] == self._metadata()["train"]
        require(same, str(self.directory), problem, "restore that config, or use a new directory")
        self.flops = found.metadata["flops"]
        return found.state

    def _metadata(self) -> dict[str, Any]:
        same = dataclasses.replace(self.train, log_every=1, eval_every=0, checkpoint_every=0, keep_checkpoints=1)
        return {"train": canonical(same), "flops": self.flops}
