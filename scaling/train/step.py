"""The train step and its loop on the device: pure functions, hyper-parameters traced, the host only asks for chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from models import transformer
from models.config import ModelConfig
from scaling.train.config import Hyperparameters, TrainConfig
from scaling.train.optimizer import make_optimizer
from scaling.train.state import TrainState

Batch = dict[str, jax.Array]  # see scaling.data.Batches.batch: tokens [batch, seq + 1] int32; weights; segments


SPIKE_FLOOR = 1.0  # nats/token; a batch of a nearly solved task may well lose several times the best one's hundredths
SMOOTHING = 0.9  # per step; one batch of odd text may lose twice the average, a diverged run does so step after step


class Metrics(NamedTuple):
    """Mean loss since the last multiple of log_every, last loss (nats/token), last gradient norm; float32 scalars."""

    loss: jax.Array
    last_loss: jax.Array
    grad_norm: jax.Array


def init_state(model: ModelConfig, train: TrainConfig, seed: jax.Array, hyper: Hyperparameters) -> TrainState:
    """The state before step 0; `seed` is a traced uint32 scalar."""
    params = transformer.init(model, jax.random.key(seed))
    opt_state = make_optimizer(model, train.optimizer, train.schedule, hyper).init(params)
    zero, infinite = jnp.float32(0), jnp.float32(jnp.inf)
    return TrainState(jnp.int32(0), params, opt_state, zero, infinite, jnp.int32(-1), zero, jnp.int32(0), zero, zero)


def summed_loss(model: ModelConfig, params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """(summed loss in nats, summed weight) of one batch; see models.transformer.loss."""
    return transformer.loss(
        model, params, batch["tokens"], loss_weights=batch.get("weights"), segments=batch.get("segments")
    )


def loss_and_gradient(model: ModelConfig, train: TrainConfig, params: Any, batch: Batch) -> tuple[jax.Array, Any]:
    """Mean loss over the scored targets of `batch`, and its gradient, summed over `train.accumulate` micro-batches."""

    if train.accumulate == 1:

        def mean(params: Any) -> jax.Array:
            total, count = summed_loss(model, params, batch)
            return total / jnp.maximum(count, 1)

        return jax.value_and_grad(mean)(params)

    value_and_grad = jax.value_and_grad(lambda p, micro: summed_loss(model, p, micro), has_aux=True)
    micros = jax.tree.map(lambda x: x.reshape(train.accumulate, -1, *x.shape[1:]), batch)
    zero = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)

    def add(carry: Any, micro: Batch) -> tuple[Any, None]:
        (total, count), grads = value_and_grad(params, micro)
        return jax.tree.map(jnp.add, carry, (total, count, grads)), None

    (total, count, grads), _ = jax.lax.scan(add, (jnp.float32(0), jnp.float32(0), zero), micros)
    count = jnp.maximum(count, 1)
    return total / count, jax.tree.map(lambda g: g / count, grads)


def train_step(
    model: ModelConfig, train: TrainConfig, spike_factor: float, state: TrainState, batch: Batch, hyper: Hyperparameters
) -> tuple[TrainState, tuple[jax.Array, jax.Array]]:
    """One update: (state, (loss, gradient norm)). A loss that is not finite or spikes marks the state as failed."""
    loss, grads = loss_and_gradient(model, train, state.params, batch)
    norm = optax.tree.norm(grads)
    optimizer = make_optimizer(model, train.optimizer, train.schedule, hyper)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    smooth = jnp.where(state.step == 0, loss, SMOOTHING * state.smooth_loss + (1 - SMOOTHING) * loss)
    spiked = smooth > spike_factor * jnp.maximum(state.best_loss, SPIKE_FLOOR)
    healthy = jnp.isfinite(loss) & jnp.isfinite(norm) & ~spiked
    failed_step = jnp.where(healthy | (state.failed_step >= 0), state.failed_step, state.step)
    best_loss = jnp.minimum(state.best_loss, smooth)
    logged = state.step % train.log_every == 0
    loss_sum = jnp.where(logged, 0, state.loss_sum) + loss
    loss_count = jnp.where(logged, 0, state.loss_count) + 1
    books = smooth, best_loss, failed_step, loss_sum, loss_count, loss, norm
    return TrainState(state.step + 1, params, opt_state, *books), (loss, norm)


def advance(
    model: ModelConfig,
    train: TrainConfig,
    state: TrainState,
    batches: Batch,
    hyper: Hyperparameters,
    first: jax.Array,
    stop: jax.Array,
) -> tuple[TrainState, Metrics]:
    """Train from `state.step` up to step `stop` (exclusive), or until the run fails.

    batches: leaves `[chunk, batch, ...]`, the batches of steps first, first + 1, ...; stop - first <= chunk.
    The trip count is traced, so runs of different lengths share the program and a finished run costs nothing.
    """

    def unfinished(state: TrainState) -> jax.Array:
        return (state.step < stop) & (state.failed_step < 0)

    def body(state: TrainState) -> TrainState:
        batch = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, state.step - first, keepdims=False), batches)
        return train_step(model, train, train.spike_factor, state, batch, hyper)[0]

    state = jax.lax.while_loop(unfinished, body, state)
    mean = state.loss_sum / jnp.maximum(state.loss_count, 1)
    return state, Metrics(mean, state.last_loss, state.grad_norm)


def over_trials(f: Callable[..., Any], batch_mode: str) -> Callable[..., Any]:
    """`f` over the leading trial dim of every argument: "vmap" for accelerators, "map" (one by one) for CPUs."""
    if batch_mode == "vmap":
        return jax.vmap(f, spmd_axis_name="trial")
    return lambda *args: jax.lax.map(lambda xs: f(*xs), args)
