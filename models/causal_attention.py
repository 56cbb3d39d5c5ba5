"""Causal softmax attention: blocked with a hand-written backward pass on CPUs, the platform's own kernel elsewhere.

The blocked form walks over blocks of queries and touches only the keys that they may see: at 8 blocks 56 % of the
square. Queries, keys and values lie as `[batch, kv_heads, length, head_dim]` inside, so that every product is a plain
batched matrix product; the backward pass recomputes the probabilities from the stored log-sum-exp (Dao et al. 2022).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from models.platform import target_platform
from models.span import Span
from models.splash_attention import block_size, splash_attention

BLOCK = 128  # queries per block: 64 wastes less on the diagonal, but its products run at 85 % of the speed
MAX_BLOCKS = 8  # longer sequences take longer blocks, so that the unrolled program stays small
MASKED = -1e30  # a score that no exponential survives, finite so that MASKED - MASKED is 0
CUDNN_HEAD_DIM = 128  # largest that cuDNN's fused kernel differentiates


def causal_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    span: Span,
    segments: jax.Array | None = None,
) -> jax.Array:
    """softmax(scale q.k) v over the keys that `span` shows each query, `[batch, seq, heads, value_dim]` in q's dtype.

    q `[batch, seq, heads, head_dim]`; k `[batch, seq, kv_heads, head_dim]`, v `[batch, seq, kv_heads, value_dim]`, each
    serving heads / kv_heads adjacent query heads; float32 or bfloat16, accumulated in float32. segments `[batch, seq]`
    int32: a query sees only keys of its own segment.
    """
    span, platform = span.within(q.shape[1]), target_platform()
    alike, features = q.shape[-1] == v.shape[-1], v.shape[-1]
    if not alike and features < q.shape[-1] and platform != "cpu":  # whose kernels take heads of one size
        v = jnp.pad(v, [(0, 0)] * 3 + [(0, q.shape[-1] - features)])
        return causal_attention(q, k, v, span, segments)[..., :features]
    if platform == "tpu" and span.causal and alike and block_size(q.shape[1]):
        return splash_attention(q, k, v, span, segments)
    if span != Span(span.scale):
        return _limited(q, k, v, segments, span)
    if platform == "cpu" or not alike:
        return _blocked(q, k, v, segments, span)
    fused = platform == "gpu" and segments is None and q.dtype == jnp.bfloat16
    fused = fused and q.shape[-1] % 8 == 0 and q.shape[-1] <= CUDNN_HEAD_DIM
    return jax.nn.dot_product_attention(
        q,
        k,
        v,
        mask=None if segments is None else (segments[:, :, None] == segments[:, None, :])[:, None],
        is_causal=True,
        scale=span.scale,
        implementation="cudnn" if fused else "xla",
    )


def _limited(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None,
    span: Span,
) -> jax.Array:
    """Attention of any span, block by block on every platform; JAX differentiates it.

    Each block of queries reads only the keys that one of them may see, and is recomputed in the backward pass.
    """
    seq, dtype = q.shape[1], q.dtype
    q, k, v = _split_groups(q, k.shape[2]), k.swapaxes(1, 2), v.swapaxes(1, 2)
    outputs = []
    for start, stop in blocks(seq):
        first = 0 if span.window is None else max(0, start - span.window + 1)
        last = stop if span.causal else seq if span.window is None else min(seq, stop + span.window - 1)
        keys = slice(first, last)

        @jax.checkpoint
        def block(
            q: jax.Array, k: jax.Array, v: jax.Array, start: int = start, stop: int = stop, keys: slice = keys
        ) -> jax.Array:
            scores = _scores(q, k, segments, start, stop, span, keys)
            weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
            output = _dot(weights.astype(dtype), v[:, :, keys], 3, 2) / weights.sum(-1, keepdims=True)
            return output.astype(dtype).reshape(*q.shape[:3], stop - start, -1)

        outputs.append(block(q, k, v))
    return _join_groups(outputs)


def reference_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    span: Span,
    segments: jax.Array | None = None,
) -> jax.Array:
    """The definition of `causal_attention` in float32, whole score matrix and all: for tests."""
    seq, group = q.shape[1], q.shape[2] // k.shape[2]
    q, k, v = (x.astype(jnp.float32) for x in (q, jnp.repeat(k, group, 2), jnp.repeat(v, group, 2)))
    scores = span.scale * jnp.einsum("bthk,bshk->bhts", q, k, precision="highest")
    back = jnp.arange(seq)[:, None] - jnp.arange(seq)  # by hand, so that this stays an oracle of `Span.visible` too
    visible = back >= 0 if span.causal else jnp.ones((seq, seq), bool)
    if span.window is not None:
        visible &= (back < span.window) & (back > -span.window)
    if span.softcap is not None:
        scores = span.softcap * jnp.tanh(scores / span.softcap)
    if segments is not None:
        visible &= (segments[:, :, None] == segments[:, None, :])[:, None]
    probabilities = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bhts,bshk->bthk", probabilities, v, precision="highest")


class Residuals(NamedTuple):
    """What the backward pass needs: q `[b, g, r, t, k]`, keys and values `[b, g, t, k]`, the output, segments, and the
    log-sum-exp of every block's scores `[b, g, rows, 1]` float32."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    output: jax.Array
    segments: jax.Array | None
    log_sums: list[jax.Array]


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _blocked(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None, span: Span) -> jax.Array:
    return _forward(q, k, v, segments, span)[0]


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None, span: Span
) -> tuple[jax.Array, Residuals]:
    seq, dtype = q.shape[1], q.dtype
    q, k, v = _split_groups(q, k.shape[2]), k.swapaxes(1, 2), v.swapaxes(1, 2)
    outputs, log_sums = [], []
    for start, stop in blocks(seq):
        scores = _scores(q, k, segments, start, stop, span, slice(0, stop))
        largest = scores.max(-1, keepdims=True)
        weights = jnp.exp(scores - largest)
        total = weights.sum(-1, keepdims=True)
        output = _dot(weights.astype(dtype), v[:, :, :stop], 3, 2) / total
        outputs.append(output.astype(dtype).reshape(*q.shape[:3], stop - start, -1))
        log_sums.append(largest + jnp.log(total))
    output = _join_groups(outputs)
    return output, Residuals(q, k, v, output, segments, log_sums)


