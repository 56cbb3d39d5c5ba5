"""Unembedding and cross-entropy in one: the logits of the whole batch never exist at once.

The loss is a scalar, so its gradient is known up to one factor as soon as the logits are: the differentiated forward
pass computes the gradients of hidden and head chunk by chunk, and the backward pass only scales them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from models.contraction import weight_gradient
from models.platform import on_cpu

CPU_LOGITS = 2**24  # logits held at once: 64 MB
ACCELERATOR_LOGITS = 2**28  # per device: 1 GB


class Chunk(NamedTuple):
    """A stretch of n positions: hidden `[batch, n, d_model]`, targets and weights `[batch, n]`."""

    hidden: jax.Array
    targets: jax.Array
    weights: jax.Array


def cross_entropy(
    hidden: jax.Array, head: jax.Array, targets: jax.Array, weights: jax.Array, *, softcap: float | None = None
) -> tuple[jax.Array, jax.Array]:
    """(sum of weights x -log softmax(hidden @ head)[target] in nats, sum of weights), float32 scalars.

    hidden `[batch, seq, d_model]`; head `[d_model, vocab]` (a tied table `[vocab, d_model]` goes in transposed);
    targets `[batch, seq]` int32, in range; weights `[batch, seq]` float32. Products accumulate in float32.
    softcap c: logits z become c tanh(z / c).
    """
    return _weighted_loss(hidden, head, targets, weights, softcap), weights.sum()


def sharpness(logits: jax.Array, targets: jax.Array, epsilon: float = 5e-4) -> jax.Array:
    """100 (most - loss) / (1 + loss) `[...]` of logits `[..., vocab]` and targets `[...]`: by how many per cent the
    loss may rise where every logit z moves by at most epsilon (|z| + 1) (Keskar et al. 2017, of logits as in Lee et al.
    2024, arXiv:2405.18710). The loss falls with the target's logit and rises with all others, so that its most is at a
    corner of the box that is known."""
    own = jax.nn.one_hot(targets, logits.shape[-1], dtype=bool)
    room = epsilon * (jnp.abs(logits) + 1)

    def loss(z: jax.Array) -> jax.Array:
        return jax.nn.logsumexp(z, axis=-1) - jnp.take_along_axis(z, targets[..., None], axis=-1)[..., 0]

    here = loss(logits)
    return 100 * (loss(logits + jnp.where(own, -room, room)) - here) / (1 + here)


def log_probabilities(
    hidden: jax.Array, head: jax.Array, targets: jax.Array, *, softcap: float | None = None, temperature: float = 1.0
) -> jax.Array:
    """log softmax(logits / temperature)[target] in nats `[batch, seq]` float32, inputs as for `cross_entropy`.

    For losses that are no weighted sum of them. The backward pass makes the logits of a chunk again.
    """
    if temperature != 1:  # c tanh(z / c) / T = c' tanh((z / T) / c') with c' = c / T
        hidden = hidden / jnp.asarray(temperature, hidden.dtype)
        softcap = None if softcap is None else softcap / temperature
    return -_token_losses(hidden, head, targets, softcap)


def log_probabilities_and_entropy(
    hidden: jax.Array, head: jax.Array, targets: jax.Array, *, softcap: float | None = None, temperature: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """`log_probabilities` with the entropy of each distribution in nats, `[batch, seq]` float32 both; one product."""

    @jax.checkpoint  # as there
    def add(none: None, chunk: tuple[jax.Array, jax.Array]) -> tuple[None, tuple[jax.Array, jax.Array]]:
        numbers = (((2,), (0,)), ((), ()))
        logits = jax.lax.dot_general(chunk[0], head, numbers, preferred_element_type=jnp.float32)
        logits = logits if softcap is None else softcap * jnp.tanh(logits / softcap)
        logp = jax.nn.log_softmax(logits / temperature)
        own = jnp.take_along_axis(logp, chunk[1][..., None], -1)[..., 0]
        return none, (own, -jnp.sum(jnp.exp(logp) * logp, -1))

    return over_chunks(add, None, (hidden, targets), head.shape[1])[1]


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _token_losses(hidden: jax.Array, head: jax.Array, targets: jax.Array, softcap: float | None) -> jax.Array:
    whole = Chunk(hidden, targets, jnp.zeros(targets.shape, jnp.float32))
    return over_chunks(lambda none, chunk: (none, _losses(chunk, head, softcap)[0]), None, whole, head.shape[1])[1]


def _token_forward(hidden: jax.Array, head: jax.Array, targets: jax.Array, softcap: float | None) -> tuple[Any, tuple]:
    return _token_losses(hidden, head, targets, softcap), (hidden, head, targets)


def _token_backward(softcap: float | None, residuals: tuple, d_losses: jax.Array) -> tuple:
    hidden, head, targets = residuals
    _, (d_hidden, d_head, _) = _forward(hidden, head, targets, d_losses, softcap)
    return d_hidden, d_head, None


_token_losses.defvjp(_token_forward, _token_backward)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _weighted_loss(
    hidden: jax.Array, head: jax.Array, targets: jax.Array, weights: jax.Array, softcap: float | None
) -> jax.Array:
    def add(total: jax.Array, chunk: Chunk) -> tuple[jax.Array, None]:
        return total + jnp.sum(_losses(chunk, head, softcap)[0] * chunk.weights), None

    return over_chunks(add, jnp.float32(0), Chunk(hidden, targets, weights), head.shape[1])[0]


def _forward(
    hidden: jax.Array, head: jax.Array, targets: jax.Array, weights: jax.Array, softcap: float | None
) -> tuple[jax.Array, tuple]:
    """The loss and its gradients in hidden, head and weights."""

    def add(carry: tuple[jax.Array, jax.Array], chunk: Chunk) -> tuple[tuple, tuple]:
        losses, probabilities, is_target, slope = _losses(chunk, head, softcap)
        d_logits = (probabilities - is_target) * chunk.weights[..., None]
        d_logits = (d_logits if slope is None else d_logits * slope).astype(hidden.dtype)
        numbers = (((2,), (1,)), ((), ()))
        d_hidden = jax.lax.dot_general(d_logits, head, numbers, preferred_element_type=jnp.float32)
        total, d_head = carry
        total = total + jnp.sum(losses * chunk.weights)
        return (total, d_head + weight_gradient(chunk.hidden, d_logits)), (d_hidden.astype(hidden.dtype), losses)

    zero = (jnp.float32(0), jnp.zeros(head.shape, jnp.float32))
    (total, d_head), (d_hidden, losses) = over_chunks(add, zero, Chunk(hidden, targets, weights), head.shape[1])
    return total, (d_hidden, d_head.astype(head.dtype), losses)


def _backward(softcap: float | None, residuals: tuple[jax.Array, jax.Array, jax.Array], d_total: jax.Array) -> tuple:
    d_hidden, d_head, losses = residuals
    scale = d_total.astype(jnp.float32)
    scaled = [(scale * d).astype(d.dtype) for d in (d_hidden, d_head)]
    return *scaled, None, scale * losses


_weighted_loss.defvjp(_forward, _backward)


def _losses(
    chunk: Chunk, head: jax.Array, softcap: float | None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """(losses `[batch, n]` in nats, probabilities `[batch, n, vocab]`, whether that token is the target, the slope of
    the soft-cap there)."""
    numbers = (((2,), (0,)), ((), ()))
    logits = jax.lax.dot_general(chunk.hidden, head, numbers, preferred_element_type=jnp.float32)
    slope = None
    if softcap is not None:
        capped = jnp.tanh(logits / softcap)
        logits, slope = softcap * capped, 1 - jnp.square(capped)
    largest = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    exponentials = jnp.exp(logits - largest)
    total = exponentials.sum(-1, keepdims=True)
    is_target = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2) == chunk.targets[..., None]
    target_logit = jnp.where(is_target, logits, 0).sum(-1)
    return (largest + jnp.log(total))[..., 0] - target_logit, exponentials / total, is_target, slope


def chunk_length(batch: int, seq: int, vocab: int) -> int:
    """Positions per chunk: the fewest equal chunks whose logits stay within the limit for the target platform."""
    limit = CPU_LOGITS if on_cpu() else ACCELERATOR_LOGITS * max(1, jax.sharding.get_abstract_mesh().size)
    chunks = min(seq, -(-batch * seq * vocab // limit))
    return -(-seq // chunks)


def over_chunks(add: Callable[..., Any], start: Any, whole: Any, vocab: int) -> Any:
    """`lax.scan(add, start, chunks)` over stretches of positions, its outputs joined to `[batch, seq, ...]`.

    whole: a pytree of `[batch, seq, ...]`, padded with zeros; vocab: logits that one position makes.
    """
    batch, seq = jax.tree.leaves(whole)[0].shape[:2]
    length = chunk_length(batch, seq, vocab)
    if length == seq:
        return add(start, whole)
    chunks = -(-seq // length)

    def split(x: jax.Array) -> jax.Array:  # padded positions have weight 0
        x = jnp.pad(x, [(0, 0), (0, chunks * length - seq)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(batch, chunks, length, *x.shape[2:]), 1, 0)

    def join(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x, 0, 1).reshape(batch, chunks * length, *x.shape[3:])[:, :seq]

    carry, outputs = jax.lax.scan(add, start, jax.tree.map(split, whole))
    return carry, jax.tree.map(join, outputs)
