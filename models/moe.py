"""Mixture of experts in place of the feed-forward block: a router, `top_k` experts for every token, shared experts.

Two blocks compute the same thing as long as no token is dropped:

capacity   every expert has a fixed number of slots per stretch of tokens, and two products with a one-hot mask carry
           tokens in and out (GShard, Lepikhin et al. 2021; Switch, Fedus et al. 2022). Earlier choices go first, then
           earlier tokens; what finds no slot passes the block by. On a mesh the slots change hands in one all-to-all.
dropless   tokens are sorted by expert and multiplied in ragged groups (MegaBlocks, Gale et al. 2023). On a mesh the
           devices along `expert` gather each other's tokens and keep those of their own experts.

Stretches and both router losses belong to one sequence, so nothing depends on the mesh or on micro-batches.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from models.config import ModelConfig, MoEConfig
from models.contraction import PRODUCT, contract
from models.feedforward import nonlinearity
from models.layers import declare, hidden_std
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
    split,
    summable,
    whole,
)
from models.weight import Weight

ROUTING = "routing"  # the linen collection that routers write to
SENT = ("experts", "expert_batch", "length", "slot", "residual")  # slots where their expert is
KEPT = ("expert", "batch", "length", "slot", "residual")  # slots where their tokens are


class Routing(NamedTuple):
    """What routers say about every sequence, float32 `[batch]`.

    penalty: the router losses times their coefficients, summed over layers; added to the mean loss of the sequence.
    balance: the load-balance loss, mean over layers; 1 when every expert gets its even share.
    dropped: share of the (token, choice) pairs that found no slot, mean over layers.
    """

    penalty: jax.Array
    balance: jax.Array
    dropped: jax.Array


class Choice(NamedTuple):
    """Where tokens go: the expert int32 and its weight float32 of every choice, both `[batch, seq, top_k]`."""

    expert: jax.Array
    weight: jax.Array


def moe_weights(config: ModelConfig) -> dict[str, Weight]:
    """Declarations of one block of experts; `config` is resolved. Shared experts are one dense block beside them."""
    c, m = config, config.moe
    assert m and m.d_ff
    up_std = hidden_std(c, c.d_model)
    weights = {"router": Weight((c.d_model, m.experts), ("embed", "router"), "matrix", std=up_std)}

    def block(prefix: str, width: int, lead: tuple[int, ...], axes: tuple[str, ...], used: int) -> None:
        gate = ((2,), ("gate",)) if c.gated else ((), ())
        up_shape, up_axes = (*lead, c.d_model, *gate[0], width), (*axes, "embed", *gate[1], "mlp")
        name = "gate_up" if c.gated else "up"
        down_std = hidden_std(c, width) * (2 * c.n_layers) ** -0.5
        weights[prefix + name] = Weight(up_shape, up_axes, "matrix", std=up_std, experts_used=used)
        down_shape, down_axes = (*lead, width, c.d_model), (*axes, "mlp", "embed")
        weights[prefix + "down"] = Weight(down_shape, down_axes, "matrix", std=down_std, experts_used=used)

    block("", m.d_ff, (m.experts,), ("experts",), m.top_k)
    if m.shared:
        block("shared_", m.shared * m.d_ff, (), (), 0)
    return weights


class MoE(nn.Module):
    """x `[batch, seq, d_model]` -> `[batch, seq, d_model]`; writes its `Routing` to the collection ROUTING."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c, m = self.config, self.config.moe
        assert m
        w = declare(self, moe_weights(c), c)
        x = whole(x)
        logits = contract(x.astype(jnp.float32), w["router"].astype(jnp.float32))
        choice, scores = choose(m, logits)
        up, down = w["gate_up" if c.gated else "up"], w["down"]
        if m.dispatch == "capacity":
            out, dropped = capacity_block(c, x, choice, up, down)
        else:
            out, dropped = dropless_block(c, x, choice, up, down), jnp.zeros(x.shape[0])
        if m.shared:
            out = out + contract(_activated(c, contract(x, w["shared_gate_up" if c.gated else "shared_up"])),
                                 w["shared_down"])  # fmt: skip
        balance = load_balance(m, choice, scores)
        penalty = m.balance_coefficient * balance + m.z_coefficient * z_loss(logits)
        for name, value in Routing(penalty, balance, dropped)._asdict().items():
            self.sow(ROUTING, name, value, reduce_fn=lambda _, new: new, init_fn=lambda: None)
        return split(out)


