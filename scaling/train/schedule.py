"""Learning-rate schedules as pure functions of traced inputs, so that runs of different lengths share one program."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from scaling.train.config import Hyperparameters

Schedule = Literal["cosine", "wsd", "constant"]


def learning_rate(schedule: Schedule, step: ArrayLike, hyper: Hyperparameters) -> jax.Array:
    """Rate of the update that follows `step` finished ones, float32 scalar.

    Warm-up is linear and starts above zero, so that no update is wasted: the peak is reached exactly at
    step = warmup_steps. "cosine" (Loshchilov & Hutter 2017) falls from there to the final rate; "wsd" (Hu et al.
    2024) keeps the peak until decay_steps before the end, then falls linearly. Both reach exactly
    final_learning_rate x peak at `steps`, one after the last update, and stay there. "constant" never falls.
    """
    now = jnp.asarray(step, jnp.float32)
    h: Any = jax.tree.map(jnp.float32, hyper)
    warm = jnp.minimum(1.0, (now + 1) / (h.warmup_steps + 1))
    if schedule == "constant":
        return h.learning_rate * warm
    if schedule == "cosine":
        fallen = 0.5 * (1 - jnp.cos(jnp.pi * _progress(now, h.warmup_steps, h.steps)))
    else:
        fallen = _progress(now, h.steps - h.decay_steps, h.steps)
    # 1 - (1 - final) is not final in float32; before the fall the factor is exactly 1, whatever the run's length.
    left = jnp.where(now >= h.steps, h.final_learning_rate, 1 - (1 - h.final_learning_rate) * fallen)
    return h.learning_rate * warm * left


def _progress(now: jax.Array, start: jax.Array, end: jax.Array) -> jax.Array:
    """Share of [start, end] that has passed, in [0, 1]; an empty interval has not begun before its end."""
    return jnp.clip((now - start) / jnp.maximum(end - start, 1), 0, 1)
