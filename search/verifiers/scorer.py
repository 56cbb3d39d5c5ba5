"""Scorer: what gives particles their scores on the device, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from search.decoder import Context
from search.population import Population


class Scorer(Protocol):
    """Scores of particles in (0, 1): how likely each is to end well.

    params: a pytree that `score` is given. flops_per_token: of reading one token.
    """

    params: Any
    flops_per_token: float

    def score(self, params: Any, contexts: Any, rows: Population) -> jax.Array:
        """Scores `[problems, particles]` float32."""

    def tokens(self, contexts: Any, rows: Population) -> jax.Array:
        """Tokens that scoring each row reads, `[problems, particles]` int32, the ledger's verifier tokens."""


@runtime_checkable
class Judge(Protocol):
    """A scorer that draws random numbers and only then knows how many tokens it took; it is asked for no `score`."""

    params: Any
    flops_per_token: float

    def tokens(self, contexts: Any, rows: Population) -> jax.Array:
        """The most tokens that judging each row may take, `[problems, particles]` int32; a budget sets them aside."""

    def judge(self, params: Any, contexts: Any, rows: Population, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(scores float32, tokens int32) `[problems, particles]`; keys `[problems, particles, 2]` uint32."""


def whole_texts(contexts: Context, rows: Population, after: Sequence[int] = ()) -> tuple[jax.Array, jax.Array]:
    """Prompt, completion and the tokens `after` of every particle: (tokens `[problems * particles, room]` int32, 0
    behind a text, lengths `[problems * particles]`)."""
    prompts, own = contexts.tokens[:, None], rows.tokens
    behind = jnp.asarray(after, jnp.int32)
    wide = [jnp.broadcast_to(x, (*own.shape[:2], x.shape[-1])) for x in (prompts, own, behind)]
    parts = jnp.concatenate(wide, axis=-1)
    first, second = contexts.length[:, None, None], contexts.length[:, None, None] + rows.length[..., None]
    place = jnp.arange(parts.shape[-1])
    source = (
        place + (place >= first) * (prompts.shape[-1] - first) + (place >= second) * (first + own.shape[-1] - second)
    )
    tokens = jnp.take_along_axis(parts, jnp.minimum(source, parts.shape[-1] - 1), axis=-1)
    length = second + len(behind)
    return jnp.where(place < length, tokens, 0).reshape(-1, parts.shape[-1]), length.reshape(-1)


class Unscored:
    """Every particle scores one half: for searches that never look, as votes do."""

    params: Any = ()
    flops_per_token = 0.0

    def score(self, params: Any, contexts: Any, rows: Population) -> jax.Array:
        """One half."""
        return jnp.full(rows.length.shape, 0.5)

    def tokens(self, contexts: Any, rows: Population) -> jax.Array:
        """None."""
        return jnp.zeros_like(rows.length)


class ValueScorer(Unscored):
    """What the policy's own value head, or a table of exact values, says of the last token: it reads nothing more."""

    def score(self, params: Any, contexts: Any, rows: Population) -> jax.Array:
        """The decoder's value, clipped away from 0 and 1."""
        return jnp.clip(rows.outputs.value, 1e-6, 1 - 1e-6)


class LikelihoodScorer(Unscored):
    """The policy's own mean probability per token, exp(log p / tokens): no verifier at all."""

    def score(self, params: Any, contexts: Any, rows: Population) -> jax.Array:
        """exp of the mean log-probability."""
        written = jnp.arange(rows.tokens.shape[-1]) < rows.length[..., None]
        total = jnp.where(written, rows.logprobs, 0.0).sum(-1)
        return jnp.clip(jnp.exp(total / jnp.maximum(rows.length, 1)), 1e-6, 1 - 1e-6)
