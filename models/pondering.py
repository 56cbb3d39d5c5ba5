"""Layers after each of which a token may stop, told when by a head that is trained with them (PALBERT, Balagansky and
Gavrilov 2022; after PonderNet, Banino et al. 2021).

After layer l of L the head reads x_l, the stream as the model's own head reads it there, and halts with

    lambda_l = sigmoid((x_l + code_l) . w + b),    p_l = lambda_l prod_{m < l} (1 - lambda_m),

p_L being what is left, so that the p sum to one. With the cross-entropy CE_l of what the model says after layer l

    loss = sum_l p_l CE_l + beta KL(prior || p),    prior: geometric with `rate`, its tail in the last layer.

PonderNet has the other order, KL(p || prior). A sampled exit draws l from p; the Q-exit is the first l at which
p_1 + .. + p_l reaches q. All are computed with logarithms of p, which may underflow.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models import transformer
from models.config import ModelConfig
from models.errors import require
from models.weight import Weight


class Pondered(NamedTuple):
    """logits `[layers, batch, seq, vocab]` and log_p `[layers, batch, seq]`, float32: what is said after every layer,
    and the log of the probability to stop there."""

    logits: jax.Array
    log_p: jax.Array


def weights(config: ModelConfig) -> dict[str, Weight]:
    """Those of the head: read `[d_model, 1]`, code `[layers, d_model]` and bias `[1]`."""
    c = config.resolved()
    read = Weight((c.d_model, 1), ("embed", "halt"), "matrix", std=c.stream.hidden_std(c.d_model))
    code = Weight((c.n_layers, c.d_model), ("layers", "embed"), "vector")
    return {"read": read, "code": code, "bias": Weight((1,), ("halt",), "vector")}


def init(config: ModelConfig, key: jax.Array) -> dict[str, Any]:
    """Initial parameters: `model`, as of models.transformer, and `halt`."""
    both = {"model": transformer.weights(config.resolved()), "halt": weights(config)}
    return transformer.drawn(config.resolved(), both, key)


def apply(config: ModelConfig, params: dict[str, Any], tokens: jax.Array) -> Pondered:
    """tokens `[batch, seq]`. ConfigError for a model that is scanned, whose layers do not stop one by one."""
    c, w = config.resolved(), params["halt"]
    require(not c.scan_layers, "model.scan_layers", "is set, but every layer is read", "leave it False")
    at, said, scores = jnp.arange(tokens.shape[1])[None], [], []
    x = transformer.embed(c, params["model"], tokens, at)
    for i, layer in enumerate(c.layers):
        x, _ = transformer.run_layer(c, layer, params["model"][f"block_{i}"], x, at, None, tokens)
        hidden, head = transformer.unembed(c, params["model"], x)
        said.append(transformer.logits(c, hidden, head))
        scores.append(((hidden + w["code"][i]).astype(jnp.float32) @ w["read"])[..., 0] + w["bias"][0])
    return Pondered(jnp.stack(said), log_halting(jnp.stack(scores)))


def log_halting(scores: jax.Array) -> jax.Array:
    """log p `[layers, ...]` of scores, whose sigmoids are lambda; the last score is not read."""
    go_on = jnp.cumsum(jax.nn.log_sigmoid(-scores[:-1]), axis=0)
    reach = jnp.concatenate([jnp.zeros_like(scores[:1]), go_on])
    return reach + jnp.concatenate([jax.nn.log_sigmoid(scores[:-1]), jnp.zeros_like(scores[:1])])


def geometric(rate: float, layers: int) -> np.ndarray:
    """The prior `[layers]` float64. ConfigError for a rate outside (0, 1)."""
    require(0 < rate < 1, "rate", f"is {rate}", "give a probability between 0 and 1")
    p = rate * (1 - rate) ** np.arange(layers)
    p[-1] = (1 - rate) ** (layers - 1)
    return p


def loss(found: Pondered, targets: jax.Array, rate: float, beta: float) -> jax.Array:
    """What is minimised, a mean over targets `[batch, seq]`, in nats."""
    logprobs = jax.nn.log_softmax(found.logits)
    missed = -jnp.take_along_axis(logprobs, targets[None, ..., None], axis=-1)[..., 0]
    prior = geometric(rate, len(missed))
    divergence = jnp.einsum("l,lbs->bs", prior.astype(np.float32), np.log(prior)[:, None, None] - found.log_p)
    return jnp.mean((jnp.exp(found.log_p) * missed).sum(0) + beta * divergence)


def q_exit(log_p: jax.Array, q: float | jax.Array) -> jax.Array:
    """The layer, from 0, after which the Q-exit stops, `[batch, seq]` int32."""
    reached = jnp.cumsum(jnp.exp(log_p), axis=0) >= q
    return reached.at[-1].set(True).argmax(0)


def sampled_exit(key: jax.Array, log_p: jax.Array) -> jax.Array:
    """A layer drawn from p for every token, likewise."""
    return jax.random.categorical(key, log_p, axis=0)
