"""The train step and its loop on the device: pure functions, hyper-parameters traced, the host only asks for chunks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from models import transformer
from models.config import ModelConfig
from models.pipeline import Totals
from models.sharding import current_mesh
from scaling.train.config import Hyperparameters, TrainConfig
from scaling.train.objectives import Frozen, check_batch
from scaling.train.objectives.objective import BASE, BESIDE, Mean, Summed
from scaling.train.optimizer import make_optimizer
from scaling.train.placement import laid_out, specs_of, to_device, to_host
from scaling.train.state import TrainState

Batch = dict[str, jax.Array]  # see scaling.data.Batches.batch: tokens [batch, seq + 1] int32; weights; segments


ROUTING = {"balance_loss": "balance", "dropped_share": "dropped"}  # name in a state's routing -> field of Totals
SPIKE_FLOOR = 1.0  # nats/token; a batch of a nearly solved task may well lose several times the best one's hundredths
SMOOTHING = 0.9  # per step; one batch of odd text may lose twice the average, a diverged run does so step after step


class Metrics(NamedTuple):
    """Mean loss since the last multiple of log_every, last loss (nats/token), last gradient norm; float32 scalars.

    The mean is NaN where no step since then had a scored target.

    routing, measured: as in `TrainState`.
    """

    loss: jax.Array
    last_loss: jax.Array
    grad_norm: jax.Array
    routing: dict[str, jax.Array]
    measured: dict[str, jax.Array]


class Measured(NamedTuple):
    """What a batch says of the parameters: mean loss and the weight it is over, routing and metrics as in `TrainState`,
    gradient of the mean of what is minimised."""

    loss: jax.Array
    weight: jax.Array
    routing: dict[str, jax.Array]
    measured: dict[str, jax.Array]
    gradient: Any


def init_state(model: ModelConfig, train: TrainConfig, seed: jax.Array, hyper: Hyperparameters) -> TrainState:
    """The state before step 0; `seed` is a traced uint32 scalar."""
    trained = train.weights(model)
    params = transformer.drawn(model, trained, jax.random.key(seed))
    opt_state = make_optimizer(model, train.optimizer, train.schedule, hyper, trained).init(params)
    zero, infinite = jnp.float32(0), jnp.float32(jnp.inf)
    routing = dict.fromkeys(ROUTING, zero) if model.routed else {}
    measured = dict.fromkeys(train.objective.metrics, zero)
    books = zero, infinite, jnp.int32(-1), zero, jnp.int32(0), zero, zero, routing, measured
    return TrainState(jnp.int32(0), params, opt_state, *books)


def summed_loss(model: ModelConfig, params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """(summed loss in nats, summed weight) of one batch; see models.transformer.loss."""
    return transformer.loss(
        model, params, batch["tokens"], loss_weights=batch.get("weights"), segments=batch.get("segments")
    )


def objective(
    model: ModelConfig, train: TrainConfig, params: Any, batch: Batch, frozen: Mapping[str, Frozen] | None = None
) -> tuple[jax.Array, Summed]:
    """(what `train.objective` minimises, summed over `batch`; its parts). params: what `train.weights` declares."""
    check_batch(train.objective, batch)
    read = frozen or {}
    own = {name: params[name] for name in params if name != BESIDE}
    whole = train.trains.join(model, own, read[BASE].params if BASE in read else None)
    if BESIDE in params:
        whole = {**whole, BESIDE: params[BESIDE]}
    return train.objective.loss(model, train, whole, batch, read)


def measured_gradient(
    model: ModelConfig, train: TrainConfig, params: Any, batch: Batch, frozen: Mapping[str, Frozen] | None = None
) -> Measured:
    """The mean loss of `batch`, its metrics, and the gradient of what is minimised.

    A batch without a scored target has weight 0, and its loss says nothing.
    The gradient is summed over `train.accumulate` micro-batches and split as `train.zero` says.
    """
    specs = specs_of(model, train)
    split = partial(laid_out, specs=specs and specs.gradients)
    if train.accumulate == 1:

        def mean(params: Any) -> tuple[jax.Array, Summed]:
            total, sums = objective(model, train, params, batch, frozen)
            return total / jnp.maximum(sums.totals.weight, 1), sums

        (_, sums), grads = jax.value_and_grad(mean, has_aux=True)(params)
        grads, count = split(grads), jnp.maximum(sums.totals.weight, 1)
    else:
        value_and_grad = jax.value_and_grad(partial(objective, model, train, frozen=frozen), has_aux=True)
        micros = jax.tree.map(partial(_micro_batches, count=train.accumulate), batch)
        zero = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
        number = jnp.float32(0)
        totals = Totals(number, number, number, number, number) if model.routed else Totals(number, number)
        nothing = Summed(totals, {name: Mean(number, number) for name in train.objective.metrics})

        def add(carry: Any, micro: Batch) -> tuple[Any, None]:
            (_, sums), grads = value_and_grad(params, micro)
            sums, grads = jax.tree.map(jnp.add, carry, (sums, grads))
            return (sums, split(grads)), None

        (sums, grads), _ = jax.lax.scan(add, (nothing, split(zero)), micros)
        count = jnp.maximum(sums.totals.weight, 1)
        grads = jax.tree.map(lambda g: g / count, grads)
    tokens, totals = batch["tokens"], sums.totals
    rows = tokens.size // tokens.shape[-1]
    routing = {name: getattr(totals, field) / rows for name, field in ROUTING.items()} if model.routed else {}
    measured = {name: mean.total / jnp.maximum(mean.number, 1) for name, mean in sums.measured.items()}
    return Measured(totals.loss / count, totals.weight, routing, measured, grads)


def _micro_batches(x: jax.Array, count: int) -> jax.Array:
    """`[batch, ...]` -> `[count, batch / count, ...]`; on a mesh every count-th row, so that each device has its share
    of every micro-batch already."""
    if current_mesh() is None:
        return x.reshape(count, -1, *x.shape[1:])
    return x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)


def loss_and_gradient(
    model: ModelConfig, train: TrainConfig, params: Any, batch: Batch, frozen: Mapping[str, Frozen] | None = None
) -> tuple[jax.Array, Any]:
    """Mean loss over the scored targets of `batch`, and the gradient of the objective; see `measured_gradient`."""
    found = measured_gradient(model, train, params, batch, frozen)
    return found.loss, found.gradient


def train_step(
    model: ModelConfig,
    train: TrainConfig,
    spike_factor: float,
    state: TrainState,
    batch: Batch,
    hyper: Hyperparameters,
    frozen: Mapping[str, Frozen] | None = None,
) -> tuple[TrainState, tuple[jax.Array, jax.Array]]:
    """One update: (state, (loss, gradient norm)). A loss that is not finite or spikes marks the state as failed.

    A batch without a scored target counts as a step and changes nothing else: neither parameters nor any mean.
    """
    state = _pinned(model, train, state)
    loss, weight, routing, measured, grads = measured_gradient(model, train, state.params, batch, frozen)
    norm = optax.tree.norm(grads)
    optimizer = make_optimizer(model, train.optimizer, train.schedule, hyper, train.weights(model))
    offload = train.offload == "optimizer"
    before = to_device(state.opt_state) if offload else state.opt_state
    updates, opt_state = optimizer.update(grads, before, state.params)
    params = optax.apply_updates(state.params, updates)
    scored = weight > 0
    if "weights" in batch or "segments" in batch:  # else every target is scored
        new, old = (params, opt_state), (state.params, before)
        params, opt_state = jax.tree.map(lambda new, old: jnp.where(scored, new, old), new, old)
    opt_state = to_host(opt_state) if offload else opt_state
    books = _books(train, spike_factor, state, scored, loss, norm)
    return _pinned(model, train, TrainState(state.step + 1, params, opt_state, *books, routing, measured)), (loss, norm)


def _books(
    train: TrainConfig, spike_factor: float, state: TrainState, scored: jax.Array, loss: jax.Array, norm: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """The fields of the next state from smooth_loss to grad_norm; where nothing was `scored`, `loss` is no loss."""
    begun = jnp.isfinite(state.best_loss)  # whether any step before had a loss
    smooth = jnp.where(begun, SMOOTHING * state.smooth_loss + (1 - SMOOTHING) * loss, loss)
    smooth = jnp.where(scored, smooth, state.smooth_loss)
    spiked = scored & (smooth > spike_factor * jnp.maximum(state.best_loss, SPIKE_FLOOR))
    if not train.objective.judged:
        spiked = jnp.zeros_like(spiked)
    healthy = jnp.isfinite(loss) & jnp.isfinite(norm) & ~spiked
    failed_step = jnp.where(healthy | (state.failed_step >= 0), state.failed_step, state.step)
    best_loss = jnp.where(scored, jnp.minimum(state.best_loss, smooth), state.best_loss)
    logged = state.step % train.log_every == 0
    loss_sum = jnp.where(logged, 0, state.loss_sum) + jnp.where(scored, loss, 0)
    loss_count = jnp.where(logged, 0, state.loss_count) + scored.astype(jnp.int32)
    last_loss, norm = jnp.where(scored, loss, state.last_loss), jnp.where(scored, norm, state.grad_norm)
    return smooth, best_loss, failed_step, loss_sum, loss_count, last_loss, norm


def _pinned(model: ModelConfig, train: TrainConfig, state: TrainState) -> TrainState:
    """The state laid out as it is kept: what a loop carries would else be laid out as XLA likes."""
    if (specs := specs_of(model, train)) is None:
        return state
    params, opt_state = laid_out(state.params, specs.params), laid_out(state.opt_state, specs.moments)
    return state._replace(params=params, opt_state=opt_state)


def advance(
    model: ModelConfig,
    train: TrainConfig,
    state: TrainState,
    batches: Batch,
    hyper: Hyperparameters,
    first: jax.Array,
    stop: jax.Array,
    frozen: Mapping[str, Frozen] | None = None,
) -> tuple[TrainState, Metrics]:
    """Train from `state.step` up to step `stop` (exclusive), or until the run fails.

    batches: leaves `[chunk, batch, ...]`, the batches of steps first, first + 1, ...; stop - first <= chunk.
    frozen: the models that `train.objective` reads.
    The trip count is traced, so runs of different lengths share the program and a finished run costs nothing.
    """

    def unfinished(state: TrainState) -> jax.Array:
        return (state.step < stop) & (state.failed_step < 0)

    def body(state: TrainState) -> TrainState:
        batch = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, state.step - first, keepdims=False), batches)
        return train_step(model, train, train.spike_factor, state, batch, hyper, frozen)[0]

    state = jax.lax.while_loop(unfinished, body, state)
    mean = jnp.where(state.loss_count > 0, state.loss_sum / jnp.maximum(state.loss_count, 1), jnp.nan)
    return state, Metrics(mean, state.last_loss, state.grad_norm, state.routing, state.measured)


def advance_trials(
    model: ModelConfig, train: TrainConfig, batch_mode: str
) -> Callable[..., tuple[TrainState, Metrics]]:
    """`advance` over a leading trial dim of all its arguments but the frozen models, which trials share."""

    def run(
        state: TrainState, batches: Batch, hyper: Hyperparameters, first: jax.Array, stop: jax.Array,
        frozen: Mapping[str, Frozen] | None = None,
    ) -> tuple[TrainState, Metrics]:  # fmt: skip
        one = partial(advance, model, train, frozen=frozen)
        return over_trials(one, batch_mode)(state, batches, hyper, first, stop)

    return run


def over_trials(f: Callable[..., Any], batch_mode: str) -> Callable[..., Any]:
    """`f` over the leading trial dim of every argument: "vmap" for accelerators, "map" (one by one) for CPUs, "single"
    for one trial on a mesh of its own."""
    if batch_mode == "vmap":
        return jax.vmap(f, spmd_axis_name="trial")
    if batch_mode == "single":
        return lambda *args: jax.tree.map(lambda x: x[None], f(*jax.tree.map(lambda x: x[0], args)))
    return lambda *args: jax.lax.map(lambda xs: f(*xs), args)
