"""The value head: a logistic regression on the policy's own last hidden state, which a search reads for nothing.

It is fitted to samples of the policy itself, each prefix that ends a step being labelled with how its sample ended, so
it estimates the probability that the policy, going on from there, ends right. The fit is convex and has one answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.config import ModelConfig
from models.errors import require
from models.transformer import Params, forward
from search.decoder import ValueHead
from search.engine.precision import running_config, stored_params

RIDGE = 1e-2  # on standardised features, per example: hidden dims are collinear in small policies
STEPS = 30  # Newton converges in about 8; one that does not move any more costs nothing


def fit_value_head(
    model: ModelConfig,
    params: Params,
    texts: Sequence[Sequence[int]],
    labels: Sequence[float],
    *,
    ridge: float = RIDGE,
    batch: int = 64,
) -> ValueHead:
    """A head for `texts` (prompt and prefix, as tokens), each labelled 1 when what followed was right, else 0.

    The feature is the hidden state of a text's last token.

    Raises:
      ConfigError: fewer than two texts, or labels that are all alike.
    """
    check_labels(texts, labels)
    weight, bias, mean = regressed(last_hidden(model, params, texts, batch), labels, ridge)
    return ValueHead(jnp.asarray(weight, jnp.float32), jnp.asarray(bias - weight @ mean, jnp.float32))


def check_labels(texts: Sequence[Sequence[int]], labels: Sequence[float]) -> None:
    """ConfigError unless there is a label for every text, and some differ."""
    require(len(texts) == len(labels), "labels", f"{len(labels)} for {len(texts)} texts", "give one per text")
    kinds = {float(label) for label in labels}
    require(len(kinds) > 1, "labels", f"are all {kinds or 'absent'}", "sample easier or harder problems")


def regressed(features: np.ndarray, labels: Sequence[float], ridge: float) -> tuple[np.ndarray, float, np.ndarray]:
    """(weight, bias, mean) with logits (features - mean) . weight + bias, fitted to features `[n, d]` standardised."""
    mean, scale = features.mean(0), features.std(0) + 1e-6
    x = np.concatenate([(features - mean) / scale, np.ones((len(features), 1))], axis=1)
    w = logistic(x, np.asarray(labels, float), ridge)
    return w[:-1] / scale, w[-1], mean


def last_hidden(model: ModelConfig, params: Params, texts: Sequence[Sequence[int]], batch: int = 64) -> np.ndarray:
    """Hidden states `[texts, d_model]` float64 after the last token of every text."""
    return in_batches(_hidden, model, params, texts, [0] * len(texts), batch)


def in_batches(
    read: Callable[..., jax.Array],
    model: ModelConfig,
    params: Params,
    texts: Sequence[Sequence[int]],
    starts: Sequence[int],
    batch: int,
) -> np.ndarray:
    """`read(config, weights, tokens, span)` of all texts `[texts, features]` float64, `batch` padded texts at a time.

    tokens `[batch, length]` int32; span `[batch, 2]` int32: a start of each text, and one past its last token.
    """
    config = running_config(model, "float32")
    weights = stored_params(config, params)
    longest, found = max(map(len, texts)), []
    for first in range(0, len(texts), batch):
        part = texts[first : first + batch]
        tokens, span = np.zeros((batch, longest), np.int32), np.ones((batch, 2), np.int32)
        for i, text in enumerate(part):
            tokens[i, : len(text)], span[i] = text, (starts[first + i], len(text))
        found.append(np.asarray(read(config, weights, tokens, span))[: len(part)])
    return np.concatenate(found).astype(np.float64)


@partial(jax.jit, static_argnums=0)
def _hidden(config: ModelConfig, params: Params, tokens: Any, span: Any) -> jax.Array:
    """The hidden state after every text, `[batch, d_model]` float32; see `in_batches`."""
    return hidden_after(config, params, tokens, span[:, 1])


def hidden_after(config: ModelConfig, params: Params, tokens: Any, length: Any) -> jax.Array:
    """The hidden state after the first `length` `[batch]` tokens of every text, `[batch, d_model]` float32."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden = forward(config, params, tokens, positions).hidden
    return jnp.take_along_axis(hidden, length[:, None, None] - 1, 1)[:, 0].astype(jnp.float32)


def logistic(x: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
    """Ridge logistic regression by Newton's method; x `[n, d + 1]` with a last column of ones, which is not shrunk."""
    penalty = ridge * len(x) * np.append(np.ones(x.shape[1] - 1), 0)
    w = np.zeros(x.shape[1])
    w[-1] = np.log(y.mean() / (1 - y.mean())) if 0 < y.mean() < 1 else 0.0
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        gradient = x.T @ (p - y) + penalty * w
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.diag(penalty + 1e-9)
        step = np.linalg.solve(hessian, gradient)
        w -= step * min(1.0, 4.0 / max(np.abs(x @ step).max(), 1e-12))  # no logit moves by more than 4 at once
        if np.abs(step).max() < 1e-8:
            break
    return w
