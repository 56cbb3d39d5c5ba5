"""Past: what lies before the tokens that a layer reads, and how they join it.

A mixer never sees a cache. It declares what it keeps (models.kept), and its `apply` gets a `Past`, which it asks either
to attend (queries over everything kept so far and the new tokens) or to carry a state through the new tokens; the past
with the new tokens in it is returned, never written in place. Which past it is, whole sequences in training, pages of a
prompt, a slot's own suffix, a tree of guesses, is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from models.causal_attention import causal_attention
from models.context import CONTEXT, Lead, attention_after, divided_attention
from models.kept import Kept
from models.sharding import axis_size
from models.span import Span

Arrays = Mapping[str, Any]  # name -> array of what one layer keeps: as in `Kept`, perhaps quantised
Read = Callable[[Arrays], tuple[Any, Any]]  # what a layer keeps -> its keys and values


class Reach(NamedTuple):
    """Which tokens of a block of `size` belong together; bool, True where they do.

    within `[rows, size, size]`: token i has token j <= i of the same document before it (or is it). before
    `[rows, size]`: the state that came in is of the token's document. after `[rows, size]`: the token is of the
    document that the block ends in, so it enters the state that goes out. kept `[rows]`: so does the state that came
    in. valid `[rows, size]`: the token exists; the others only fill the block, at its end.
    """

    within: jax.Array
    before: jax.Array
    after: jax.Array
    kept: jax.Array
    valid: jax.Array

    @property
    def tokens(self) -> jax.Array:
        """How many tokens of every row exist, `[rows]` int32."""
        return self.valid.sum(-1)


# (state {name: [rows, *shape]}, inputs [rows, size, ...] each, reach) -> (what comes out [rows, size, ...], state)
Step = Callable[[Arrays, Any, Reach], tuple[Any, Arrays]]


def keys_and_values(kept: Arrays) -> tuple[Any, Any]:
    """The `Read` of a layer that keeps arrays called k and v."""
    return kept["k"], kept["v"]


class Past:
    """What one layer reads: the base of every past.

    positions: of the new tokens, `[batch or 1, seq]` int32. keeps: whether new tokens are kept for later; where they
    are not, a mixer may attend to other keys and values than those that it declares.
    """

    positions: jax.Array
    keeps: bool = True

    def attend(
        self, q: jax.Array, new: Arrays, span: Span, read: Read = keys_and_values, lead: Lead | None = None
    ) -> tuple[jax.Array, Past]:
        """(softmax attention of q over what is kept and what is new, the past with the new tokens).

        q `[batch, seq, heads, key_dim]`; new: what the layer keeps of each new token, `[batch, seq, kv_heads, dim]`;
        read: keys and values of it, whose heads each serve heads / kv_heads adjacent query heads. lead: keys and values
        that every query sees besides. The result is `[batch, seq, heads, value_dim]` in q's dtype.
        """
        raise NotImplementedError

    def carry(self, step: Step, inputs: Any, kept: Mapping[str, Kept], size: int) -> tuple[Any, Past]:
        """(what `step` gives for every token `[batch, seq, ...]`, the past with the state after the last).

        inputs: arrays `[batch, seq, ...]`. kept: what `step` carries of the layer's state, all of it per row; a mixer
        that computes between two states asks once for each. size: tokens of the blocks that the sequence is cut into
        where it is long.
        """
        raise NotImplementedError

    def again(self, q: jax.Array, span: Span, kv_heads: int) -> jax.Array:
        """Attention of q `[batch, seq, heads, key_dim]` over the keys and values `[.., kv_heads, ..]` that the last
        layer which attended had, the new tokens' included: of `models.lent.Lent` alone."""
        raise NotImplementedError

    @property
    def memory(self) -> jax.Array:
        """What the last layer with a state read out of it for the new tokens `[batch, seq, features]`: likewise."""
        raise NotImplementedError


@partial(jax.tree_util.register_dataclass, data_fields=["positions", "segments"], meta_fields=["context"])
@dataclass(frozen=True)
class WholeSequence(Past):
    """Whole sequences with nothing before them, as in training; nothing is kept.

    segments `[batch, seq]` int32 or None: tokens of one document see each other only. context: how keys and values
    travel over the mesh axis of that name (models.context).
    """

    positions: jax.Array
    segments: jax.Array | None = None
    context: Literal["gather", "ring"] = "gather"
    keeps = False

    def attend(
        self, q: jax.Array, new: Arrays, span: Span, read: Read = keys_and_values, lead: Lead | None = None
    ) -> tuple[jax.Array, WholeSequence]:  # fmt: skip
        """Attention over the sequence itself."""
        k, v = read(new)
        segments = self.segments
        if span.shift is not None:  # which every kernel knows as documents
            segments, span = side_by_side(span, segments, q.shape[1]), span._replace(shift=None)
            segments = jnp.broadcast_to(segments, q.shape[:2])
        if lead is not None:
            return attention_after(lead, q, k, v, span, segments), self
        ways = axis_size(CONTEXT)
        if ways == 1 or q.shape[1] % ways:  # a length that the mesh does not divide stays whole
            return causal_attention(q, k, v, span, segments), self
        return divided_attention(self.context, q, k, v, span, segments), self

    def carry(self, step: Step, inputs: Any, kept: Mapping[str, Kept], size: int) -> tuple[Any, WholeSequence]:
        """The state starts from zeros at every document."""
        first = jax.tree.leaves(inputs)[0]
        state = zeros(kept, first.shape[0], first.dtype)
        y, _ = carry_blocks(step, state, inputs, size, self.segments)
        return y, self


