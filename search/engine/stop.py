"""Stop sequences: whether the last generated tokens of each row end with one of its sequences, on the device."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from models.errors import require

EMPTY = -1  # in a window: no token yet; in a stop table: this place matches anything
NEVER = -2  # in a stop table: this place matches nothing


def check_stops(
    stops: Sequence[Sequence[int]],
    vocab_size: int,
    max_tokens: int,
    eos: Collection[int] = (),
    allowed: Collection[int] | None = None,
) -> None:
    """Raise ConfigError for a stop sequence that no sample can ever end with."""
    for stop in stops:
        text = f"{tuple(stop)}"
        require(len(stop) > 0, "request.stop", "holds an empty sequence", "remove it")
        unknown = [t for t in stop if not 0 <= t < vocab_size]
        require(not unknown, "request.stop", f"{text} holds unknown tokens {unknown}", f"use 0 to {vocab_size - 1}")
        require(
            len(stop) <= max_tokens,
            "request.stop",
            f"{text} is longer than max_tokens {max_tokens}, so it can never match",
            "raise max_tokens or remove it",
        )
        ended = [t for t in stop[:-1] if t in eos]
        require(
            not ended,
            "request.stop",
            f"{text} can never match: token {ended[:1]} ends the sample before",
            "cut the sequence there or remove it",
        )
        barred = [t for t in stop if allowed is not None and t not in allowed]
        require(
            not barred, "request.stop", f"{text} can never match: tokens {barred} are not allowed", "allow or remove it"
        )


def stack_stops(
    stops: Sequence[Sequence[Sequence[int]]], count: int | None = None, width: int | None = None
) -> np.ndarray:
    """The stop sequences of n rows as `[n, count, width]` int32, right-aligned.

    count, width: room for that many sequences of that length (None: as much as these need, at least 1).
    """
    most = max((len(row) for row in stops), default=0)
    longest = max((len(stop) for row in stops for stop in row), default=0)
    count, width = count or max(most, 1), width or max(longest, 1)
    require(most <= count, "request.stop", f"{most} sequences, room for {count}", "give fewer or raise the room")
    require(
        longest <= width, "request.stop", f"one of {longest} tokens, room for {width}", "shorten it or raise the room"
    )
    table = np.full((len(stops), count, width), NEVER, np.int32)
    for i, row in enumerate(stops):
        for j, stop in enumerate(row):
            table[i, j] = EMPTY
            table[i, j, width - len(stop) :] = stop
    return table


def push(window: jax.Array, token: jax.Array, live: jax.Array | None = None) -> jax.Array:
    """The window `[n, width]` after one more token `[n]`; rows that are not `live` `[n]` bool stay as they are."""
    moved = jnp.concatenate([window[:, 1:], token[:, None].astype(jnp.int32)], axis=1)
    return moved if live is None else jnp.where(live[:, None], moved, window)


def last_tokens(history: jax.Array, length: jax.Array, width: int, first: jax.Array | int = 0) -> jax.Array:
    """The window `[n, width]` at the end of each history `[n, L]`, of which `[first, length)` was generated; `[n]`."""
    at = length[:, None] - width + jnp.arange(width)[None]
    tokens = jnp.take_along_axis(history, jnp.clip(at, 0, history.shape[1] - 1), axis=1)
    return jnp.where(at >= jnp.broadcast_to(jnp.asarray(first), length.shape)[:, None], tokens, EMPTY)


def matched(window: jax.Array, stops: jax.Array) -> jax.Array:
    """Index `[n]` int32 of the first sequence of `stops` `[n, count, width]` that the window ends with; -1 if none."""
    hits = ((stops == EMPTY) | (window[:, None] == stops)).all(-1)
    return jnp.where(hits.any(-1), jnp.argmax(hits, axis=-1), -1).astype(jnp.int32)
