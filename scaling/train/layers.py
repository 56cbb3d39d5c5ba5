"""What each layer does to a token, found by asking its parts: shapes alone, nothing is computed or compiled."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from models import transformer
from models.config import ModelConfig
from models.context import Lead
from models.layer import Layer
from models.past import Arrays, Read, WholeSequence, keys_and_values
from models.span import Span
from models.weight import Weight, map_weights

LENGTH = 64  # tokens of the sequence that is looked at: a multiple of every part's blocks, or shorter than one


@dataclass(frozen=True)
class Widths:
    """Features of one token in one layer, of the whole model.

    heads: that attend. queries: of all of them. keys: keys and values together. hidden: between the two products of
    the channel, over all experts that the token visits, slots that stay empty included.
    """

    heads: int
    queries: int
    keys: int
    hidden: int


@partial(jax.tree_util.register_dataclass, data_fields=["positions", "segments"], meta_fields=["context", "seen"])
@dataclass(frozen=True)
class Watched(WholeSequence):
    """Whole sequences that remember the widths of whatever attended: (heads, queries, keys and values) each."""

    seen: tuple[tuple[int, int, int], ...] = ()

    def attend(
        self, q: jax.Array, new: Arrays, span: Span, read: Read = keys_and_values, lead: Lead | None = None
    ) -> tuple[jax.Array, Watched]:
        """Zeros in the shape of the result."""
        k, v = read(new)
        heads, queries = q.shape[2], q.shape[2] * q.shape[3]
        keys = sum(x.shape[2] * x.shape[3] for x in (k, v))
        y = jnp.zeros((*q.shape[:3], v.shape[-1]), q.dtype)
        return y, replace(self, seen=(*self.seen, (heads, queries, keys)))


@functools.lru_cache(maxsize=1024)
def widths(model: ModelConfig, layer: Layer) -> Widths:
    """The widths of one layer of a resolved model; what does not attend has none of heads, queries and keys."""
    seen = _attended(model, layer)
    heads = sum(one[0] for one in seen)
    queries, keys = (sum(one[i] for one in seen) for i in (1, 2))
    hidden = layer.channel.hidden(model.stream) if layer.channel is not None else 0
    return Widths(heads, queries, keys, hidden)


def _attended(model: ModelConfig, layer: Layer) -> tuple[tuple[int, int, int], ...]:
    def shape(w: Weight) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(w.shape, jnp.float32)

    def look(w: Any, x: jax.Array) -> Any:
        past = Watched(jnp.arange(LENGTH)[None])
        tokens = jnp.zeros((1, LENGTH), jnp.int32)
        entered: Any = model.wired.enter(model.stream, (layer,), x)
        return model.wired.apply(model.stream, layer, w, entered, past, tokens)[1]

    weights = map_weights(shape, transformer.block_weights(model, layer))
    x = jax.ShapeDtypeStruct((1, LENGTH, model.d_model), jnp.dtype(model.dtype))
    return jax.eval_shape(look, weights, x).seen
