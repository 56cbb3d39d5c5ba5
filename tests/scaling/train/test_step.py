"""The train step: accumulation, masks, failure detection, and what a chunk of steps does to a state."""

from __future__ import annotations

import dataclasses
import functools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import transformer
from models.config import ModelConfig
from scaling.data import Batches, TokenFile
from scaling.train.config import TrainConfig, hyperparameters
from scaling.train.step import SPIKE_FLOOR, advance, init_state, loss_and_gradient, over_trials, summed_loss, train_step

MODEL = ModelConfig(vocab_size=32, d_model=8, n_layers=1, n_heads=2, d_ff=16).resolved()
TRAIN = TrainConfig(steps=6, batch_size=4, seq_len=16, warmup_steps=1, learning_rate=0.01, log_every=4)
BATCHES = Batches.of(TokenFile.from_array(np.random.default_rng(0).integers(1, 32, 2000, dtype=np.uint8)), 16, 4)


@pytest.fixture(scope="module")
def params() -> Any:
    return jax.jit(partial(transformer.init, MODEL))(jax.random.key(0))


def difference(a: Any, b: Any) -> float:
    """Largest difference of two pytrees, relative to the largest value of the first."""
    pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    return max(float(jnp.max(jnp.abs(x - y)) / jnp.max(jnp.abs(x))) for x, y in pairs)


@functools.cache
def gradient_of(accumulate: int) -> Any:
    return jax.jit(partial(loss_and_gradient, MODEL, dataclasses.replace(TRAIN, accumulate=accumulate)))


def test_micro_batches_give_the_loss_and_gradient_of_the_whole_batch(params):
    uneven = np.triu(np.ones((4, 16), np.float32))  # the mean is over the whole batch's targets, however they fall
    for weights in (uneven, np.ones_like(uneven)):
        batch = BATCHES.batch(0) | {"weights": weights}
        whole, split = gradient_of(1)(params, batch), gradient_of(2)(params, batch)
        assert abs(float(whole[0] - split[0])) < 1e-6
        assert difference(whole[1], split[1]) < 1e-5  # float32 sums in another order


def test_a_batch_without_any_scored_target_has_no_loss_and_no_gradient(params):
    batch = BATCHES.batch(0) | {"weights": np.zeros((4, 16), np.float32)}
    loss, grads = gradient_of(1)(params, batch)
    assert float(loss) == 0 and all(float(jnp.max(jnp.abs(g))) == 0 for g in jax.tree.leaves(grads))


def test_a_step_without_any_scored_target_changes_no_mean_and_no_parameter():
    step = jax.jit(partial(train_step, MODEL, TRAIN, 2.0))
    hyper = hyperparameters(TRAIN)
    initial, _ = compiled()
    ones, nothing = (BATCHES.batch(0) | {"weights": np.full((4, 16), value, np.float32)} for value in (1, 0))
    empty, _ = step(initial, nothing, hyper)
    assert (int(empty.step), int(empty.loss_count), float(empty.best_loss)) == (1, 0, np.inf)
    first, _ = step(empty, ones, hyper)
    plain, (loss, _) = step(initial._replace(step=jnp.int32(1)), ones, hyper)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), first, plain))  # as if it had not been
    again, _ = step(first, nothing, hyper)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), again._replace(step=first.step), first))
    assert float(again.best_loss) == float(again.smooth_loss) == float(again.last_loss) == float(loss)
    assert int(again.failed_step) == -1 and int(again.loss_count) == 1


def test_a_chunk_without_any_scored_target_has_no_mean_loss():
    initial, _ = compiled()
    batches = BATCHES.batches(0, 2) | {"weights": np.zeros((2, 4, 16), np.float32)}
    run = jax.jit(partial(advance, MODEL, TRAIN))
    _, metrics = run(initial, batches, hyperparameters(TRAIN), np.int32(0), np.int32(2))
    assert np.isnan(float(metrics.loss))


def test_masked_targets_carry_no_loss(params):
    losses = jax.jit(partial(summed_loss, MODEL))
    batch = BATCHES.batch(1)
    half = np.zeros((4, 16), np.float32)
    half[:, :8] = 1
    first = losses(params, batch | {"weights": half})
    second = losses(params, batch | {"weights": 1 - half})
    whole = losses(params, batch)
    assert float(first[1]) == float(second[1]) == 32 and float(whole[1]) == 64
    assert abs(float(first[0] + second[0] - whole[0])) < 1e-4
    changed = {"tokens": np.where(np.arange(17) > 8, 3, batch["tokens"]), "weights": half}
    assert float(losses(params, changed)[0]) == float(first[0])  # causal, so what comes later does not matter


def test_a_window_of_two_documents_scores_as_the_two_of_them_alone():
    model = dataclasses.replace(MODEL, positions="none")  # so that a document does not depend on where it stands
    params = jax.jit(partial(transformer.init, model))(jax.random.key(1))
    losses = jax.jit(partial(summed_loss, model))
    tokens = BATCHES.batch(2)["tokens"][:1]
    segments = np.where(np.arange(17) < 7, 0, 1)[None].astype(np.int32)
    together = losses(params, {"tokens": tokens, "segments": segments})
    parts = [losses(params, {"tokens": tokens[:, part]}) for part in (slice(0, 7), slice(7, 17))]
    assert float(together[1]) == sum(float(n) for _, n in parts) == 15  # the step across the boundary is not scored
    assert abs(float(together[0]) - sum(float(x) for x, _ in parts)) < 1e-4


