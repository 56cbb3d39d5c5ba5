"""Context parallelism: causal attention of sequences whose positions are divided over the mesh axis `context`.

Each device keeps the queries of its own stretch of positions. With n positions per device and p devices:

gather    every device gathers all keys and values once, and their gradients are reduced and scattered back.
ring      keys and values go round, one stretch at a time (Liu et al. 2023, "Ring attention"); partial results merge by
          their log-sum-exp. Memory for keys is that of two stretches, and each transfer can hide behind the products
          on the stretch before. The backward pass, by hand, sends the gradients of a stretch round along with it.

Both cover the whole square of stretches, though half of it is masked: devices late in the order need it all, and the
others would wait for them.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from models.causal_attention import MASKED
from models.platform import target_platform
from models.sharding import axis_size, by_hand, nested_shard_map, summable
from models.span import Span
from models.splash_attention import block_size, splash_attention

CONTEXT = "context"
SCORES = 2**27  # float32 scores that a device holds at once: 0.5 GB
SPLIT = PartitionSpec(None, CONTEXT)  # of what lies as [batch, positions, ...]
SUMS_SPLIT = PartitionSpec(None, None, CONTEXT)  # of what lies as [batch, heads, positions]


class Stretch(NamedTuple):
    """Keys and values `[batch, n, kv_heads, head_dim]` of a stretch of positions, its first position and, where
    sequences hold several documents, their segments `[batch, n]` int32."""

    k: jax.Array
    v: jax.Array
    first: jax.Array
    segments: jax.Array | None


class Lead(NamedTuple):
    """Keys and values k, v `[length, kv_heads, features]` that every token of every row sees besides, from wherever it
    stands and whatever the window: by queries q `[batch, seq, heads, features of k]` that no position has turned."""

    q: jax.Array
    k: jax.Array
    v: jax.Array


def attention_after(
    lead: Lead, q: jax.Array, k: jax.Array, v: jax.Array, span: Span, segments: jax.Array | None = None
) -> jax.Array:
    """`causal_attention` of tokens that also see `lead`; a mesh does not divide their positions."""
    assert axis_size(CONTEXT) == 1, "a lead stands before all positions"
    zero = jnp.zeros((), jnp.int32)
    own = _partial(span, q, zero, segments, Stretch(k, v, zero, segments))
    keys, values = (jnp.broadcast_to(x, (q.shape[0], *x.shape)).astype(q.dtype) for x in lead[1:])
    before = Stretch(keys, values, zero - keys.shape[1], None)  # of no document: visible from all
    seen = _partial(span._replace(window=None), lead.q, zero, None, before)
    return merge(*own, *seen)[0].astype(q.dtype)


def divided_attention(
    kind: Literal["gather", "ring"],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    span: Span,
    segments: jax.Array | None = None,
) -> jax.Array:
    """`causal_attention` of positions that the current mesh divides, by `kind`.

    q `[batch, seq, heads, head_dim]`; k, v `[batch, seq, kv_heads, head_dim]`; segments `[batch, seq]` int32.
    """
    ways = axis_size(CONTEXT)
    alike = q.shape[-1] == v.shape[-1]
    if kind == "gather" and target_platform() == "tpu" and alike and block_size(q.shape[1] // ways):
        return splash_attention(q, k, v, span, segments)
    if kind == "ring":
        return _ring(span, q, k, v, segments)
    return by_hand(partial(_gather, span), (q, k, v, segments), (SPLIT,) * 4, SPLIT, (CONTEXT,))


def _gather(span: Span, q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None) -> jax.Array:
    first = jax.lax.axis_index(CONTEXT) * q.shape[1]
    gather = partial(jax.lax.all_gather, axis_name=CONTEXT, axis=1, tiled=True)
    keys, values = (gather(summable(x)).astype(x.dtype) for x in (k, v))  # their gradients are summed
    stretch = Stretch(keys, values, jnp.zeros_like(first), segments if segments is None else gather(segments))

    @jax.checkpoint  # scores are recomputed rather than kept
    def attend(q: jax.Array, stretch: Stretch) -> jax.Array:
        return _partial(span, q, first, segments, stretch)[0]

    return attend(q, stretch).astype(q.dtype)


# -- ring ---------------------------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ring(span: Span, q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None) -> jax.Array:
    return _forward(span, q, k, v, segments)[0]


def _forward(
    span: Span, q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None
) -> tuple[jax.Array, tuple]:
    run = nested_shard_map(partial(_ring_forward, span), (SPLIT,) * 4, (SPLIT, SUMS_SPLIT), (CONTEXT,))
    output, log_sum = run(q, k, v, segments)
    return output, (q, k, v, segments, output, log_sum)


def _backward(span: Span, saved: tuple, d_output: jax.Array) -> tuple:
    specs = (*(SPLIT,) * 5, SUMS_SPLIT, SPLIT)
    run = nested_shard_map(partial(_ring_backward, span), specs, (SPLIT,) * 3, (CONTEXT,))
    return *run(*saved, d_output), None


_ring.defvjp(_forward, _backward)


def _ring_forward(
    span: Span, q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """(attention of this device's queries, log-sum-exp of their scores)."""
    first = jax.lax.axis_index(CONTEXT) * q.shape[1]
    own = Stretch(k, v, first, segments)

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        output, log_sum, stretch = carry
        stretch = _pass_on(stretch)
        return (*merge(output, log_sum, *_partial(span, q, first, segments, stretch)), stretch), None

    (output, log_sum, _), _ = jax.lax.scan(
        step, (*_partial(span, q, first, segments, own), own), None, length=axis_size(CONTEXT) - 1
    )
    return output.astype(q.dtype), log_sum


def _ring_backward(
    span: Span, q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None, output: jax.Array,
    log_sum: jax.Array, d_output: jax.Array,
) -> tuple[jax.Array, ...]:  # fmt: skip
    """Gradients in this device's q, k and v."""
    own = Stretch(k, v, jax.lax.axis_index(CONTEXT) * q.shape[1], segments)
    d_output = d_output.astype(jnp.float32)
    # sum over head_dim of d_output * output: the part of every score's gradient that softmax subtracts
    delta = (d_output * output.astype(jnp.float32)).sum(-1).swapaxes(1, 2)  # [batch, heads, n]

    zeros = partial(jnp.zeros_like, dtype=jnp.float32)

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        d_q, stretch, d_k, d_v = carry
        added = _partial_backward(span, q, own, stretch, log_sum, delta, d_output)
        stretch, d_k, d_v = _pass_on((stretch, d_k + added[1], d_v + added[2]))
        return (d_q + added[0], stretch, d_k, d_v), None

    start = (zeros(q), own, zeros(k), zeros(v))
    (d_q, _, d_k, d_v), _ = jax.lax.scan(step, start, None, length=axis_size(CONTEXT))
    return d_q.astype(q.dtype), d_k.astype(k.dtype), d_v.astype(v.dtype)


def _pass_on(tree: Any) -> Any:
    """Every device's arrays to the next one."""
    p = axis_size(CONTEXT)
    return jax.tree.map(lambda x: jax.lax.ppermute(x, CONTEXT, [(i, (i + 1) % p) for i in range(p)]), tree)


# -- parts of attention -------------------------------------------------------------------------------------------


def merge(
    output: jax.Array, log_sum: jax.Array, other: jax.Array, other_log_sum: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Attention over two sets of keys from that over each: outputs `[batch, n, heads, head_dim]` and the log-sum-exp of
    their scores `[batch, heads, n]`, float32."""
    total = jnp.logaddexp(log_sum, other_log_sum)
    weight, other_weight = (jnp.exp(part - total).swapaxes(1, 2)[..., None] for part in (log_sum, other_log_sum))
    return weight * output + other_weight * other, total


def block_length(q: jax.Array, keys: int) -> int:
    """Queries taken at a time: the most, of those that divide q's, whose scores stay below SCORES per device."""
    batch, n, heads, _ = q.shape
    mesh = jax.sharding.get_abstract_mesh()  # whose other axes divide batch and heads
    limit = SCORES * (1 if mesh.empty else mesh.size) // axis_size(CONTEXT) // (batch * heads * keys)
    return next(n // blocks for blocks in range(1, n + 1) if n % blocks == 0 and n // blocks <= max(1, limit))


def _in_blocks(n: int, length: int, *args: jax.Array | None) -> tuple:
    """Arrays `[batch, n, ...]` as `[blocks, batch, length, ...]`."""
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(x.shape[0], n // length, length, *x.shape[2:]), 1, 0), args)


def _joined(x: jax.Array) -> jax.Array:
    """`[blocks, batch, length, ...]` -> `[batch, n, ...]`."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])


def _partial(
    span: Span, q: jax.Array, first: jax.Array, segments: jax.Array | None, stretch: Stretch
) -> tuple[jax.Array, jax.Array]:
    """(attention over one stretch `[batch, n, heads, head_dim]`, log-sum-exp of the scores `[batch, heads, n]`),
    float32; where nothing is visible the log-sum-exp is about MASKED, so that merging gives it no weight."""
    n, length = q.shape[1], block_length(q, stretch.k.shape[1])
    if length == n:
        return _partial_block(span, q, first, segments, stretch)
    block = jax.checkpoint(partial(_partial_block, span))

    def step(start: jax.Array, inputs: tuple) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        output, log_sum = block(inputs[0], start, inputs[1], stretch)
        return start + length, (output, log_sum.swapaxes(1, 2))

    _, (output, log_sum) = jax.lax.scan(step, first, _in_blocks(n, length, q, segments))
    return _joined(output), _joined(log_sum).swapaxes(1, 2)


def _partial_block(
    span: Span, q: jax.Array, first: jax.Array, segments: jax.Array | None, stretch: Stretch
) -> tuple[jax.Array, jax.Array]:
    scores = _scores(span, q, first, segments, stretch)
    largest = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    weights = jnp.exp(scores - largest)
    total = weights.sum(-1, keepdims=True)
    v = _repeated(stretch.v, q)
    output = jnp.einsum("bhqk,bkhd->bqhd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return output / total[..., 0].swapaxes(1, 2)[..., None], (largest + jnp.log(total))[..., 0]


def _partial_backward(
    span: Span,
    q: jax.Array,
    own: Stretch,
    stretch: Stretch,
    log_sum: jax.Array,
    delta: jax.Array,
    d_output: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What one stretch adds to the gradients in q, and those of its own k and v; float32."""
    n, length = q.shape[1], block_length(q, stretch.k.shape[1])
    if length == n:
        return _partial_backward_block(span, q, own, stretch, log_sum, delta, d_output)

    def step(carry: tuple, inputs: tuple) -> tuple[tuple, jax.Array]:
        start, d_k, d_v = carry
        q, log_sum, delta, d_output, segments = inputs
        part = own._replace(first=start, segments=segments)
        log_sum, delta = log_sum.swapaxes(1, 2), delta.swapaxes(1, 2)
        added = _partial_backward_block(span, q, part, stretch, log_sum, delta, d_output)
        return (start + length, d_k + added[1], d_v + added[2]), added[0]

    rows = _in_blocks(n, length, q, log_sum.swapaxes(1, 2), delta.swapaxes(1, 2), d_output, own.segments)
    zeros = partial(jnp.zeros_like, dtype=jnp.float32)
    (_, d_k, d_v), d_q = jax.lax.scan(step, (own.first, zeros(stretch.k), zeros(stretch.v)), rows)
    return _joined(d_q), d_k, d_v


def _partial_backward_block(
    span: Span,
    q: jax.Array,
    own: Stretch,
    stretch: Stretch,
    log_sum: jax.Array,
    delta: jax.Array,
    d_output: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    dtype, sums = q.dtype, partial(jnp.einsum, preferred_element_type=jnp.float32)

    def scores_of(q: jax.Array, k: jax.Array) -> jax.Array:
        return _scores(span, q, own.first, own.segments, stretch._replace(k=k))

    scores, vjp = jax.vjp(scores_of, q, stretch.k)
    weights = jnp.exp(scores - log_sum[..., None])
    d_weights = sums("bqhd,bkhd->bhqk", d_output.astype(dtype), _repeated(stretch.v, q))
    d_q, d_k = vjp(weights * (d_weights - delta[..., None]))
    d_v = sums("bhqk,bqhd->bkhd", weights.astype(dtype), d_output.astype(dtype))
    d_v = d_v.reshape(*stretch.v.shape[:3], -1, d_v.shape[-1]).sum(3)
    return d_q.astype(jnp.float32), d_k.astype(jnp.float32), d_v


def _repeated(x: jax.Array, q: jax.Array) -> jax.Array:
    """Keys or values `[batch, n, kv_heads, head_dim]` once for every query head that they serve."""
    return jnp.repeat(x, q.shape[2] // x.shape[2], axis=2)


def _scores(span: Span, q: jax.Array, first: jax.Array, segments: jax.Array | None, stretch: Stretch) -> jax.Array:
    """Masked scores `[batch, heads, queries, keys]` float32 of queries at positions first, first + 1, ..."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, _repeated(stretch.k, q), preferred_element_type=jnp.float32)
    scores = scores * span.scale
    if span.softcap is not None:
        scores = span.softcap * jnp.tanh(scores / span.softcap)
    query = (first + jnp.arange(q.shape[1]))[:, None]
    key = (stretch.first + jnp.arange(stretch.k.shape[1]))[None]
    visible = span.visible(query, key)
    if segments is not None:
        visible = visible & (segments[:, :, None] == stretch.segments[:, None, :])[:, None]  # type: ignore[index]
    return jnp.where(visible, scores, MASKED)
