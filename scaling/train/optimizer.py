"""AdamW and Muon as one optax GradientTransformation with traced hyper-parameters.

The update is written out instead of chained from optax's pieces: on a CPU the chain reads every gradient several
times and takes 1.6 to 3 times as long. Here a gradient is read for the norm and for its update.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike

from models.config import ModelConfig
from models.sharding import AXES
from models.transformer import weights
from models.weight import Weight, WeightTree, walk
from scaling.train.config import Hyperparameters
from scaling.train.mup import learning_rate_multiplier
from scaling.train.schedule import Schedule, learning_rate

Path = tuple[str, ...]

# Newton-Schulz coefficients of Jordan et al. 2024: five rounds bring every singular value into about [0.7, 1.2].
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_ROUNDS = 5
MUON_RMS = 0.2  # of an update's elements, about Adam's, so that one learning rate serves both (Liu et al. 2025)
MATRIX_INDEX = frozenset({"layers", "experts", "qkv", "gate"})  # dims that number separate matrices within one weight
WITHIN_TRIAL = tuple(axis for axis in AXES if axis != "trial")


class OptimizerState(NamedTuple):
    """step: int32 scalar, updates done; momentum, variance: float32, structured as the params.

    Under Muon hidden matrices have no variance: their paths are absent from it. Nothing else depends on values.
    """

    step: jax.Array
    momentum: Any
    variance: Any


def make_optimizer(
    model: ModelConfig,
    kind: Literal["adamw", "muon"],
    schedule: Schedule,
    hyper: Hyperparameters,
    trained: WeightTree | None = None,
) -> optax.GradientTransformation:
    """The optimiser of `model`, or of the weights that are `trained`; build it inside the traced step, from traced
    `hyper`.

    With g the gradient clipped to global norm grad_clip (0: not clipped) and all moments in float32:

        AdamW (Loshchilov & Hutter 2019)    m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
                                            u = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)
        Muon (Jordan et al. 2024)           m = momentum m + (1 - momentum) g
                                            u = orthogonalize(momentum m + (1 - momentum) g)     # Nesterov
        both                                w = w - rate (muP multiplier x u + weight_decay x w)

    Muon takes the hidden matrices, AdamW the rest. Decay applies to matrices and an untied head, never to
    embeddings, gains or biases; it is not scaled by muP, so that its time scale does not change with the width.
    """
    declared: dict[Path, Weight] = dict(walk(weights(model) if trained is None else trained))
    hidden = {path for path, weight in declared.items() if kind == "muon" and weight.role == "matrix"}
    multiplier = {path: learning_rate_multiplier(weight, model) for path, weight in declared.items()}

    def init(params: Any) -> OptimizerState:
        shapes = {path: x.shape for path, x in flatten_dict(params).items()}
        momentum = {path: jnp.zeros(shape, jnp.float32) for path, shape in shapes.items()}
        variance = {path: jnp.zeros(shape, jnp.float32) for path, shape in shapes.items() if path not in hidden}
        return OptimizerState(jnp.int32(0), unflatten_dict(momentum), unflatten_dict(variance))

    def update(grads: Any, state: OptimizerState, params: Any = None) -> tuple[Any, OptimizerState]:
        clip = clip_factor(grads, hyper.grad_clip)
        g = {path: clip * x.astype(jnp.float32) for path, x in flatten_dict(grads).items()}
        beta = {path: hyper.momentum if path in hidden else hyper.beta1 for path in g}
        old_m, old_v, w = (flatten_dict(x) for x in (state.momentum, state.variance, params))
        m = {path: beta[path] * old_m[path] + (1 - beta[path]) * g[path] for path in g}
        v = {path: hyper.beta2 * old_v[path] + (1 - hyper.beta2) * jnp.square(g[path]) for path in old_v}

        count = state.step + 1
        direction = _adam(m, v, count, hyper)
        nesterov = {path: beta[path] * m[path] + (1 - beta[path]) * g[path] for path in g if path in hidden}
        direction |= orthogonalize(nesterov, declared, model.dtype)
        rate = learning_rate(schedule, state.step, hyper)
        updates = {path: -rate * multiplier[path] * direction[path] for path in g}
        for path in g:
            if declared[path].role in ("matrix", "head", "conv"):
                updates[path] -= rate * hyper.weight_decay * w[path].astype(jnp.float32)
            elif declared[path].role == "balance":  # its gradient says which way, not how far
                updates[path] = -declared[path].step * jnp.sign(g[path])
        return unflatten_dict(updates), OptimizerState(count, unflatten_dict(m), unflatten_dict(v))

    return optax.GradientTransformation(init, update)


def clip_factor(grads: Any, max_norm: ArrayLike) -> jax.Array:
    """Factor that brings the global norm of `grads` down to `max_norm`; 1 below it, or when max_norm is 0."""
    limit = jnp.asarray(max_norm, jnp.float32)
    norm = optax.tree.norm(jax.tree.map(lambda g: g.astype(jnp.float32), grads))
    return jnp.where((limit > 0) & (norm > limit), limit / norm, 1.0)


def _adam(m: Mapping[Path, Any], v: Mapping[Path, Any], count: jax.Array, hyper: Hyperparameters) -> dict[Path, Any]:
    """Adam's direction for the paths in `v`; bias corrections as scalar factors, not per-element divisions."""
    t = count.astype(jnp.float32)
    correct_m, correct_v = 1 / (1 - hyper.beta1**t), jax.lax.rsqrt(1 - hyper.beta2**t)
    return {path: correct_m * m[path] / (jnp.sqrt(v[path]) * correct_v + hyper.eps) for path in v}