def collect(routing: Any) -> Routing:
    """The `Routing` of a model from the collection ROUTING: leaves `[batch]`, or `[layers, batch]` where scanned."""
    found: dict[str, list[jax.Array]] = {name: [] for name in Routing._fields}
    for path, leaf in jax.tree_util.tree_leaves_with_path(routing):
        found[path[-1].key].append(leaf.reshape(-1, leaf.shape[-1]))
    layers = {name: jnp.concatenate(leaves) for name, leaves in found.items()}
    return Routing(layers["penalty"].sum(0), layers["balance"].mean(0), layers["dropped"].mean(0))


# -- routing ------------------------------------------------------------------------------------------------------


def choose(config: MoEConfig, logits: jax.Array) -> tuple[Choice, jax.Array]:
    """(the choices, scores `[batch, seq, experts]` float32 that sum to one) of router logits of that shape, float32."""
    raw = jax.nn.softmax(logits) if config.score == "softmax" else jax.nn.sigmoid(logits)
    open_to = jnp.where(_reachable(config, raw), raw, -1.0)  # scores are positive, so nothing below zero is chosen
    experts, weights = [], []
    for _ in range(config.top_k):  # argmax and masks: what a partitioner splits over any dim, unlike a sort
        best = jnp.argmax(open_to, -1)
        chosen = jax.nn.one_hot(best, config.experts, dtype=bool)
        weights.append(jnp.where(chosen, raw, 0).sum(-1))
        experts.append(best.astype(jnp.int32))
        open_to = jnp.where(chosen, -1.0, open_to)
    weight = jnp.stack(weights, -1)
    if config.normalize:
        weight = weight / weight.sum(-1, keepdims=True)
    return Choice(jnp.stack(experts, -1), config.scale * weight), raw / raw.sum(-1, keepdims=True)


