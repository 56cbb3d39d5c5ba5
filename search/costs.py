"""What searches cost, counted on the device: per row while tokens are drawn, and per problem."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Tally(NamedTuple):
    """What every row cost in one token loop, `[problems, width]` int32: each of what it is in `Costs` of the problem.

    So a token adds to rows alone, and what they add up to is found once, after the loop.
    """

    generated: jax.Array
    forced: jax.Array
    contexts: jax.Array
    windowed: jax.Array
    suffix: jax.Array
    steps: jax.Array

    @staticmethod
    def nothing(like: jax.Array) -> Tally:
        """Before the loop, of rows `[problems, width]`."""
        return Tally(*([jnp.zeros_like(like)] * len(Tally._fields)))

    def stepped(self, prompt: jax.Array, own: jax.Array, live: jax.Array, forced: jax.Array, window: int) -> Tally:
        """With one token of the `live` rows more, that attended to `own` keys beside the `prompt` `[problems]`."""
        own = jnp.where(live, own, 0)
        contexts = jnp.where(live, prompt[:, None] + own, 0)
        step = Tally(live & ~forced, live & forced, contexts, jnp.minimum(contexts, window), own, live)
        return jax.tree.map(jnp.add, self, step)


class Costs(NamedTuple):
    """What every problem cost so far, `[problems]` int32.

    generated: tokens drawn, kept or not; forced: tokens that it was made to read; contexts: keys that both attended to,
    summed, windowed: the same in layers with a sliding window; steps: token steps in which any particle ran, so how
    often the prompt was read; suffix: keys of particles' own suffixes read; copied: tokens of caches that clones
    copied; clones: how many did; depth: tokens one after the other; verifier: tokens that the scorer read; scored:
    particles scored; rounds.
    """

    generated: jax.Array
    forced: jax.Array
    contexts: jax.Array
    windowed: jax.Array
    steps: jax.Array
    suffix: jax.Array
    copied: jax.Array
    clones: jax.Array
    depth: jax.Array
    verifier: jax.Array
    scored: jax.Array
    rounds: jax.Array

    def charged(self, tally: Tally, together: bool) -> Costs:
        """With a token loop, in every step of which the row that ran longest ran; `together`: rows read one another, so
        that what they read of each other is read once."""
        spent = {name: x.sum(-1) for name, x in tally._asdict().items()}
        spent["steps"] = spent["depth"] = tally.steps.max(-1)
        if together:
            spent["suffix"] = tally.suffix.max(-1)
        return self._replace(**{name: getattr(self, name) + x for name, x in spent.items()})
