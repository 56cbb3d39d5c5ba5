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
from typing import TYPE_CHECKING, NamedTuple

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


class Products(NamedTuple):
    """The weights of all experts: up `[experts, sent, (2,) width]`, down `[experts, width, sent]`, and where products
    have biases up_bias `[experts, (2,) width]` and down_bias `[experts, sent]`."""

    up: jax.Array
    down: jax.Array
    up_bias: jax.Array | None = None
    down_bias: jax.Array | None = None


def capacity_block(
    m: Experts, activation: Activation, x: jax.Array, choice: Assignment, w: Products
) -> tuple[jax.Array, jax.Array]:
    """(x `[batch, seq, width of what is sent]` through its experts, share of choices dropped `[batch]`)."""
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
    out = through_slots(activation, x.reshape(batch, seq, -1), Slots(dispatch, combine), w)
    dropped = (place >= slots).mean((1, 2, 3))
    return out, dropped


def through_slots(activation: Activation, x: jax.Array, plan: Slots, w: Products) -> jax.Array:
    """x `[batch, seq, d_model]` through the slots of all experts."""
    shape, sums = x.shape, partial(jnp.einsum, preferred_element_type=jnp.float32)
    x = x.reshape(shape[0], *plan.dispatch.shape[1:3], shape[-1])
    sent = sums("bgtec,bgtd->ebgcd", plan.dispatch.astype(x.dtype), x).astype(x.dtype)
    # pinned on both sides of each move, gradients too: else XLA brings the experts' weights to the tokens
    sent = constrain(relayout(constrain(sent, KEPT), SENT, KEPT), SENT)
    y = _with_bias(jax.vmap(contract)(sent, w.up), w.up_bias)
    y = _with_bias(jax.vmap(contract)(activated(activation, y), w.down), w.down_bias)
    y = constrain(relayout(constrain(y, SENT), KEPT, SENT), KEPT)
    return sums("bgtec,ebgcd->bgtd", plan.combine.astype(x.dtype), y).astype(x.dtype).reshape(shape)


def _with_bias(y: jax.Array, bias: jax.Array | None) -> jax.Array:
    """y `[experts, ..., *out]` and what bias `[experts, *out]` adds."""
    return y if bias is None else y + bias.reshape(len(bias), *(1,) * (y.ndim - bias.ndim), *bias.shape[1:])


def dropless_block(m: Experts, activation: Activation, x: jax.Array, choice: Assignment, w: Products) -> jax.Array:
    """x `[batch, seq, d_model]` through its experts."""
    specs = _manual_specs(x, w)
    if specs is None:
        return _ragged(m, activation, x, choice, w, ())
    tokens, w_specs, axes = specs

    copies = tuple(axis for entry in tokens for axis in mesh_axes(entry) if axis != "expert")

    def local(x: jax.Array, expert: jax.Array, weight: jax.Array, *w: jax.Array) -> jax.Array:
        products = Products(*(jax.lax.pcast(one, copies, to="varying").astype(x.dtype) for one in w))
        return _ragged(m, activation, x, Assignment(expert, weight), products, axes)

    whole = [one.astype(jnp.float32) for one in w if one is not None]  # so that copies sum their gradients in float32
    return by_hand(local, (x, *choice, *whole), (tokens, tokens, tokens, *w_specs[: len(whole)]), tokens, axes)


def _manual_specs(x: jax.Array, w: Products) -> tuple | None:
    """(specs of tokens and of products; the mesh axes to split by hand), or None where a mesh gives nothing to split.

    """
    if current_mesh() is None:
        return None
    axes = tuple(axis for axis in free_axes() if axis != "trial")
    tokens = fitted(DEFAULT_RULES.spec(("batch", "length", "residual")), x.shape)
    batch_axes = [axis for axis in mesh_axes(DEFAULT_RULES.batch) if axis in axes and axis_size(axis) > 1]
    if not set(batch_axes) <= set(mesh_axes(tokens[0])):
        return None  # a batch that does not divide: correct on one device, and XLA splits what it can
    middle = ("gate",) if w.up.ndim == 4 else ()
    experts, sent, *out = fitted(DEFAULT_RULES.used(("experts", "embed", *middle, "mlp")), w.up.shape)
    products = ((experts, sent, *out), (experts, out[-1], None), (experts, *out), (experts, None))
    return tokens, tuple(PartitionSpec(*spec) for spec in products), axes


def _ragged(
    m: Experts,
    activation: Activation,
    x: jax.Array,
    choice: Assignment,
    w: Products,
    axes: tuple[str, ...],
) -> jax.Array:
    """One device's share of `dropless_block`; `axes` are those split by hand, none on one device."""
    dtype, x = x.dtype, summable(x)
    if "tensor" in axes:  # each of these devices has its part of every expert; the gradients in x are summed
        x = jax.lax.pcast(x, ("tensor",), to="varying")
    if "expert" in axes:
        x, choice = jax.tree.map(lambda a: jax.lax.all_gather(a, "expert", axis=0, tiled=True), (x, choice))
    batch, seq, d_model = x.shape
    rows, mine = x.reshape(-1, d_model).astype(dtype), w.up.shape[0]
    first = jax.lax.axis_index("expert") * mine if "expert" in axes else 0
    expert = choice.expert.reshape(-1) - first  # [tokens x top_k]
    expert = jnp.where((expert >= 0) & (expert < mine), expert, mine)  # those of other devices come last
    order = jnp.argsort(expert, stable=True)
    sizes = jax.nn.one_hot(expert, mine, dtype=jnp.int32).sum(0)
    token, here = order // m.top_k, expert[order] < mine
    of = jnp.minimum(expert[order], mine - 1)  # the expert of every row, so far as it is here
    hidden = _ragged_product(rows[token], w.up, sizes)
    hidden = activated(activation, hidden if w.up_bias is None else hidden + w.up_bias[of])
    y = _ragged_product(hidden, w.down, sizes)
    if w.down_bias is not None:  # once, where devices sum their parts of an expert
        y = y + (w.down_bias if "tensor" not in axes else _once(w.down_bias))[of]
    y = jnp.where(here[:, None], y, 0)
    weighted = y.astype(jnp.float32) * choice.weight.reshape(-1)[order][:, None]
    out = jnp.zeros_like(weighted, shape=rows.shape).at[token].add(weighted)
    if "tensor" in axes:
        out = jax.lax.psum(out, "tensor")
    out = out.reshape(batch, seq, d_model)
    if "expert" in axes:
        out = jax.lax.psum_scatter(out, "expert", scatter_dimension=0, tiled=True)
    return out.astype(dtype)


def _once(x: jax.Array) -> jax.Array:
    """x on the first device along `tensor`, zeros on the others."""
    return jnp.where(jax.lax.axis_index("tensor") == 0, x, 0)


def _ragged_product(rows: jax.Array, w: jax.Array, sizes: jax.Array) -> jax.Array:
    """rows `[n, in]`, sorted into groups of `sizes`, each times its own w `[experts, in, *out]`: `[n, *out]`."""
    flat = w.reshape(*w.shape[:2], -1)
    y = jax.lax.ragged_dot(rows, flat, sizes, preferred_element_type=jnp.float32).astype(rows.dtype)
    return checkpoint_name(y, PRODUCT).reshape(-1, *w.shape[2:])
