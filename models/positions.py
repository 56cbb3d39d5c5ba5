"""Rotary positions (Su et al. 2021); learned positions are a plain embedding in the transformer."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from models.rotary import RopeScaling


def rotary_angles(
    positions: jax.Array, dim: int, theta: float, scaling: RopeScaling | None = None
) -> tuple[jax.Array, jax.Array]:
    """cos and sin `[..., seq, 1, dim / 2]` float32 for integer positions `[..., seq]` and `dim` rotated dims."""
    exponent = -jnp.arange(0, dim, 2, dtype=jnp.float32) / dim
    gain = 1.0
    if scaling is None:
        frequency = theta**exponent
    elif scaling.kind == "dynamic":
        frequency = dynamic_theta(positions, dim, theta, scaling)[..., None, None, None] ** exponent
    elif scaling.kind == "linear":
        frequency = theta**exponent / scaling.factor
    elif scaling.kind == "llama3":
        frequency = _llama3(theta**exponent, scaling)
    else:
        frequency = _yarn(theta**exponent, dim, theta, scaling)
        default = 0.1 * math.log(scaling.factor) + 1 if scaling.factor > 1 else 1.0
        gain = default if scaling.attention_factor is None else scaling.attention_factor
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return (cos, sin) if gain == 1 else (gain * cos, gain * sin)


def dynamic_theta(positions: jax.Array, dim: int, theta: float, scaling: RopeScaling) -> jax.Array:
    """theta of each row `[...]` float32, raised so that its longest position of `[..., seq]` fits (bloc97 2023)."""
    original = scaling.original_max_seq_len
    assert original
    length = jnp.maximum(positions.max(-1) + 1, original).astype(jnp.float32)
    return theta * (scaling.factor * length / original - (scaling.factor - 1)) ** (dim / (dim - 2))


def _llama3(frequency: jax.Array, scaling: RopeScaling) -> jax.Array:
    """Slow frequencies `[dim / 2]` divided by the factor, fast ones kept, a linear ramp between (Dubey et al. 2024)."""
    assert scaling.original_max_seq_len
    turns = scaling.original_max_seq_len * frequency / (2 * math.pi)  # in the original context
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = jnp.clip(kept, 0, 1)
    return (1 - kept) * frequency / scaling.factor + kept * frequency


def _yarn(frequency: jax.Array, dim: int, theta: float, scaling: RopeScaling) -> jax.Array:
    """A ramp over the dims, from kept to divided by the factor (Peng et al. 2023, section 3.2)."""
    assert scaling.original_max_seq_len
    context = scaling.original_max_seq_len / (2 * math.pi)
    low, high = (
        dim * math.log(context / beta) / (2 * math.log(theta)) for beta in (scaling.beta_fast, scaling.beta_slow)
    )
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    width = high - low if high != low else 0.001
    divided = jnp.clip((jnp.arange(dim // 2, dtype=jnp.float32) - low) / width, 0, 1)
    return divided * frequency / scaling.factor + (1 - divided) * frequency


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array, interleaved: bool = False) -> jax.Array:
    """Rotate the pairs of every head: x `[..., seq, heads, head_dim]`; dims i and i + n / 2 pair (Llama's layout), or
    2i and 2i + 1 where `interleaved` (GPT-J's).

    Where the angles are fewer than head_dim / 2, the first dims rotate and the others stay.
    """
    rotated = 2 * cos.shape[-1]
    if rotated < x.shape[-1]:
        turned = rotate(x[..., :rotated], cos, sin, interleaved)
        return jnp.concatenate([turned, x[..., rotated:]], axis=-1)
    if interleaved:
        pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
        first, second = pairs[..., 0], pairs[..., 1]
        turned = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=-1)
        return turned.reshape(x.shape).astype(x.dtype)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
