"""Probe: a small model trained on labelled sequences, and how many labels it then has right at each place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from models import transformer
from models.config import ModelConfig
from scaling.tasks.sequences import Labelled, Sequences
from scaling.train.config import Hyperparameters, TrainConfig, hyperparameters
from scaling.train.optimizer import make_optimizer

AT_ONCE = 50  # steps between two calls of the program
LATE = 1000  # added to a seed for the sequences that are not trained on


def probe(model: ModelConfig, kind: Sequences, train: TrainConfig) -> transformer.Params:
    """Parameters after the steps of `train`, of fresh sequences each; their length is the kind's own."""
    rng = np.random.default_rng(train.seed)
    return learned(model, train, lambda step: kind.draw(rng, train.batch_size))


def learned(
    model: ModelConfig,
    train: TrainConfig,
    feed: Callable[[int], Labelled],
    params: transformer.Params | None = None,
    watch: Callable[[int, transformer.Params], None] | None = None,
) -> transformer.Params:
    """Parameters after the steps of `train`, the i-th on feed(i) `[rows, length]`, asked for in order.

    params: to start from; otherwise initial ones of the seed. watch: called with the steps done and the parameters
    every AT_ONCE steps. Runs that differ in seed, steps or rates alone share one program.
    """
    hyper = hyperparameters(train)
    # A copy, because a step writes over what it is given.
    params = _initial(model, jnp.uint32(train.seed)) if params is None else jax.tree.map(jnp.copy, params)
    state = make_optimizer(model, train.optimizer, train.schedule, hyper).init(params)
    for start in range(0, train.steps, AT_ONCE):
        drawn = [feed(step) for step in range(start, min(start + AT_ONCE, train.steps))]
        data = Labelled(*map(np.stack, zip(*drawn, strict=True)))
        params, state = _steps(model, train.optimizer, train.schedule, hyper, params, state, data)
        if watch is not None:
            watch(start + len(drawn), params)
    return params


def learned_each(
    model: ModelConfig, train: TrainConfig, seeds: Sequence[int], feeds: Sequence[Callable[[int], Labelled]]
) -> list[transformer.Params]:
    """As `learned` for each seed with the feed beside it, all in one program: several small models take little longer
    than one. The seed of `train` is not read."""
    hyper = hyperparameters(train)
    params = jax.vmap(partial(_initial, model))(jnp.asarray(seeds, jnp.uint32))
    state = jax.vmap(make_optimizer(model, train.optimizer, train.schedule, hyper).init)(params)
    for start in range(0, train.steps, AT_ONCE):
        steps = range(start, min(start + AT_ONCE, train.steps))
        drawn = [Labelled(*map(np.stack, zip(*map(feed, steps), strict=True))) for feed in feeds]
        data = Labelled(*map(np.stack, zip(*drawn, strict=True)))
        params, state = _steps_each(model, train.optimizer, train.schedule, hyper, params, state, data)
    return [jax.tree.map(lambda x, i=i: x[i], params) for i in range(len(seeds))]


def right(model: ModelConfig, params: transformer.Params, kind: Sequences, rows: int, seed: int) -> np.ndarray:
    """Share of right labels at every place `[length]` float64 of `rows` sequences that were not trained on; NaN where
    none has a label."""
    data = kind.draw(np.random.default_rng(seed + LATE), rows)
    hits = np.asarray(_said(model, params, data.tokens)) == data.labels
    count = data.scored.sum(0)
    return np.where(count, (hits & data.scored).sum(0) / np.maximum(count, 1), np.nan)


def surprise(model: ModelConfig, params: transformer.Params, kind: Sequences, rows: int, seed: int) -> np.ndarray:
    """Mean loss at every place `[length]` float64, in nats, of such sequences; every place must have a label."""
    data = kind.draw(np.random.default_rng(seed + LATE), rows)
    return np.asarray(_losses(model, params, Labelled(*data)), np.float64).mean(0)


