"""Descent: parameters of any form after steps down any loss, for models with parts that no trial trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import optax


def warmed(steps: int, rate: float = 3e-3) -> optax.GradientTransformation:
    """AdamW with a tenth of the steps to warm up, a cosine to 0 after that, and gradients of norm 1 at most."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 10, steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.95, weight_decay=0.1))


def apart(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same for several runs at once, which lie in the first dim of every array and take no note of each other:
    norms are of a run alone. Their loss is a sum over the runs."""
    return optax.GradientTransformation(jax.vmap(optimizer.init), jax.vmap(optimizer.update))


def descended(
    loss: Callable[..., jax.Array], params: Any, given: Iterable[tuple], optimizer: optax.GradientTransformation
) -> Any:
    """Params after one step for each entry of `given`, the arrays that loss(params, *entry) takes beside them."""

    @jax.jit
    def advance(params: Any, state: Any, entry: tuple) -> tuple[Any, Any]:
        updates, state = optimizer.update(jax.grad(loss)(params, *entry), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for entry in given:
        params, state = advance(params, state, entry)
    return params