def _backward(span: Span, saved: Residuals, d_output: jax.Array) -> tuple:
    q, k, v, output, segments, log_sums = saved
    dtype, kv_heads, scale = q.dtype, k.shape[1], span.scale
    ranges = blocks(q.shape[3])
    # sum over head_dim of d_output * output: the part of every score's gradient that softmax subtracts
    delta = jnp.sum(d_output.astype(jnp.float32) * output.astype(jnp.float32), -1, keepdims=True)
    d_output, delta = _split_groups(d_output, kv_heads), _split_groups(delta, kv_heads)
    d_queries: list[jax.Array] = []
    d_keys: list[list[jax.Array]] = [[] for _ in ranges]  # one part from every block of queries that sees the keys
    d_values: list[list[jax.Array]] = [[] for _ in ranges]
    for (start, stop), log_sum in zip(ranges, log_sums, strict=True):
        queries, d_out = _rows(q, start, stop), _rows(d_output, start, stop)
        weights = jnp.exp(_scores(q, k, segments, start, stop, span, slice(0, stop)) - log_sum)
        d_weights = _dot(d_out, v[:, :, :stop], 3, 3)
        d_scores = (weights * (d_weights - _rows(delta, start, stop))).astype(dtype)
        d_query = scale * _dot(d_scores, k[:, :, :stop], 3, 2)
        d_queries.append(d_query.astype(dtype).reshape(*q.shape[:3], stop - start, -1))
        # [b, g, head_dim, keys], the small operand on the left and transposed beforehand: XLA's fast CPU products
        # take no transposed left operand, and without the barrier the transposes would be folded into them.
        queries_t, d_out_t = jax.lax.optimization_barrier((queries.mT, d_out.mT))
        d_key, d_value = scale * _dot(queries_t, d_scores, 3, 2), _dot(d_out_t, weights.astype(dtype), 3, 2)
        for i, (first, last) in enumerate(ranges):
            if first < stop:
                d_keys[i].append(d_key[..., first:last])
                d_values[i].append(d_value[..., first:last])
    d_k, d_v = (jnp.concatenate([sum(parts) for parts in d], -1).transpose(0, 3, 1, 2) for d in (d_keys, d_values))
    return _join_groups(d_queries), d_k.astype(dtype), d_v.astype(dtype), None


_blocked.defvjp(_forward, _backward)


def blocks(seq: int) -> list[tuple[int, int]]:
    """(start, stop) of every block of queries; only the last one may be shorter."""
    size = max(BLOCK, -(-seq // (MAX_BLOCKS * BLOCK)) * BLOCK)
    return [(start, min(start + size, seq)) for start in range(0, seq, size)]


def _scores(
    q: jax.Array,
    k: jax.Array,
    segments: jax.Array | None,
    start: int,
    stop: int,
    span: Span,
    keys: slice,
) -> jax.Array:
    """Masked scaled scores of queries start..stop against some keys: `[b, g, group x queries, keys]` float32."""
    group, n, first, count = q.shape[2], stop - start, keys.start, keys.stop - keys.start
    scores = span.scale * _dot(_rows(q, start, stop), k[:, :, keys], 3, 3)
    if span.softcap is not None:
        scores = span.softcap * jnp.tanh(scores / span.softcap)
    query = start - first + jax.lax.broadcasted_iota(jnp.int32, (group, n, count), 1).reshape(group * n, count)
    visible = span.visible(query, jax.lax.broadcasted_iota(jnp.int32, (group * n, count), 1))
    if segments is not None:
        same = segments[:, start:stop, None] == segments[:, None, keys]  # [b, queries, keys]
        visible = visible & jnp.tile(same, (1, group, 1))[:, None]
    return jnp.where(visible, scores, MASKED)


def _dot(a: jax.Array, b: jax.Array, contract_a: int, contract_b: int) -> jax.Array:
    """Product of `[b, g, m, n]` arrays over one dim each, float32."""
    numbers = (((contract_a,), (contract_b,)), ((0, 1), (0, 1)))
    return jax.lax.dot_general(a, b, numbers, preferred_element_type=jnp.float32)


def _split_groups(x: jax.Array, kv_heads: int) -> jax.Array:
    """`[b, t, heads, k]` -> `[b, kv_heads, group, t, k]`."""
    batch, seq, heads, size = x.shape
    return x.reshape(batch, seq, kv_heads, heads // kv_heads, size).transpose(0, 2, 3, 1, 4)


def _join_groups(parts: list[jax.Array]) -> jax.Array:
    """Blocks `[b, kv_heads, group, n, k]` -> `[b, t, heads, k]`."""
    x = jnp.concatenate(parts, 3).transpose(0, 3, 1, 2, 4)
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _rows(x: jax.Array, start: int, stop: int) -> jax.Array:
    """Queries start..stop of `[b, g, group, t, k]`, the group's heads one after the other: `[b, g, group x n, k]`."""
    x = x[:, :, :, start:stop]
    return x.reshape(*x.shape[:2], -1, x.shape[-1])
