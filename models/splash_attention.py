"""Causal attention on TPUs by the Pallas splash kernel: score matrices stay in the chip's vector memory.

A Pallas kernel is opaque to XLA's partitioner, so on a mesh it runs under `shard_map`: each device attends for its own
sequences, its own key-value heads and its own stretch of positions, to keys and values of the whole length.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from models.sharding import DEFAULT_RULES, Rules, axis_size, current_mesh, fitted, free_axes
from models.span import Span

BLOCKS = (512, 256, 128)  # queries, and keys, per step of the kernel: the largest that divides the length
CONTEXT = "context"


class Kernel(NamedTuple):
    """The span of the scores, and whether the kernel is interpreted: slowly, anywhere."""

    span: Span
    interpret: bool = False


def block_size(positions: int) -> int | None:
    """Queries (and keys) that the kernel takes at a time for so many positions of a device; None where it cannot."""
    return next((block for block in BLOCKS if positions % block == 0), None)


def splash_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    span: Span,
    segments: jax.Array | None = None,
    *,
    rules: Rules = DEFAULT_RULES,
    interpret: bool = False,
) -> jax.Array:
    """softmax(scale q.k) v over the keys at or before each query, `[batch, seq, heads, head_dim]` in q's dtype.

    q `[batch, seq, heads, head_dim]`; k, v `[batch, seq, kv_heads, head_dim]`; a device's positions are a multiple of
    128. span (a causal one) and segments as in `models.causal_attention`.
    """
    form = Kernel(span, interpret)
    if current_mesh() is None or not free_axes():
        return _attend(form, _kernel(form, q.shape[1], q.shape[2], 1), q, k, v, segments, segments)
    names = jax.sharding.get_abstract_mesh().axis_names
    taken = tuple(name for name in names if name not in free_axes())
    if not taken:
        return _on_mesh(form, rules, q, k, v, segments)

    def varying(x: jax.Array) -> jax.Array:
        """Results do differ along the axes of the `shard_map` around this one."""
        return jax.lax.pcast(x, taken, to="varying")

    @jax.custom_vjp
    def inside(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None) -> jax.Array:
        return varying(_on_mesh(form, rules, q, k, v, segments))

    def backward(saved: tuple, d_output: jax.Array) -> tuple:
        q, k, v, segments = saved
        return *(varying(x) for x in _on_mesh(form, rules, q, k, v, segments, d_output)), None

    inside.defvjp(lambda *args: (inside(*args), args), backward)
    return inside(q, k, v, segments)


def _on_mesh(
    form: Kernel,
    rules: Rules,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None,
    d_output: jax.Array | None = None,
) -> Any:
    """The output, or with `d_output` the gradients in q, k and v, each device on its own part."""
    mesh = jax.sharding.get_abstract_mesh()
    keys = fitted(rules.spec(("batch", "whole", "kv_heads", "head_dim")), k.shape)
    queries = PartitionSpec(keys[0], rules.length if axis_size(CONTEXT) > 1 else None, *keys[2:])
    local_heads = q.shape[2] // (1 if keys[2] is None else axis_size("tensor"))
    kernel = _kernel(form, q.shape[1], local_heads, axis_size(CONTEXT))
    plain = AbstractMesh(tuple(mesh.shape.values()), mesh.axis_names)  # the question takes no axis split by hand
    kernel_split = kernel.manual_sharding_spec(NamedSharding(plain, PartitionSpec(None, queries[1])))
    ids = (None, None) if segments is None else (PartitionSpec(*queries[:2]), PartitionSpec(keys[0], None))

    def output(kernel: Any, *args: Any) -> jax.Array:
        return _attend(form, kernel, *args)

    def gradients(*args: Any) -> Any:
        # traced for arguments of plain types: a cotangent that varies does not fit a result that does not say so
        jaxpr, shapes = jax.make_jaxpr(partial(_gradients, form), return_shape=True)(*jax.tree.map(_abstract, args))
        return jax.tree.unflatten(jax.tree.structure(shapes), jaxpr_as_fun(jaxpr)(*jax.tree.leaves(args)))

    forward = d_output is None
    in_specs = (kernel_split, queries, keys, keys, *ids) + (() if forward else (queries,))
    run = jax.shard_map(
        output if forward else gradients,
        in_specs=in_specs,
        out_specs=queries if forward else (queries, keys, keys),
        axis_names=set(free_axes()),
        check_vma=False,  # the kernel does not say along which axes its results differ
    )
    return run(kernel, q, k, v, segments, segments, *(() if forward else (d_output,)))


def _gradients(form: Kernel, kernel: Any, q: jax.Array, k: jax.Array, v: jax.Array, *args: Any) -> tuple:
    *ids, d_output = args
    return jax.vjp(lambda q, k, v: _attend(form, kernel, q, k, v, *ids), q, k, v)[1](d_output)


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _kernel(form: Kernel, seq: int, heads: int, shards: int) -> Any:
    """The kernel for a device's heads and sequences of `seq` positions, of which it has 1 / shards."""
    from jax.experimental.pallas.ops.tpu import splash_attention as pallas  # slow to import, and only TPUs need it

    block = block_size(seq // shards)
    assert block and seq % shards == 0, f"no block divides {seq} positions over {shards} devices"
    sizes = pallas.BlockSizes(
        block_q=block, block_kv=block, block_kv_compute=block, block_q_dkv=block, block_kv_dkv=block,
        block_kv_dkv_compute=block, block_q_dq=block, block_kv_dq=block,
    )  # fmt: skip
    shape = (seq, seq)
    mask: Any = pallas.CausalMask(shape, shard_count=shards)
    if form.span.window is not None:
        mask = pallas.LocalMask(shape, (form.span.window - 1, 0), 0, shard_count=shards)
    return pallas.make_splash_mha(
        pallas.MultiHeadMask([mask] * heads),
        block_sizes=sizes,
        attn_logits_soft_cap=form.span.softcap,
        head_shards=1,
        q_seq_shards=shards,
        interpret=form.interpret,
    )


def _attend(
    form: Kernel,
    kernel: Any,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_ids: jax.Array | None,
    key_ids: Any,
) -> jax.Array:
    """The kernel over what one device holds."""
    from jax.experimental.pallas.ops.tpu import splash_attention as pallas

    q = (q.astype(jnp.float32) * form.span.scale).astype(q.dtype)  # the kernel does not scale
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))  # [batch, heads, seq, head_dim]
    ids = None if query_ids is None else pallas.SegmentIds(query_ids, key_ids)
    return jax.vmap(kernel)(q, k, v, ids).swapaxes(1, 2).astype(q.dtype)
