"""Dispatch: tokens to their experts and back, in two ways that compute the same as long as no token is dropped.

capacity   every expert has a fixed number of slots per stretch of tokens, and two products with a one-hot mask carry
           tokens in and out (GShard, Lepikhin et al. 2021; Switch, Fedus et al. 2022). Earlier choices go first, then
           earlier tokens; what finds no slot passes the block by. On a mesh the slots change hands in one all-to-all.
dropless   tokens are sorted by expert and multiplied in ragged groups (MegaBlocks, Gale et al. 2023). On a mesh the
           devices along `expert` gather each other's tokens and keep those of their own experts.

A stretch belongs to one sequence, so nothing depends on the mesh or on micro-batches.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from models.activation import activated
from models.contraction import PRODUCT, contract
from models.routing import Assignment, Slots
from models.sharding import (
    DEFAULT_RULES,
    axis_size,
    by_hand,
    constrain,
    current_mesh,
    fitted,
    free_axes,
    mesh_axes,
    relayout,
    summable,
)
from models.stream import Activation

if TYPE_CHECKING:
    from models.channels.experts import Experts

SENT = ("experts", "expert_batch", "length", "slot", "residual")  # slots where their expert is
KEPT = ("expert", "batch", "length", "slot", "residual")  # slots where their tokens are


def capacity_block(
    m: Experts, activation: Activation, x: jax.Array, choice: Assignment, up: jax.Array, down: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(x `[batch, seq, width of what is sent]` through its experts, share of choices dropped `[batch]`).

    up `[experts, sent, (2,) width]`, down `[experts, width, sent]`.
    """
    batch, seq, _ = x.shape
    tokens, slots = m.capacity(seq)
    x, expert, weight = (a.reshape(batch, -1, tokens, a.shape[-1]) for a in (x, *choice))
    chosen = jax.nn.one_hot(expert, m.experts, dtype=jnp.int32)  # [batch, stretch, token, top_k, experts]
    first = chosen.swapaxes(2, 3).reshape(*chosen.shape[:2], -1, m.experts)  # all first choices before any second
    place = (jnp.cumsum(first, 2) - first).reshape(*chosen.shape[:2], m.top_k, tokens, m.experts).swapaxes(2, 3)
    place = (place * chosen).sum(-1)  # [batch, stretch, token, top_k]: choices of the same expert that come before
    dispatch = jnp.zeros((*x.shape[:3], m.experts, slots), x.dtype)
    combine = jnp.zeros(dispatch.shape, jnp.float32)
    for k in range(m.top_k):
        slot = jax.nn.one_hot(place[..., k], slots, dtype=bool)[..., None, :]  # none of them where there is no place
        here = (chosen[..., k, :, None] == 1) & slot
        dispatch = dispatch + here.astype(x.dtype)
        combine = combine + jnp.where(here, weight[..., k, None, None], 0)
    out = through_slots(activation, x.reshape(batch, seq, -1), Slots(dispatch, combine), up, down)
    dropped = (place >= slots).mean((1, 2, 3))
    return out, dropped


def through_slots(activation: Activation, x: jax.Array, plan: Slots, up: jax.Array, down: jax.Array) -> jax.Array:
    """x `[batch, seq, d_model]` through the slots of all experts; weights as for `capacity_block`."""
    shape, sums = x.shape, partial(jnp.einsum, preferred_element_type=jnp.float32)
    x = x.reshape(shape[0], *plan.dispatch.shape[1:3], shape[-1])
    sent = sums("bgtec,bgtd->ebgcd", plan.dispatch.astype(x.dtype), x).astype(x.dtype)
    # pinned on both sides of each move, gradients too: else XLA brings the experts' weights to the tokens
    sent = constrain(relayout(constrain(sent, KEPT), SENT, KEPT), SENT)
    y = jax.vmap(contract)(activated(activation, jax.vmap(contract)(sent, up)), down)
    y = constrain(relayout(constrain(y, SENT), KEPT, SENT), KEPT)
    return sums("bgtec,ebgcd->bgtd", plan.combine.astype(x.dtype), y).astype(x.dtype).reshape(shape)