def orthogonalize(updates: Mapping[Path, jax.Array], declared: Mapping[Path, Weight], dtype: str) -> dict[Path, Any]:
    """Every matrix in `updates` with its singular values set to about 1, then scaled to an RMS of MUON_RMS.

    A weight's dims in MATRIX_INDEX number separate matrices `[inputs, outputs]`, flattened from its other dims:
    a fused qkv `[d_model, kv_heads, group + 2, head_dim]` is one matrix `[d_model, kv_heads x head_dim]` for k,
    one for v, and `group` for q. All matrices of one shape, across layers and weights, are orthogonalised as one
    stack in `dtype`; wide and tall ones of equal sides share it, since the transpose commutes.
    """
    stacks: dict[tuple[int, int], list[Path]] = {}
    blocks = {path: _as_matrices(x, declared[path]) for path, x in updates.items()}
    for path, block in blocks.items():
        stacks.setdefault((block.shape[1], block.shape[2]), []).append(path)
    result = {}
    for (rows, columns), paths in stacks.items():
        stack = jnp.concatenate([blocks[path] for path in paths])  # [matrices, rows, columns], rows <= columns
        done = newton_schulz(stack.astype(dtype)).astype(jnp.float32) * (MUON_RMS * math.sqrt(max(rows, columns)))
        ends = list(accumulate(blocks[path].shape[0] for path in paths))
        for path, part in zip(paths, jnp.split(done, ends[:-1]), strict=True):
            result[path] = _from_matrices(part, declared[path])
    return result


def newton_schulz(stack: jax.Array) -> jax.Array:
    """U S V^T -> about U V^T for every matrix of stack `[n, rows, columns]`, rows <= columns; zeros stay zero.

    On a mesh each device takes whole matrices, so that the rounds themselves need no communication.
    """
    n = stack.shape[0]
    x = _reshard(stack, (("fsdp", None, "tensor"), (WITHIN_TRIAL,)))
    x = x / (jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + jnp.asarray(1e-8, x.dtype))
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_ROUNDS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return _reshard(x, (("fsdp", None, "tensor"),))[:n]


def _reshard(stack: jax.Array, specs: tuple[tuple, ...]) -> jax.Array:
    """Split stack `[n, rows, columns]` by each spec in turn, n padded to suit; the identity without a mesh.

    Going through a split that moves one mesh axis at a time lets XLA exchange blocks instead of gathering all.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return stack
    ways = math.prod(mesh.shape[axis] for axis in WITHIN_TRIAL)
    stack = jnp.pad(stack, ((0, -stack.shape[0] % ways), (0, 0), (0, 0)))
    for spec in specs:
        stack = jax.lax.with_sharding_constraint(stack, PartitionSpec(*spec))
    return stack


def _matrix_layout(weight: Weight) -> tuple[list[int], tuple[int, int, int], bool]:
    """Order of dims (matrix index, inputs, outputs), their three sizes, and whether to transpose to rows <= columns."""
    dims = {axis: i for i, axis in enumerate(weight.axes)}
    index = [i for axis, i in dims.items() if axis in MATRIX_INDEX]
    inputs = [dims[axis] for axis in weight.input_axes if axis not in MATRIX_INDEX]
    outputs = [i for i in dims.values() if i not in index + inputs]
    n, rows, columns = (math.prod(weight.shape[i] for i in part) for part in (index, inputs, outputs))
    return index + inputs + outputs, (n, rows, columns), rows > columns


def _as_matrices(x: jax.Array, weight: Weight) -> jax.Array:
    """Weight-shaped x as `[matrices, rows, columns]` with rows <= columns."""
    order, sizes, tall = _matrix_layout(weight)
    matrices = x.transpose(order).reshape(sizes)
    return matrices.mT if tall else matrices


def _from_matrices(matrices: jax.Array, weight: Weight) -> jax.Array:
    """Inverse of `_as_matrices`."""
    order, _, tall = _matrix_layout(weight)
    matrices = matrices.mT if tall else matrices
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return matrices.reshape([weight.shape[i] for i in order]).transpose(inverse)
