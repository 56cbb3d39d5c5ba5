"""Routing: which experts a token is sent to, with which weights, and what that costs the balance.

Both losses of a router belong to one sequence, so that nothing depends on the mesh or on micro-batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from models.channels.experts import Experts

MESSAGE = 1e-20  # a router's message in a gradient, small enough to vanish in the norm that clipping looks at


class Routing(NamedTuple):
    """What routers say about every sequence, float32 `[batch]`.

    penalty: the router losses times their coefficients, summed over layers; added to the mean loss of the sequence.
    balance: the load-balance loss, mean over layers; 1 when every expert gets its even share.
    dropped: share of the (token, choice) pairs that found no slot (where experts choose: of the tokens that none
        chose), mean over layers.
    peak: load of the busiest expert over the mean load, mean over layers.
    computed: share of the choices that an expert with products serves, mean over layers; free experts have none.
    """

    penalty: jax.Array
    balance: jax.Array
    dropped: jax.Array
    peak: jax.Array
    computed: jax.Array


class Assignment(NamedTuple):
    """Where tokens go: the expert int32 and its weight float32 of every choice, both `[batch, seq, top_k]`.

    Experts beyond the last that has products are free ones (models.channels.free)."""

    expert: jax.Array
    weight: jax.Array


class Slots(NamedTuple):
    """How much of every token each slot reads, and how much of each slot it gets back, float32
    `[batch, stretch, token, expert, slot]`."""

    dispatch: jax.Array
    combine: jax.Array


class Plan(NamedTuple):
    """What a router decides. The rest is float32 `[batch]`, as in `Routing`; dropped counts tokens that no slot reads.

    """

    choice: Assignment | Slots
    penalty: jax.Array
    balance: jax.Array
    peak: jax.Array
    dropped: jax.Array


def collect(routings: Sequence[Routing]) -> Routing:
    """The `Routing` of a model from those of its layers, in order: `[batch]`, or `[layers, batch]` where scanned."""
    layers = Routing(*(jnp.concatenate([x.reshape(-1, x.shape[-1]) for x in xs]) for xs in zip(*routings)))
    return Routing(*(x.mean(0) for x in layers))._replace(penalty=layers.penalty.sum(0))


def choose(config: Experts, logits: jax.Array, bias: jax.Array | None = None) -> tuple[Assignment, jax.Array]:
    """(the choices, scores `[batch, seq, experts]` float32 that sum to one) of router logits of that shape, float32.

    bias `[experts]`: added to the scores for choosing, not for weighing (Wang et al. 2024; DeepSeek-V3).
    """
    raw = jax.nn.softmax(logits) if config.score == "softmax" else jax.nn.sigmoid(logits)
    ranked = raw if bias is None else jax.lax.stop_gradient(raw + bias)
    never = -1.0 if bias is None else -jnp.inf  # scores are positive; with a bias they need not be
    open_to = jnp.where(_reachable(config, ranked), ranked, never)
    experts, weights = [], []
    for _ in range(config.top_k):  # argmax and masks: what a partitioner splits over any dim, unlike a sort
        best = jnp.argmax(open_to, -1)
        chosen = jax.nn.one_hot(best, raw.shape[-1], dtype=bool)
        weights.append(jnp.where(chosen, raw, 0).sum(-1))
        experts.append(best.astype(jnp.int32))
        open_to = jnp.where(chosen, never, open_to)
    weight, expert = jnp.stack(weights, -1), jnp.stack(experts, -1)
    if config.free is not None and config.free.zero:  # whoever shares a token with nothing has it alone
        idle = (expert >= config.experts) & (expert < config.experts + config.free.zero)
        weight = jnp.where(idle, 0, weight)
    if config.normalize:
        weight = weight / jnp.maximum(weight.sum(-1, keepdims=True), 1e-9)
    return Assignment(expert, config.scale * weight), raw / raw.sum(-1, keepdims=True)


def _reachable(config: Experts, scores: jax.Array) -> jax.Array:
    """Whether each expert is in one of the token's `top_groups` groups, ranked by their best or their two best."""
    if config.top_groups == config.groups:
        return jnp.ones(scores.shape, bool)
    grouped = jax.lax.stop_gradient(scores).reshape(*scores.shape[:-1], config.groups, -1)
    best = grouped.max(-1) if config.group_score == "max" else jax.lax.top_k(grouped, 2)[0].sum(-1)
    chosen = jnp.zeros(best.shape, bool)
    for _ in range(config.top_groups):
        group = jax.nn.one_hot(jnp.argmax(jnp.where(chosen, -jnp.inf, best), -1), config.groups, dtype=bool)
        chosen = chosen | group
    return jnp.repeat(chosen, config.experts // config.groups, axis=-1)


def shares(choice: Assignment, experts: int) -> jax.Array:
    """The share of a sequence's choices that each of so many experts gets, `[batch, experts]`."""
    return jax.nn.one_hot(choice.expert, experts).mean((1, 2))


def load_balance(choice: Assignment, scores: jax.Array, counted: jax.Array | float = 1.0) -> jax.Array:
    """experts x sum over experts of (share of choices) x (mean score), per sequence `[batch]` (Fedus et al. 2022).

    counted `[experts]`: how much each expert's term counts (MoE++: less for those that cost nothing)."""
    experts = scores.shape[-1]
    return experts * (counted * shares(choice, experts) * scores.mean(1)).sum(-1)


def z_loss(logits: jax.Array) -> jax.Array:
    """Mean squared log-sum-exp of the router's logits, per sequence `[batch]` (Zoph et al. 2022)."""
    return jnp.square(jax.nn.logsumexp(logits, axis=-1)).mean(1)


@jax.custom_vjp
def messenger(bias: jax.Array, load: jax.Array) -> jax.Array:
    """0, whose gradient in the bias `[experts]` is `load` (a number per expert beyond the mean) times MESSAGE.

    A router's biases follow the load, not the loss. Sent as their gradient, the load is summed over micro-batches,
    devices and stages like any other; the optimiser takes a step of fixed size against its sign.
    """
    return jnp.zeros((), jnp.float32)


def _messenger_forward(bias: jax.Array, load: jax.Array) -> tuple[jax.Array, jax.Array]:
    return messenger(bias, load), load


def _messenger_backward(load: jax.Array, d: jax.Array) -> tuple[jax.Array, Any]:
    return MESSAGE * d * load, jnp.zeros_like(load)


messenger.defvjp(_messenger_forward, _messenger_backward)