def dropless_block(
    m: Experts, activation: Activation, x: jax.Array, choice: Assignment, up: jax.Array, down: jax.Array
) -> jax.Array:
    """x `[batch, seq, d_model]` through its experts; weights as for `capacity_block`."""
    specs = _manual_specs(x, up)
    if specs is None:
        return _ragged(m, activation, x, choice, up, down, ())
    tokens, up_spec, down_spec, axes = specs

    copies = tuple(axis for entry in tokens for axis in mesh_axes(entry) if axis != "expert")

    def local(x: jax.Array, expert: jax.Array, weight: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
        up, down = (jax.lax.pcast(w, copies, to="varying").astype(x.dtype) for w in (up, down))
        return _ragged(m, activation, x, Assignment(expert, weight), up, down, axes)

    up, down = up.astype(jnp.float32), down.astype(jnp.float32)  # so that copies sum their gradients in float32
    return by_hand(local, (x, *choice, up, down), (tokens, tokens, tokens, up_spec, down_spec), tokens, axes)


def _manual_specs(x: jax.Array, up: jax.Array) -> tuple | None:
    """(specs of tokens, up and down; the mesh axes to split by hand), or None where a mesh gives nothing to split."""
    if current_mesh() is None:
        return None
    axes = tuple(axis for axis in free_axes() if axis != "trial")
    tokens = fitted(DEFAULT_RULES.spec(("batch", "length", "residual")), x.shape)
    batch_axes = [axis for axis in mesh_axes(DEFAULT_RULES.batch) if axis in axes and axis_size(axis) > 1]
    if not set(batch_axes) <= set(mesh_axes(tokens[0])):
        return None  # a batch that does not divide: correct on one device, and XLA splits what it can
    middle = ("gate",) if up.ndim == 4 else ()
    up_spec = fitted(DEFAULT_RULES.used(("experts", "embed", *middle, "mlp")), up.shape)
    return tokens, up_spec, PartitionSpec(up_spec[0], up_spec[-1], None), axes


def _ragged(
    m: Experts,
    activation: Activation,
    x: jax.Array,
    choice: Assignment,
    up: jax.Array,
    down: jax.Array,
    axes: tuple[str, ...],
) -> jax.Array:
    """One device's share of `dropless_block`; `axes` are those split by hand, none on one device."""
    dtype, x = x.dtype, summable(x)
    if "tensor" in axes:  # each of these devices has its part of every expert; the gradients in x are summed
        x = jax.lax.pcast(x, ("tensor",), to="varying")
    if "expert" in axes:
        x, choice = jax.tree.map(lambda a: jax.lax.all_gather(a, "expert", axis=0, tiled=True), (x, choice))
    batch, seq, d_model = x.shape
    rows, mine = x.reshape(-1, d_model).astype(dtype), up.shape[0]
    first = jax.lax.axis_index("expert") * mine if "expert" in axes else 0
    expert = choice.expert.reshape(-1) - first  # [tokens x top_k]
    expert = jnp.where((expert >= 0) & (expert < mine), expert, mine)  # those of other devices come last
    order = jnp.argsort(expert, stable=True)
    sizes = jax.nn.one_hot(expert, mine, dtype=jnp.int32).sum(0)
    token, here = order // m.top_k, expert[order] < mine
    hidden = activated(activation, _ragged_product(rows[token], up, sizes))
    y = jnp.where(here[:, None], _ragged_product(hidden, down, sizes), 0)
    weighted = y.astype(jnp.float32) * choice.weight.reshape(-1)[order][:, None]
    out = jnp.zeros_like(weighted, shape=rows.shape).at[token].add(weighted)
    if "tensor" in axes:
        out = jax.lax.psum(out, "tensor")
    out = out.reshape(batch, seq, d_model)
    if "expert" in axes:
        out = jax.lax.psum_scatter(out, "expert", scatter_dimension=0, tiled=True)
    return out.astype(dtype)


def _ragged_product(rows: jax.Array, w: jax.Array, sizes: jax.Array) -> jax.Array:
    """rows `[n, in]`, sorted into groups of `sizes`, each times its own w `[experts, in, *out]`: `[n, *out]`."""
    flat = w.reshape(*w.shape[:2], -1)
    y = jax.lax.ragged_dot(rows, flat, sizes, preferred_element_type=jnp.float32).astype(rows.dtype)
    return checkpoint_name(y, PRODUCT).reshape(-1, *w.shape[2:])
