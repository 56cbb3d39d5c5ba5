"""The loop of post-training: rollout, update, checkpoint. Every part is a function of the step and the state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from models.config import ModelConfig
from models.errors import ConfigError, require
from models.serialize import canonical
from scaling.train.checkpoint import Checkpoints, NoCheckpoint
from scaling.train.config import TrainConfig, hyperparameters
from scaling.train.loop import Interrupted
from scaling.train.metrics import MetricsWriter
from scaling.train.objectives import Frozen, check_batch
from scaling.train.objectives.objective import BASE
from scaling.train.state import TrainState
from scaling.train.step import init_state, train_step
from search.posttrain.config import RolloutConfig, batch_shapes, refuse_changed, temperature_of
from search.posttrain.handover import Ahead
from search.posttrain.rollouts import Rollouts

Measured = tuple[dict[str, float], float]  # columns of a metric row, and the FLOPs that they took


class Spent(NamedTuple):
    """FLOPs of a run so far. measure: of measuring, which is no part of training and in no total."""

    rollout: float = 0.0
    reference: float = 0.0
    update: float = 0.0
    measure: float = 0.0

    @property
    def training(self) -> float:
        """Of rollouts, reference passes and updates."""
        return self.rollout + self.reference + self.update

    def plus(self, **more: float) -> Spent:
        """With these FLOPs added."""
        return self._replace(**{name: getattr(self, name) + flops for name, flops in more.items()})


class PostTraining:
    """Trains a policy on what it writes.

    params: of the policy at the start, which `train.trains` adapts and which is the reference where the objective has
    one that `frozen` does not hold. directory: of metric rows; states: of the run's checkpoints, by default
    directory/checkpoints. A run that is begun again there goes on from its newest checkpoint and ends with the same
    bits, wherever it was stopped: a rollout is a function of seed, step and parameters.

    measure: of the params of a forward pass; its columns are in the row of step 0, of the last and of every
    `measure_every` updates. stop: asked between rollouts. origin: digest of what the run starts from.
    """

    def __init__(
        self, model: ModelConfig, train: TrainConfig, params: Any, rollouts: Rollouts | Ahead, directory: Path,
        config: RolloutConfig | None = None, *, states: Path | None = None, frozen: Mapping[str, Frozen] | None = None,
        measure: Callable[[Any], Measured] | None = None, measure_every: int = 0,
        stop: Callable[[], bool] = lambda: False, origin: str = "",
    ):  # fmt: skip
        self.model, self.train, self.rollouts = model.resolved(), train, rollouts
        self.config = config or RolloutConfig()
        self.directory, self.states = Path(directory), Path(states or Path(directory) / "checkpoints")
        sizes = (rollouts.prompts, rollouts.group, rollouts.seq_len)
        asked = (train.batch_size, train.objective.sequences, train.seq_len)
        require(sizes == asked, "rollouts", f"give {sizes} prompts, samples and tokens, not {asked}", "use equal sizes")
        asked_for = temperature_of(train.objective)
        problem = f"is {rollouts.temperature}, and the objective's {asked_for}"
        require(rollouts.temperature == asked_for, "rollouts.temperature", problem, "use equal ones")
        check_batch(train.objective, batch_shapes(train, rollouts.progress is not None))
        self.hyper = hyperparameters(train)
        self.start = jax.tree.map(np.asarray, params)
        own = Frozen(self.model, self.start)
        self.frozen = {name: (frozen or {}).get(name, own) for name in train.objective.reads}
        anchored = train.objective.reads.get("reference", "none") is None
        problem = f"is {self.config.anchor_every}, and the objective has no reference that may move"
        fix = "set train.objective.kl above 0, without a reference, or anchor_every=none"
        require(self.config.anchor_every is None or anchored, "rollouts.anchor_every", problem, fix)
        self.flops_per_update, self.reference_flops = self._prices()
        if train.trains.based:
            self.frozen[BASE] = own
        self._step = jax.jit(partial(train_step, self.model, train, train.spike_factor))
        self._merge = jax.jit(partial(train.trains.merge, self.model))
        self.measure, self.measure_every, self.stop, self.origin = measure, measure_every, stop, origin
        self.spent = Spent()

    @property
    def flops(self) -> float:
        """FLOPs of training so far."""
        return self.spent.training

    def whole(self, params: Any) -> Any:
        """The policy's params, of those that train."""
        return self._merge(params, self.start) if self.train.trains.based else params

    def run(self, report: Callable[[int, dict[str, float]], None] = lambda step, row: None) -> TrainState:
        """Train to `train.steps` updates; the final state.

        Raises Interrupted when stopped, and ConfigError when too many completions have no reward; either way what was
        done by then is kept.
        """
        with Checkpoints(self.states, keep=self.train.keep_checkpoints) as checkpoints:
            state = self._restored(checkpoints)
            writer = MetricsWriter(self.directory, int(state.step) or -1)
            try:
                if int(state.step) == 0 and self.measure:
                    writer.write({"step": 0, "flops": 0.0} | self._measured(state))
                while int(state.step) < self.train.steps:
                    if self.stop():
                        raise Interrupted
                    state = self._rollout(state, writer, report)
                    due = int(state.step) % max(1, self.train.checkpoint_every) < self.config.updates
                    if (self.train.checkpoint_every and due) or int(state.step) >= self.train.steps:
                        checkpoints.save(int(state.step), self._kept(state), self._metadata())
            except (ConfigError, Interrupted):
                if int(state.step) > (checkpoints.latest() or 0):
                    checkpoints.save(int(state.step), self._kept(state), self._metadata())
                raise
            finally:
                writer.close()
        return state

    def _prices(self) -> tuple[float, float]:
        """FLOPs of an update, and of the passes of frozen models beside it."""
        read, tokens = {name: one.config for name, one in self.frozen.items()}, self.train.tokens_per_step
        own = self.train.flops(self.model, tokens, {})
        return float(own), float(self.train.flops(self.model, tokens, read) - own)

    def _rollout(self, state: TrainState, writer: MetricsWriter, report: Callable[..., None]) -> TrainState:
        """One rollout and its updates."""
        first = int(state.step)
        batch, cost = self.rollouts.batch(first, self.whole(state.params))
        wanted = {name: batch[name] for name in self.train.objective.needs}
        updates = min(self.config.updates, self.train.steps - first)
        for _ in range(updates):
            state, (loss, norm) = self._step(state, wanted, self.hyper, self.frozen)
        anchor = self.config.anchor_every
        if anchor is not None and int(state.step) // anchor > first // anchor:
            self.frozen["reference"] = Frozen(self.model, jax.tree.map(np.asarray, self.whole(state.params)))
        self.spent = self.spent.plus(
            rollout=cost.flops, update=updates * self.flops_per_update, reference=updates * self.reference_flops
        )
        row = {
            "loss": float(loss), "grad_norm": float(norm), "flops": self.flops, "rollout_flops": float(cost.flops),
            "length": cost.tokens / cost.completions, "truncated": float(batch["truncated"].mean()),
        }  # fmt: skip
        if self.rollouts.environment.calls:
            row |= {"calls": cost.calls / cost.completions, "failed_calls": cost.failed / max(cost.calls, 1)}
        if self.config.staleness is not None:
            row["staleness"] = cost.staleness
        row |= {name: float(x) for name, x in state.measured.items()}
        step, every = int(state.step), self.measure_every
        if self.measure and (step >= self.train.steps or (every and step // every > first // every)):
            row |= self._measured(state)
        writer.write({"step": step} | row)
        report(step, row)
        return state

    def _measured(self, state: TrainState) -> dict[str, float]:
        assert self.measure is not None
        columns, flops = self.measure(self.whole(state.params))
        self.spent = self.spent.plus(measure=flops)
        return columns

    def _restored(self, checkpoints: Checkpoints) -> TrainState:
        initial = jax.jit(partial(init_state, self.model, self.train))(np.uint32(self.train.seed), self.hyper)
        try:
            found = checkpoints.restore(self._kept(initial))
        except NoCheckpoint:
            begun = self.train.trains.begun(self.model, self.start)
            return initial if begun is None else initial._replace(params=jax.tree.map(jax.numpy.asarray, begun))
        problem = "was begun with another config"
        same = found.metadata["train"] == self._metadata()["train"]
        require(same, str(self.directory), problem, "restore that config, or use a new directory")
        refuse_changed(found.metadata["origin"], self.origin, "train.init_from")
        self.spent = Spent(**found.metadata["spent"])
        if self.config.anchor_every is None:
            return found.state
        self.frozen["reference"] = Frozen(self.model, found.state["reference"])
        return found.state["state"]

    def _kept(self, state: TrainState) -> Any:
        """What a checkpoint holds: the state, and the reference where it moves."""
        if self.config.anchor_every is None:
            return state
        return {"state": state, "reference": self.frozen["reference"].params}

    def _metadata(self) -> dict[str, Any]:
        same = dataclasses.replace(self.train, log_every=1, eval_every=0, checkpoint_every=0, keep_checkpoints=1)
        return {"train": canonical(same), "spent": self.spent._asdict(), "origin": self.origin}