def recalled(model: ModelConfig, params: transformer.Params, kind: Sequences, rows: int, seed: int) -> float:
    """Share of all labels that are right."""
    data = kind.draw(np.random.default_rng(seed + LATE), rows)
    return float((np.asarray(_said(model, params, data.tokens)) == data.labels)[data.scored].mean())


def written(model: ModelConfig, params: transformer.Params, tokens: np.ndarray, start: int) -> np.ndarray:
    """What a model says at every place from `start` on `[rows, length - start]`, where it reads what it said itself in
    place of the later tokens `[rows, length]`."""
    given, said = tokens.copy(), []
    for place in range(start, tokens.shape[1]):
        said.append(np.asarray(_said(model, params, given))[:, place])
        if place + 1 < tokens.shape[1]:
            given[:, place + 1] = said[-1]
    return np.stack(said, axis=1)


@partial(jax.jit, static_argnums=0)
def _initial(model: ModelConfig, seed: jax.Array) -> transformer.Params:
    return transformer.init(model, jax.random.key(seed))


def losses(model: ModelConfig, params: transformer.Params, data: Labelled) -> np.ndarray:
    """Nats of every label `[rows, length]` float64; 0 where there is none."""
    return np.asarray(_losses(model, params, Labelled(*data)), np.float64) * data.scored


def ends(
    model: ModelConfig, params: transformer.Params, tokens: np.ndarray, lengths: Sequence[int], rows: int = 256
) -> np.ndarray:
    """Logits after the last token `[rows, vocab]` of sequences `[rows, length]`, filled up in front with token 0 to the
    least of `lengths` that holds them, and read so many rows at once: a program for each of these lengths does."""
    count, length = tokens.shape
    before = min(size for size in lengths if size >= length) - length
    filled = np.pad(tokens, ((0, -count % rows), (before, 0)))
    parts = [np.asarray(_ends(model, params, filled[i : i + rows])) for i in range(0, len(filled), rows)]
    return np.concatenate(parts)[:count]


def said(model: ModelConfig, params: transformer.Params, data: Labelled) -> np.ndarray:
    """The likeliest label of every place `[rows, length]` int32, which reads the tokens as they are."""
    return np.asarray(_said(model, params, data.tokens))


@partial(jax.jit, static_argnums=0)
def _losses(model: ModelConfig, params: transformer.Params, data: Labelled) -> jax.Array:
    logits = transformer.apply(model, params, jnp.asarray(data.tokens)).astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, data.labels)


@partial(jax.jit, static_argnums=0)
def _ends(model: ModelConfig, params: transformer.Params, tokens: np.ndarray) -> jax.Array:
    return transformer.apply(model, params, jnp.asarray(tokens))[:, -1]


@partial(jax.jit, static_argnums=0)
def _said(model: ModelConfig, params: transformer.Params, tokens: jax.Array) -> jax.Array:
    return transformer.apply(model, params, tokens).argmax(-1)


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(4, 5))
def _steps(
    model: ModelConfig, kind: Any, schedule: Any, hyper: Hyperparameters, params: Any, state: Any, data: Labelled
) -> tuple[Any, Any]:
    """(params, the optimiser's state) after one step for each entry of data `[steps, rows, length]`."""
    optimizer = make_optimizer(model, kind, schedule, hyper)

    def loss(params: transformer.Params, batch: Labelled) -> jax.Array:
        return jnp.sum(_losses(model, params, batch) * batch.scored) / batch.scored.sum()

    def step(carry: tuple, batch: Labelled) -> tuple[tuple, None]:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, state), data)[0]


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(4, 5))
def _steps_each(
    model: ModelConfig, kind: Any, schedule: Any, hyper: Hyperparameters, params: Any, state: Any, data: Labelled
) -> tuple[Any, Any]:
    """`_steps` of every entry of params, state and data `[seeds, steps, rows, length]`."""
    return jax.vmap(partial(_steps, model, kind, schedule, hyper))(params, state, data)
