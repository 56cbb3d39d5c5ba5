"""Resampling: from log-weights `[n]` of particles to who of them goes on, and the potentials that make the weights."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

Resampling = Literal["systematic", "multinomial"]
Potential = Literal["diff", "max", "add", "rt"]
Reward = Literal["log", "logit", "score"]


def effective_sample_size(log_weight: jax.Array) -> jax.Array:
    """1 / sum of the squared normalised weights, `[]`: from 1 to n."""
    return 1 / jnp.square(jax.nn.softmax(log_weight)).sum()


def log_mean(log_weight: jax.Array) -> jax.Array:
    """Log of the mean weight, `[]`."""
    return jax.nn.logsumexp(log_weight) - jnp.log(len(log_weight))


def at(positions: jax.Array, log_weight: jax.Array) -> jax.Array:
    """The particle at each of `positions` `[m]` in [0, 1) of the cumulative weights: `[m]` int32, none of weight 0."""
    weight = jax.nn.softmax(log_weight)
    cumulative = jnp.cumsum(weight)
    last = len(weight) - 1 - jnp.argmax(weight[::-1] > 0)  # sums that round below 1 must not run past it
    found = jnp.searchsorted(cumulative / cumulative[-1], positions, side="right")
    return jnp.minimum(found, last).astype(jnp.int32)


def systematic(offset: jax.Array | float, log_weight: jax.Array) -> jax.Array:
    """Ancestors `[n]` int32 at n equal distances, from one uniform `offset` in [0, 1); sorted."""
    n = len(log_weight)
    return at((jnp.arange(n) + offset) / n, log_weight)


def resample(key: jax.Array, log_weight: jax.Array, how: Resampling) -> jax.Array:
    """Ancestors `[n]` int32; each particle has n times its weight of them on average."""
    if how == "systematic":
        return systematic(jax.random.uniform(key), log_weight)
    return at(jax.random.uniform(key, log_weight.shape), log_weight)


def arrange(counts: jax.Array) -> jax.Array:
    """Ancestors `[n]` int32 with these `counts` `[n]`, which sum to n: who has any keeps its own place.

    So that only clones are copied.
    """
    n = len(counts)
    free = counts == 0
    clones = jnp.repeat(jnp.arange(n), jnp.maximum(counts - 1, 0), total_repeat_length=n)
    return jnp.where(free, clones[jnp.cumsum(free) - 1], jnp.arange(n))


def in_place(ancestors: jax.Array) -> jax.Array:
    """The same ancestors `[n]` in an order in which survivors keep their places."""
    return arrange(jnp.bincount(ancestors, length=len(ancestors)))


def log_reward(score: jax.Array, kind: Reward) -> jax.Array:
    """What a score in (0, 1) says: its logarithm, its log-odds (clipped 1e-7 from 0 and 1), or itself."""
    if kind == "score":
        return score
    score = jnp.clip(score, 1e-7, 1 - 1e-7)
    return jnp.log(score) if kind == "log" else jnp.log(score) - jnp.log1p(-score)


def log_potentials(reward: jax.Array, kind: Potential, temperature: float) -> jax.Array:
    """Log-potentials of every step from rewards `[..., steps]`; lambda = 1 / temperature (Singhal et al. 2025).

    diff: exp(lambda (r_t - r_{t-1})), with r = 0 before the first; max: exp(lambda max r); add: exp(lambda sum r);
    rt: exp(lambda r_t).
    """
    if kind == "diff":
        first = jnp.zeros_like(reward[..., :1])
        return (reward - jnp.concatenate([first, reward[..., :-1]], -1)) / temperature
    if kind == "max":
        return jax.lax.cummax(reward, axis=reward.ndim - 1) / temperature
    return (jnp.cumsum(reward, -1) if kind == "add" else reward) / temperature
