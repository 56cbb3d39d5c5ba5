"""Trains reward models: trunk and head together, on texts with labels at some of their places.

Labels at the end of every step (`process`) make a process reward model, one at the end of the text (`outcome`) an
outcome reward model (Cobbe et al. 2021; Lightman et al. 2023). Both are scored by search.verifiers.reward_model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from models.config import ModelConfig
from models.errors import require
from models.transformer import Params, forward, init
from search.decoder import ValueHead
from search.engine.precision import running_config, stored_params


class Labelled(NamedTuple):
    """A prompt and a completion as tokens, and what is known of it: (length, label) of some of its prefixes, labels in
    [0, 1]."""

    tokens: tuple[int, ...]
    labels: tuple[tuple[int, float], ...]


def outcome(prompt: Sequence[int], completion: Sequence[int], right: float) -> Labelled:
    """A text of which only the end is judged."""
    return Labelled((*prompt, *completion), ((len(prompt) + len(completion), float(right)),))


def process(
    prompt: Sequence[int], completion: Sequence[int], ends: Sequence[int], rewards: Sequence[float]
) -> Labelled:
    """A text of which every step is judged; ends: tokens of the completion at the end of each."""
    labels = tuple((len(prompt) + end, float(r)) for end, r in zip(ends, rewards, strict=True))
    return Labelled((*prompt, *completion), labels)


def train_reward_model(
    model: ModelConfig,
    examples: Sequence[Labelled],
    *,
    params: Params | None = None,
    steps: int = 300,
    batch: int = 64,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> tuple[Params, ValueHead]:
    """(params, head) that minimise the mean cross-entropy, in nats, of the labels under sigmoid(head).

    params: where the trunk starts, such as the policy's; None: fresh ones. AdamW, a tenth of the steps warming up to
    `learning_rate` and a cosine down to 0; batches are drawn with replacement. The same arguments give the same result.

    Raises:
      ConfigError: no examples, an example without labels or with labels outside [0, 1], or of unknown tokens.
    """
    _check(model, examples)
    config = running_config(model, "float32")
    longest = max(len(example.tokens) for example in examples)
    tokens = np.zeros((len(examples), longest), np.int32)
    labels = np.full((len(examples), longest), -1, np.float32)
    for i, example in enumerate(examples):
        tokens[i, : len(example.tokens)] = example.tokens
        for length, label in example.labels:
            labels[i, length - 1] = label
    trunk = stored_params(config, init(model, jax.random.key(seed)) if params is None else params)
    head = ValueHead(jnp.zeros(config.d_model), jnp.float32(0))
    drawn = np.random.default_rng(seed).integers(0, len(examples), (steps, batch))
    return _fit(config, learning_rate, (trunk, head), tokens, labels, drawn)


def _check(model: ModelConfig, examples: Sequence[Labelled]) -> None:
    require(len(examples) > 0, "examples", "are empty", "give labelled texts")
    for i, (tokens, labels) in enumerate(examples):
        inside = all(1 <= length <= len(tokens) and 0 <= label <= 1 for length, label in labels)
        problem = f"number {i} of {len(tokens)} tokens has the labels {labels}"
        require(bool(labels) and inside, "examples", problem, "label prefixes of it with 0 to 1")
        unknown = [t for t in tokens if not 0 <= t < model.vocab_size]
        require(not unknown, "examples", f"hold unknown tokens {unknown[:5]}", f"use 0 to {model.vocab_size - 1}")


@partial(jax.jit, static_argnums=(0, 1))
def _fit(
    config: ModelConfig, rate: float, start: Any, tokens: Any, labels: Any, drawn: Any
) -> tuple[Params, ValueHead]:
    """tokens `[examples, length]` int32; labels the same shape, float32, -1 for none; drawn `[steps, batch]`."""
    steps = len(drawn)
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, max(1, steps // 10), max(2, steps))
    optimizer = optax.adamw(schedule, b2=0.95, weight_decay=0.01)

    def loss(weights: Any, rows: jax.Array) -> jax.Array:
        trunk, head = weights
        text, label = tokens[rows], labels[rows]
        places = jnp.broadcast_to(jnp.arange(text.shape[1]), text.shape)
        hidden = forward(config, trunk, text, places).hidden
        logits = hidden.astype(jnp.float32) @ head.weight + head.bias
        known = label >= 0
        nats = optax.sigmoid_binary_cross_entropy(logits, jnp.maximum(label, 0))
        return jnp.where(known, nats, 0).sum() / known.sum()

    def step(carry: Any, rows: jax.Array) -> tuple[Any, None]:
        weights, state = carry
        updates, state = optimizer.update(jax.grad(loss)(weights, rows), state, weights)
        return (optax.apply_updates(weights, updates), state), None

    return jax.lax.scan(step, (start, optimizer.init(start)), drawn)[0][0]
