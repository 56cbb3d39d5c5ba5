"""Kernels against the library's alternative, each as a share of its roofline: max(FLOPs / peak, bytes / bandwidth).

Attention: `models.causal_attention`, which chooses the platform's kernel, beside cuDNN's and XLA's own of
`jax.nn.dot_product_attention`. Experts: ragged groups (`jax.lax.ragged_dot`, our dropless form) beside equal groups in
one batched product. Weight-only int8 and int4: our packed products beside bfloat16 weights, at one row and 64.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from accelerator_stages import common
from accelerator_stages.common import Absent, Cases

HEADS, KV_HEADS, HEAD_DIM = 16, 8, 128
ATTENTION = ("ours", "cudnn", "xla")


def cases(stage: str, toy: bool, out: Path) -> Cases:
    """One case for each kernel and size."""
    made: Cases = {}
    for seq in (64,) if toy else (2048, 8192):
        for kernel in ATTENTION:
            for backward in (False, True):
                name = f"attention {kernel}, {seq}, {'backward' if backward else 'forward'}"
                made[name] = partial(attention, kernel, seq, backward, toy)
    for kernel in ("ragged", "equal"):
        made[f"experts {kernel}"] = partial(experts, kernel, toy)
    for rows in (64,) if toy else (1, 64):
        for mode in ("float32", "int8", "int4"):
            label = "bfloat16" if mode == "float32" else mode
            made[f"weights {label}, {rows} rows"] = partial(weight_only, mode, rows, toy)
    return made


def roofline(flops: float, moved: float, seconds: float) -> dict[str, Any]:
    """Seconds, FLOP/s and bytes/s of a kernel, and its share of the time it cannot do without."""
    limits = common.limits()
    least = None
    if limits["peak_flops"]:
        least = max(flops / limits["peak_flops"], moved / limits["bandwidth"])
    reached = None if least is None else round(least / seconds, 4)
    figures = {"flops_per_s": float(f"{flops / seconds:.4g}"), "bytes_per_s": float(f"{moved / seconds:.4g}")}
    return {"us": round(seconds * 1e6, 2), **figures, "roofline_share": reached, **limits}


def attention(kernel: str, seq: int, backward: bool, toy: bool) -> dict[str, Any]:
    """Causal attention in bfloat16; the backward case is forward and backward together."""
    import jax
    import jax.numpy as jnp

    from models.causal_attention import causal_attention
    from models.span import Span

    if kernel == "cudnn" and jax.default_backend() != "gpu":
        raise Absent(f"cuDNN's kernel needs an NVIDIA GPU, this is {jax.default_backend()}")
    heads, kv, dim = (2, 1, 16) if toy else (HEADS, KV_HEADS, HEAD_DIM)
    batch = 1 if toy else max(1, 16_384 // seq)
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (
        jax.random.normal(key, (batch, seq, n, dim), jnp.bfloat16) for key, n in zip(keys, (heads, kv, kv), strict=True)
    )
    library = partial(jax.nn.dot_product_attention, is_causal=True, scale=dim**-0.5, implementation=kernel)
    run: Any = partial(causal_attention, span=Span(dim**-0.5)) if kernel == "ours" else library
    if backward:
        run = jax.grad(lambda q, k, v, f=run: f(q, k, v).astype(jnp.float32).sum(), argnums=(0, 1, 2))
    seconds = common.seconds_per_call(jax.jit(run), q, k, v, calls=2 if toy else 10)
    passes = 3.5 if backward else 1  # two products forward; those again and three more backward (Dao et al. 2022)
    flops = passes * 4 * batch * heads * dim * seq * (seq + 1) / 2
    moved = (2.5 if backward else 1) * (2 * q.nbytes + k.nbytes + v.nbytes)
    return roofline(flops, moved, seconds) | {"batch": batch, "heads": heads, "kv_heads": kv, "head_dim": dim}


def experts(kernel: str, toy: bool) -> dict[str, Any]:
    """One product of every token with its expert's matrix: ragged groups, or as many slots for each expert."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    count, tokens, inputs, outputs = (4, 64, 16, 32) if toy else (8, 16_384, 4096, 14_336)
    draw = jax.random.split(jax.random.key(0))
    w = jax.random.normal(draw[0], (count, inputs, outputs), jnp.bfloat16)
    if kernel == "equal":
        x = jax.random.normal(draw[1], (count, tokens // count, inputs), jnp.bfloat16)
        seconds = common.seconds_per_call(jax.jit(jax.lax.batch_matmul), x, w, calls=2 if toy else 5)
    else:
        share = np.random.default_rng(0).dirichlet(np.full(count, 4.0))
        sizes = np.floor(share * tokens).astype(np.int32)
        sizes[0] += tokens - sizes.sum()
        x = jax.random.normal(draw[1], (tokens, inputs), jnp.bfloat16)
        seconds = common.seconds_per_call(jax.jit(jax.lax.ragged_dot), x, w, jnp.asarray(sizes), calls=2 if toy else 5)
    moved = x.nbytes + w.nbytes + tokens * outputs * 2
    return roofline(2 * tokens * inputs * outputs, moved, seconds) | {"experts": count, "tokens": tokens}


def weight_only(mode: str, rows: int, toy: bool) -> dict[str, Any]:
    """x `[rows, inputs]` bfloat16 times a weight kept in `mode`; bytes are those of the weight as it is kept."""
    import jax
    import jax.numpy as jnp

    from models.contraction import contract
    from models.quantized import quantize_weight

    inputs, outputs = (32, 64) if toy else (4096, 14_336)
    draw = jax.random.split(jax.random.key(0))
    w: Any = jax.random.normal(draw[0], (inputs, outputs), jnp.bfloat16)
    if mode != "float32":
        w = jax.jit(partial(quantize_weight, mode=mode))(w)
    x = jax.random.normal(draw[1], (rows, inputs), jnp.bfloat16)
    seconds = common.seconds_per_call(jax.jit(contract), x, w, calls=2 if toy else 20)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(w))
    return roofline(2 * rows * inputs * outputs, held + x.nbytes + rows * outputs * 2, seconds) | {"weight_bytes": held}