def side_by_side(span: Span, segments: jax.Array | None, seq: int) -> jax.Array:
    """Segments `[batch or 1, seq]` int32 of which each is what a window that lies beside others has of a document:
    windows count from a document's first token, wherever that stands."""
    assert span.window is not None and span.shift is not None
    at = jnp.arange(seq, dtype=jnp.int32)[None]
    if segments is None:
        return (at + span.shift) // span.window
    begins = jnp.concatenate([jnp.ones_like(segments[:, :1], bool), segments[:, 1:] != segments[:, :-1]], axis=1)
    inside = at - jax.lax.cummax(jnp.where(begins, at, 0), axis=1)
    return jnp.cumsum(begins | ((inside + span.shift) % span.window == 0), axis=1, dtype=jnp.int32)


def zeros(kept: Mapping[str, Kept], rows: int, dtype: Any) -> dict[str, jax.Array]:
    """The state before the first token: `[rows, *shape]` each."""
    return {name: jnp.zeros((rows, *k.shape), jnp.dtype(k.dtype or dtype)) for name, k in kept.items()}


def reach(segments: jax.Array, valid: jax.Array, last: jax.Array) -> tuple[Reach, jax.Array]:
    """(the reach of one block, the document that it ends in) from segments and valid `[rows, size]` and the document
    `last` `[rows]` of the state that comes in. A block without valid tokens leaves the state as it is."""
    size, count = segments.shape[1], valid.sum(-1)
    at_end = jnp.take_along_axis(segments, jnp.maximum(count - 1, 0)[:, None], axis=1)[:, 0]
    ends = jnp.where(count > 0, at_end, last)
    causal = jnp.tril(jnp.ones((size, size), bool))
    within = causal & (segments[:, :, None] == segments[:, None, :]) & valid[:, None, :]
    before = segments == last[:, None]
    return Reach(within, before, (segments == ends[:, None]) & valid, ends == last, valid), ends


def _divided_as(inputs: Any, state: Arrays) -> Arrays:
    """The state, typed as different on every device on which the inputs are, inside of a `shard_map`: a loop wants of
    what it carries one type throughout, and a state of zeros is the same everywhere. Every release of jax spells that
    type otherwise; a choice between zeros has it, and compiles to nothing."""
    known = [x[(0,) * x.ndim] == 0 for x in jax.tree.leaves(inputs)]
    zero = jnp.asarray(sum(jnp.where(yes, 0, 0) for yes in known))
    return jax.tree.map(lambda x: x + zero.astype(x.dtype), state)


def carry_blocks(
    step: Step,
    state: Arrays,
    inputs: Any,
    size: int,
    segments: jax.Array | None = None,
    valid: jax.Array | None = None,
) -> tuple[Any, Arrays]:
    """`step` over a sequence `[rows, seq, ...]` in blocks of `size`, each recomputed in the backward pass, so that only
    the states between blocks are kept for it. valid `[rows, seq]` bool: the tokens that exist, each row's first ones
    (None: all)."""
    rows, seq = jax.tree.leaves(inputs)[0].shape[:2]
    size = min(size, seq)
    blocks = -(-seq // size)
    segments = jnp.zeros((rows, seq), jnp.int32) if segments is None else segments
    last, state = segments[:, 0], _divided_as(inputs, state)

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, blocks * size - seq)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(rows, blocks, size, *x.shape[2:]), 1, 0)

    @jax.checkpoint
    def one(carry: tuple, block: tuple) -> tuple[tuple, Any]:
        state, last = carry
        inputs, segments, valid = block
        reached, last = reach(segments, valid, last)
        y, state = step(state, inputs, reached)
        return (state, last), y

    valid = jnp.ones((rows, seq), bool) if valid is None else valid
    if blocks == 1:  # as a loop of one round it would compile and run for longer
        (state, _), y = one((state, last), (inputs, segments, valid))
        return y, state
    (state, _), y = jax.lax.scan(one, (state, last), jax.tree.map(cut, (inputs, segments, valid)))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(rows, -1, *x.shape[3:])[:, :seq], y), state