def _reachable(config: MoEConfig, scores: jax.Array) -> jax.Array:
    """Whether each expert is in one of the token's `top_groups` groups, ranked by their best score."""
    if config.top_groups == config.groups:
        return jnp.ones(scores.shape, bool)
    best = jax.lax.stop_gradient(scores).reshape(*scores.shape[:-1], config.groups, -1).max(-1)
    chosen = jnp.zeros(best.shape, bool)
    for _ in range(config.top_groups):
        group = jax.nn.one_hot(jnp.argmax(jnp.where(chosen, -1.0, best), -1), config.groups, dtype=bool)
        chosen = chosen | group
    return jnp.repeat(chosen, config.experts // config.groups, axis=-1)


def load_balance(config: MoEConfig, choice: Choice, scores: jax.Array) -> jax.Array:
    """experts x sum over experts of (share of choices) x (mean score), per sequence `[batch]` (Fedus et al. 2022)."""
    share = jax.nn.one_hot(choice.expert, config.experts).mean((1, 2))
    return config.experts * (share * scores.mean(1)).sum(-1)


def z_loss(logits: jax.Array) -> jax.Array:
    """Mean squared log-sum-exp of the router's logits, per sequence `[batch]` (Zoph et al. 2022)."""
    return jnp.square(jax.nn.logsumexp(logits, axis=-1)).mean(1)


# -- the experts --------------------------------------------------------------------------------------------------


def _activated(config: ModelConfig, y: jax.Array) -> jax.Array:
    """`[..., 2, width]` (gated) or `[..., width]` -> `[..., width]`."""
    act = nonlinearity(config)
    return act(y[..., 0, :]) * y[..., 1, :] if config.gated else act(y)


def capacity(config: MoEConfig, seq: int) -> tuple[int, int]:
    """(tokens per stretch, slots per expert and stretch) for sequences of `seq` tokens."""
    stretches = -(-seq // config.capacity_tokens)
    while seq % stretches:
        stretches += 1
    tokens = seq // stretches
    return tokens, min(tokens, math.ceil(config.top_k * tokens * config.capacity_factor / config.experts))


def capacity_block(
    config: ModelConfig, x: jax.Array, choice: Choice, up: jax.Array, down: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(x `[batch, seq, d_model]` through its experts, share of choices dropped `[batch]`).

    up `[experts, d_model, (2,) width]`, down `[experts, width, d_model]`.
    """
    m, (batch, seq, _) = config.moe, x.shape
    assert m
    tokens, slots = capacity(m, seq)
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
    sums = partial(jnp.einsum, preferred_element_type=jnp.float32)
    sent = sums("bgtec,bgtd->ebgcd", dispatch, x).astype(x.dtype)
    # pinned on both sides of each move, gradients too: else XLA brings the experts' weights to the tokens
    sent = constrain(relayout(constrain(sent, KEPT), SENT, KEPT), SENT)
    y = jax.vmap(contract)(_activated(config, jax.vmap(contract)(sent, up)), down)
    y = constrain(relayout(constrain(y, SENT), KEPT, SENT), KEPT)
    out = sums("bgtec,ebgcd->bgtd", combine.astype(x.dtype), y).astype(x.dtype)
    dropped = (place >= slots).mean((1, 2, 3))
    return out.reshape(batch, seq, -1), dropped


def dropless_block(config: ModelConfig, x: jax.Array, choice: Choice, up: jax.Array, down: jax.Array) -> jax.Array:
    """x `[batch, seq, d_model]` through its experts; weights as for `capacity_block`."""
    specs = _manual_specs(config, x, up)
    if specs is None:
        return _ragged(config, x, choice, up, down, ())
    tokens, up_spec, down_spec, axes = specs

    copies = tuple(axis for entry in tokens for axis in mesh_axes(entry) if axis != "expert")

    def local(x: jax.Array, expert: jax.Array, weight: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
        up, down = (jax.lax.pcast(w, copies, to="varying").astype(x.dtype) for w in (up, down))
        return _ragged(config, x, Choice(expert, weight), up, down, axes)

    up, down = up.astype(jnp.float32), down.astype(jnp.float32)  # so that copies sum their gradients in float32
    return by_hand(local, (x, *choice, up, down), (tokens, tokens, tokens, up_spec, down_spec), tokens, axes)


def _manual_specs(config: ModelConfig, x: jax.Array, up: jax.Array) -> tuple | None:
    """(specs of tokens, up and down; the mesh axes to split by hand), or None where a mesh gives nothing to split."""
    if current_mesh() is None:
        return None
    axes = tuple(axis for axis in free_axes() if axis != "trial")
    tokens = fitted(DEFAULT_RULES.spec(("batch", "length", "residual")), x.shape)
    batch_axes = [axis for axis in mesh_axes(DEFAULT_RULES.batch) if axis in axes and axis_size(axis) > 1]
    if not set(batch_axes) <= set(mesh_axes(tokens[0])):
        return None  # a batch that does not divide: correct on one device, and XLA splits what it can
    middle = ("gate",) if config.gated else ()
    up_spec = fitted(DEFAULT_RULES.used(("experts", "embed", *middle, "mlp")), up.shape)
    return tokens, up_spec, PartitionSpec(up_spec[0], up_spec[-1], None), axes


def _ragged(
    config: ModelConfig, x: jax.Array, choice: Choice, up: jax.Array, down: jax.Array, axes: tuple[str, ...]
) -> jax.Array:
    """One device's share of `dropless_block`; `axes` are those split by hand, none on one device."""
    m = config.moe
    assert m
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
    hidden = _activated(config, _ragged_product(rows[token], up, sizes))
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
