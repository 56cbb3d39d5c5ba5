"""The confidence scorer: the policy's last hidden state, and how likely it found what it wrote, in one regression.

Small policies rarely know from the state after a step that the step was wrong, yet mostly gave the wrong token little
probability when they drew it. Both are there when a particle is scored, so this reads no token and costs nothing. The
probabilities are of untempered sampling; a head fitted at temperature 1 is for searches at temperature 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logit

from models.config import ModelConfig
from models.errors import require
from models.transformer import Params, forward, logits
from search.decoder import ValueHead
from search.population import Population
from search.verifiers.scorer import Unscored
from search.verifiers.value_head import RIDGE, check_labels, in_batches, regressed

STATISTICS = ("least", "mean", "sum")  # of the log-probabilities of what the policy wrote


class Confidence(NamedTuple):
    """A fitted regression: the part that the decoder computes, and weights `[3]` float32 of STATISTICS less `mean`.

    The decoder hands on a probability, which is precise only where it is not close to one: hence the mean.
    """

    head: ValueHead
    weights: jax.Array
    mean: jax.Array

    @classmethod
    def constant(cls, d_model: int, rate: float) -> Confidence:
        """The same score for everything."""
        return cls(ValueHead(jnp.zeros(d_model), jnp.float32(logit(rate))), *jnp.zeros((2, len(STATISTICS))))


class ConfidenceScorer(Unscored):
    """Scores of a fitted `Confidence`, whose head the decoder must have."""

    def __init__(self, confidence: Confidence):
        self.params = confidence.weights, confidence.mean

    def score(self, params: Any, contexts: Any, rows: Population) -> jax.Array:
        """Probability `[problems, particles]` that a particle ends right."""
        value = jnp.clip(rows.outputs.value, 1e-6, 1 - 1e-6)
        written = jnp.arange(rows.tokens.shape[-1]) < rows.length[..., None]
        weights, mean = params
        own = (statistics(rows.logprobs, written) - mean) @ weights
        return jnp.clip(jax.nn.sigmoid(jnp.log(value) - jnp.log1p(-value) + own), 1e-6, 1 - 1e-6)


def statistics(logprobs: jax.Array, written: jax.Array) -> jax.Array:
    """STATISTICS `[..., 3]` of logprobs `[..., tokens]` where `written`; zeros where nothing is."""
    kept = jnp.where(written, logprobs, 0.0)
    total = kept.sum(-1)
    return jnp.stack([kept.min(-1), total / jnp.maximum(written.sum(-1), 1), total], -1)


def fit_confidence(
    model: ModelConfig,
    params: Params,
    texts: Sequence[Sequence[int]],
    prompts: Sequence[int],
    labels: Sequence[float],
    *,
    ridge: float = RIDGE,
    batch: int = 64,
) -> Confidence:
    """The regression for `texts` (prompt and prefix, as tokens), each labelled 1 when what followed was right, else 0.

    prompts: how many tokens of each text are its prompt. The fit is convex and has one answer.

    Raises:
      ConfigError: not one prompt length and label per text, or labels that are all alike.
    """
    check_labels(texts, labels)
    problem = f"{len(prompts)} for {len(texts)} texts"
    require(len(texts) == len(prompts), "prompts", problem, "give one per text")
    weight, bias, mean = regressed(in_batches(_read, model, params, texts, prompts, batch), labels, ridge)
    (hidden, own), (middle, mean) = (np.split(each, [-len(STATISTICS)]) for each in (weight, mean))
    head = ValueHead(jnp.asarray(hidden, jnp.float32), jnp.asarray(bias - hidden @ middle, jnp.float32))
    return Confidence(head, jnp.asarray(own, jnp.float32), jnp.asarray(mean, jnp.float32))


@partial(jax.jit, static_argnums=0)
def _read(config: ModelConfig, params: Params, tokens: Any, span: Any) -> jax.Array:
    """Hidden state after every text, then STATISTICS of it from its start on: `[batch, d_model + 3]` float32."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden, head, *_ = forward(config, params, tokens, positions)
    last = jnp.take_along_axis(hidden, span[:, 1:, None] - 1, 1)[:, 0].astype(jnp.float32)
    after = jax.nn.log_softmax(logits(config, hidden[:, :-1], head).astype(jnp.float32), axis=-1)
    logprobs = jnp.take_along_axis(after, tokens[:, 1:, None], -1)[..., 0]
    written = (positions[:, 1:] >= span[:, :1]) & (positions[:, 1:] < span[:, 1:])
    return jnp.concatenate([last, statistics(logprobs, written)], -1)
