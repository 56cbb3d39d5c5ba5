"""Trains reward models: trunk and head together, on texts with labels at some of their places.

Labels at the end of every step (`process`) make a process reward model, one at the end of the text (`outcome`) an
outcome reward model (Cobbe et al. 2021; Lightman et al. 2023). Both are scored by search.verifiers.reward_model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from models.config import ModelConfig
from models.errors import LARGEST_SIZE, require
from models.transformer import Params, forward, init
from scaling.typed import at_most, typed
from search.decoder import ValueHead
from search.engine.precision import running_config, stored_params

CHECKS = 10  # of the loss on held-out texts, evenly over the steps
_AT_ONCE = 256  # held-out texts


@dataclass(frozen=True)
class RewardTraining:
    """How a reward model is trained. held_out: share of the problems whose loss, looked at CHECKS times, decides which
    of the weights on the way are kept; 0 keeps the last ones."""

    steps: int = 300
    batch: int = 64
    learning_rate: float = 3e-3
    held_out: float = 0.0

    def __post_init__(self) -> None:
        typed(self, "study.reward")
        for name in ("steps", "batch"):
            value = getattr(self, name)
            require(value >= 1, f"study.reward.{name}", f"is {value}", "give a positive integer")
        at_most(self, "study.reward", steps=LARGEST_SIZE, batch=LARGEST_SIZE, learning_rate=1e6)
        rate = self.learning_rate
        require(rate > 0, "study.reward.learning_rate", f"is {rate}", "give a positive number")
        require(0 <= self.held_out < 1, "study.reward.held_out", f"is {self.held_out}", "give a share below 1")


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
    training: RewardTraining | None = None,
    *,
    params: Params | None = None,
    held_out: Sequence[Labelled] = (),
    seed: int = 0,
) -> tuple[Params, ValueHead]:
    """(params, head) that minimise the mean cross-entropy, in nats, of the labels under sigmoid(head).

    params: where the trunk starts, such as the policy's; None: fresh ones. AdamW, a tenth of the steps warming up to
    the learning rate and a cosine down to 0; batches are drawn with replacement. held_out: texts of other problems; of
    the weights at CHECKS places those are returned that fit them best. The same arguments give the same result.

    Raises:
      ConfigError: no examples, an example without labels or with labels outside [0, 1], or of unknown tokens.
    """
    how = training or RewardTraining()
    _check(model, [*examples, *held_out])
    require(len(examples) > 0, "examples", "are empty", "give labelled texts")
    config = running_config(model, "float32")
    longest = max(len(example.tokens) for example in (*examples, *held_out))
    texts, others = _arrays(examples, longest), _arrays(held_out, longest)
    trunk = stored_params(config, init(model, jax.random.key(seed)) if params is None else params)
    weights = (trunk, ValueHead(jnp.zeros(config.d_model), jnp.float32(0)))
    state = (weights, _optimizer(how).init(weights))
    drawn = np.random.default_rng(seed).integers(0, len(examples), (how.steps, how.batch))
    least, best = np.inf, weights
    for rows in np.array_split(drawn, min(CHECKS, how.steps) if held_out else 1):
        state = _descend(config, how, state, *texts, rows)
        loss = _loss_on(config, state[0], *others) if held_out else 0.0
        if loss < least:
            least, best = loss, state[0]
    return best


def _arrays(examples: Sequence[Labelled], longest: int) -> tuple[np.ndarray, np.ndarray]:
    """tokens `[examples, longest]` int32; labels the same shape, float32, -1 for none."""
    tokens = np.zeros((len(examples), longest), np.int32)
    labels = np.full((len(examples), longest), -1, np.float32)
    for i, example in enumerate(examples):
        tokens[i, : len(example.tokens)] = example.tokens
        for length, label in example.labels:
            labels[i, length - 1] = label
    return tokens, labels


def _check(model: ModelConfig, examples: Sequence[Labelled]) -> None:
    for i, (tokens, labels) in enumerate(examples):
        inside = all(1 <= length <= len(tokens) and 0 <= label <= 1 for length, label in labels)
        problem = f"number {i} of {len(tokens)} tokens has the labels {labels}"
        require(bool(labels) and inside, "examples", problem, "label prefixes of it with 0 to 1")
        unknown = [t for t in tokens if not 0 <= t < model.vocab_size]
        require(not unknown, "examples", f"hold unknown tokens {unknown[:5]}", f"use 0 to {model.vocab_size - 1}")


def _optimizer(how: RewardTraining) -> optax.GradientTransformation:
    warmup, last = max(1, how.steps // 10), max(2, how.steps)
    schedule = optax.warmup_cosine_decay_schedule(0.0, how.learning_rate, warmup, last)
    return optax.adamw(schedule, b2=0.95, weight_decay=0.01)


def _nats(config: ModelConfig, weights: Any, text: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sum of the cross-entropies of the labels of texts, and how many there are."""
    trunk, head = weights
    places = jnp.broadcast_to(jnp.arange(text.shape[1]), text.shape)
    hidden = forward(config, trunk, text, places).hidden
    logits = hidden.astype(jnp.float32) @ head.weight + head.bias
    known = label >= 0
    nats = optax.sigmoid_binary_cross_entropy(logits, jnp.maximum(label, 0))
    return jnp.where(known, nats, 0).sum(), known.sum()


@partial(jax.jit, static_argnums=(0, 1))
def _descend(config: ModelConfig, how: RewardTraining, state: Any, tokens: Any, labels: Any, drawn: Any) -> Any:
    """(weights, optimiser's state) after a step for every row of drawn `[steps, batch]`."""
    optimizer = _optimizer(how)

    def loss(weights: Any, rows: jax.Array) -> jax.Array:
        total, known = _nats(config, weights, tokens[rows], labels[rows])
        return total / known

    def step(carry: Any, rows: jax.Array) -> tuple[Any, None]:
        weights, state = carry
        updates, state = optimizer.update(jax.grad(loss)(weights, rows), state, weights)
        return (optax.apply_updates(weights, updates), state), None

    return jax.lax.scan(step, state, drawn)[0]


def _loss_on(config: ModelConfig, weights: Any, tokens: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross-entropy, in nats, of all labels."""
    parts = range(0, len(tokens), _AT_ONCE)
    some = jax.jit(_nats, static_argnums=0)
    sums = [some(config, weights, tokens[i : i + _AT_ONCE], labels[i : i + _AT_ONCE]) for i in parts]
    return float(sum(total for total, _ in sums) / sum(known for _, known in sums))
