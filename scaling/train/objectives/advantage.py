"""Advantages: how much better a completion is than its group, or a token than what a critic expects."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

AdvantageName = Literal["grpo", "centered", "leave_one_out", "reinforce", "expert", "best", "given"]


def advantages(
    kind: AdvantageName, rewards: jax.Array, kept: jax.Array, *, baseline: float = 0.0, floor: float = 1e-4
) -> jax.Array:
    """A `[groups, n]` float32 of rewards `[groups, n]`; 0 for those that are not `kept`, which no mean counts.

        grpo            (r - mean) / (deviation + floor), deviation with n - 1 (Shao et al. 2024)
        centered        r - mean (Liu et al. 2025): (1 - 1 / n) times the exact gradient in expectation
        leave_one_out   r - mean of the others = (r - mean) n / (n - 1) (Kool et al. 2019): the exact gradient
        reinforce       r - baseline (Williams 1992)
        expert          1 where r > 0: expert iteration, the gradient of log p(right)
        best            the largest reward less the second largest, for the one that has it alone: that of pass@n

    A group of one, or with one that is kept, has A = 0 where others are needed to compare.
    """
    r = jnp.where(kept, rewards, 0).astype(jnp.float32)
    n = kept.sum(1, keepdims=True).astype(jnp.float32)
    off = jnp.where(kept, r - r.sum(1, keepdims=True) / jnp.maximum(n, 1), 0)
    many = n > 1
    if kind == "grpo":
        deviation = jnp.sqrt(jnp.sum(jnp.square(off), 1, keepdims=True) / jnp.maximum(n - 1, 1))
        found = off / (deviation + floor)
    elif kind == "centered":
        found = off
    elif kind == "leave_one_out":
        found = off * n / jnp.maximum(n - 1, 1)
    elif kind == "reinforce":
        return jnp.where(kept, r - baseline, 0)
    elif kind == "expert":
        return jnp.where(kept & (r > 0), 1.0, 0.0)
    else:
        assert kind == "best", kind
        ranked = jnp.sort(jnp.where(kept, r, -jnp.inf), 1)
        lead = (ranked[:, -1:] - ranked[:, -2:-1]) if r.shape[1] > 1 else jnp.zeros_like(n)
        found = jnp.where(kept & (r == ranked[:, -1:]), lead, 0)
    return jnp.where(many & kept, found, 0)


def generalized(
    rewards: jax.Array, values: jax.Array, mask: jax.Array, *, discount: float = 1.0, decay: float = 0.95
) -> jax.Array:
    """Generalised advantage estimates of tokens `[sequences, seq]` (Schulman et al. 2015), float32.

    rewards: of each token. values: what a critic expects before each. What is masked is passed over, and nothing is
    expected after the last token that counts.
    """

    def back(carry: tuple[jax.Array, jax.Array], at: tuple[jax.Array, ...]) -> tuple[tuple, jax.Array]:
        after, value_after = carry
        reward, value, on = at
        here = reward + discount * value_after - value + discount * decay * after
        carry = jnp.where(on > 0, here, after), jnp.where(on > 0, value, value_after)
        return carry, jnp.where(on > 0, here, 0)

    start = jnp.zeros(rewards.shape[0]), jnp.zeros(rewards.shape[0])
    steps = tuple(x.T.astype(jnp.float32) for x in (rewards, values, mask))
    return jax.lax.scan(back, start, steps, reverse=True)[1].T