@functools.cache
def compiled() -> tuple[Any, Any]:
    """(initial state, step), the spike factor traced."""
    step = jax.jit(lambda factor, *arguments: train_step(MODEL, TRAIN, factor, *arguments))
    return jax.jit(partial(init_state, MODEL, TRAIN))(np.uint32(0), hyperparameters(TRAIN)), step


def stepped(batch: dict[str, np.ndarray], spike_factor: float = 3.0, **changes: Any) -> Any:
    state, step = compiled()
    return step(np.float32(spike_factor), state._replace(**changes), batch, hyperparameters(TRAIN))


def test_a_spike_is_a_multiple_of_the_best_smoothed_loss_and_of_at_least_the_floor():
    batch = BATCHES.batch(0)
    loss = float(stepped(batch)[1][0])  # about log 32
    assert loss > SPIKE_FLOOR * 3
    later = dict(step=jnp.int32(3), smooth_loss=jnp.float32(loss))  # so that the smoothed loss is `loss` again
    for best, fails in ((loss / 3.01, True), (loss / 2.99, False), (0.001, True), (9.0, False)):
        state, _ = stepped(batch, best_loss=jnp.float32(best), **later)
        assert int(state.failed_step) == (3 if fails else -1), best
        assert float(state.best_loss) == pytest.approx(min(best, loss), rel=1e-6)
    nearly_solved, _ = stepped(batch, 1.01 * loss, best_loss=jnp.float32(0.001), **later)
    assert int(nearly_solved.failed_step) == -1


def test_one_odd_batch_is_no_spike():
    low = dict(step=jnp.int32(3), smooth_loss=jnp.float32(1.0), best_loss=jnp.float32(1.0))
    state, (loss, _) = stepped(BATCHES.batch(0), **low)
    assert float(loss) > 3.0 and int(state.failed_step) == -1


def test_the_first_failed_step_is_kept(params):
    nothing = jax.tree.map(lambda x: x * np.float32("nan"), params)
    state, _ = stepped(BATCHES.batch(0), params=nothing, failed_step=jnp.int32(2), step=jnp.int32(5))
    assert int(state.failed_step) == 2


def test_a_loss_that_is_no_number_fails_the_step(params):
    broken = jax.tree.map(lambda x: x * np.float32("nan"), params)
    state, (loss, _) = stepped(BATCHES.batch(0), params=broken)
    assert np.isnan(loss) and int(state.failed_step) == 0


@functools.cache
def stack_of_two() -> tuple[Any, Any]:
    functions = (partial(init_state, MODEL, TRAIN), partial(advance, MODEL, TRAIN))
    return tuple(jax.jit(over_trials(f, "map")) for f in functions)


def trained(chunks: list[tuple[int, int]], stops: list[int], rates: tuple[float, float] = (0.01, 0.01)) -> Any:
    """Two runs through `advance` in chunks (first, stop); run i ends at stops[i]."""
    configs = [dataclasses.replace(TRAIN, learning_rate=rate) for rate in rates]
    hypers = jax.tree.map(lambda *x: np.stack(x), *map(hyperparameters, configs))
    init, run = stack_of_two()
    state = init(np.zeros(2, np.uint32), hypers)
    for first, stop in chunks:
        tokens = np.stack([BATCHES.batches(first, 6)["tokens"]] * 2)
        until = np.minimum(stop, np.array(stops, np.int32)).astype(np.int32)
        state, metrics = run(state, {"tokens": tokens}, hypers, np.full(2, first, np.int32), until)
    return state, metrics


def test_how_a_run_is_cut_into_chunks_does_not_change_a_bit_and_a_short_one_stops_early():
    whole, metrics = trained([(0, 6)], [6, 3])
    cut, other = trained([(0, 2), (2, 3), (3, 6)], [6, 3])
    assert [int(step) for step in whole.step] == [6, 3]
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves((whole, metrics)), jax.tree.leaves((cut, other))))
    (state, step), losses = compiled(), []
    for number in range(6):
        state, (loss, _) = step(np.float32(3), state, BATCHES.batch(number), hyperparameters(TRAIN))
        losses.append(float(loss))
    assert abs(float(metrics.loss[0]) - np.mean(losses[4:])) < 1e-5  # since the last multiple of log_every = 4
    assert abs(float(metrics.last_loss[0]) - losses[-1]) < 1e-5
    assert difference(state.params, jax.tree.map(lambda x: x[0], whole.params)) < 1e-4


def test_a_failed_run_stops_where_it_failed():
    state, _ = trained([(0, 6)], [6, 6], rates=(0.01, 1e6))
    assert [int(step) for step in state.failed_step] == [-1, int(state.step[1]) - 1] and 0 < state.failed_step[1] < 5
    healthy, _ = trained([(0, 6)], [6, 6])
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(healthy)))
