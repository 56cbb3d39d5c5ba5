"""RowsPast: keys and values of which every row has as many as it kept, in one array per layer.

For models that read a sequence beside the search engine, in any steps: what is not kept of new tokens is never a key.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from models import cache
from models.cache import Store
from models.context import Lead
from models.past import Arrays, Past, Read, keys_and_values
from models.span import Span


@dataclass(frozen=True)
class RowsPast(Past):
    """store: what the layer keeps, `[rows, heads, length, features]` each, perhaps in int8. at `[rows, seq]` int32:
    where each new token is written, and how far it sees; `length` for one that is not kept (`places`)."""

    positions: jax.Array
    store: Store
    at: jax.Array

    def attend(
        self, q: jax.Array, new: Arrays, span: Span, read: Read = keys_and_values, lead: Lead | None = None
    ) -> tuple[jax.Array, RowsPast]:  # fmt: skip
        """Over what is kept, the new tokens included; a window counts kept tokens."""
        store = cache.write(self.store, new, cache.write_block, self.at)
        y = over(store, q, self.at, span, read, lead)
        return y, dataclasses.replace(self, store=store)


def over(
    store: Store, q: jax.Array, at: jax.Array, span: Span, read: Read = keys_and_values, lead: Lead | None = None
) -> jax.Array:  # fmt: skip
    """Attention of queries `[rows, seq, heads, key_dim]` at places `at` `[rows, seq]` over what lies in `store`."""
    heads = read(store)[0].shape[1]
    visible = span.visible(at[..., None], jnp.arange(cache.length_of(store)))
    visible = jnp.tile(visible, (1, q.shape[2] // heads, 1))
    part = cache.own_block(cache.split_queries(q, heads), store, visible, span, read)
    return cache.join_queries(cache.finish(cache.with_lead(part, lead, span)), q.shape[1]).astype(q.dtype)


def places(used: jax.Array, kept: jax.Array, length: int) -> jax.Array:
    """Where tokens are written of which `kept` `[rows, seq]` are, behind the `used` `[rows]` ones: int32, `length`
    for those that are not."""
    return jnp.where(kept, used[:, None] + jnp.cumsum(kept, axis=1) - 1, length).astype(jnp.int32)
