"""A head that predicts tokens further ahead (multi-token prediction, DeepSeek-V3, arXiv:2412.19437, section 2.2).

Depth k = 1, 2, ... reads at place i the hidden state h of depth k - 1, which for k = 1 is the model's own before its
final norm, and the embedding E of the token k places on:

    h' = layer(W [norm(E(t_{i+k})); norm(h_i)]),    logits = the model's head of norm(h'), of the token t_{i+k+1}.

The layer is as the model's last, W `[2, d_model, d_model]` and the norms are its own, E and the head are the model's.
The last k places have no token to read, and none that crosses into another document is read or predicted. The model's
own loss and logits stay as they are; beside the layer's a depth weighs 2 d_model^2 and 3 norms.

With `forecast`, depth 1 says what comes after the next token: a draft for speculative decoding, accepted as often as it
is the model's own choice one place on.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from models import transformer
from models.config import ModelConfig
from models.contraction import contract
from models.cross_entropy import cross_entropy
from models.errors import require
from models.norm import norm
from models.weight import Weight, WeightTree
from models.wiring.prenorm import PreNorm


class Ahead(NamedTuple):
    """One depth: hidden `[batch, seq - depth, d_model]` as the head reads it, and whether each place `[batch, seq -
    depth]` has a token of its own document to read."""

    hidden: jax.Array
    read: jax.Array


def weights(config: ModelConfig, depths: int = 1) -> WeightTree:
    """model, and ahead: the weights of every depth by its number. ConfigError for a wiring other than `PreNorm`, and
    for experts, whose penalties would be left out."""
    c = config.resolved()
    require(depths >= 1, "depths", f"are {depths}", "give 1 or more")
    require(isinstance(c.wired, PreNorm), "model.wiring", "hands on more than one stream", "use PreNorm")
    require(not c.routed, "model.moe", "routes tokens, whose penalty no depth counts", "use dense channels")
    gain = partial(c.stream.norm_weights, c.d_model, "embed")
    join = Weight((2, c.d_model, c.d_model), ("pair", "embed", "embed_out"), "matrix", inputs=2,
                  std=c.stream.hidden_std(2 * c.d_model))  # fmt: skip
    layer = transformer.block_weights(c, c.layers[-1])
    one = {"token_norm": gain(), "state_norm": gain(), "join": join, "layer": layer, "norm": gain()}
    return {"model": transformer.weights(c), "ahead": {str(k): one for k in range(1, depths + 1)}}


def forward(
    config: ModelConfig, params: Any, tokens: jax.Array, segments: jax.Array | None = None
) -> tuple[transformer.Output, list[Ahead]]:
    """The model's own pass over tokens `[batch, seq]` int32, and every depth in order; segments as there."""
    c, main = config.resolved(), params["model"]
    s, seq, declared = c.stream, tokens.shape[1], weights(config, len(params["ahead"]))["ahead"]
    at = jnp.arange(seq)[None]
    x, _ = transformer.run_layers(c, main, transformer.embed(c, main, tokens, at), at, segments, tokens)
    own = transformer.Output(*transformer.unembed(c, main, x), None, None)
    scale = jnp.asarray(transformer.output_multiplier(c) if c.mup_base_width or c.logit_scale else 1.0, x.dtype)
    found, same = [], jnp.ones(tokens.shape, bool)
    for k in range(1, len(params["ahead"]) + 1):
        stays = seq - k
        layer = {"layer": declared[str(k)]["layer"]}
        rest = {name: weight for name, weight in declared[str(k)].items() if name not in layer}
        w = transformer.ready(rest, params["ahead"][str(k)], c.dtype)
        told = transformer.embed(c, main, tokens[:, k:], at[:, :stays])
        both = norm(s, w["token_norm"], told), norm(s, w["state_norm"], x[:, :stays])
        x = contract(jnp.stack(both, axis=-2), w["join"], dims=2)
        within = None if segments is None else segments[:, :stays]
        x, _ = transformer.run_layer(
            c, c.layers[-1], params["ahead"][str(k)]["layer"], x, at[:, :stays], within, tokens[:, k:]
        )
        same = same[:, :stays] if segments is None else same[:, :stays] & (segments[:, :stays] == segments[:, k:])
        found.append(Ahead(norm(s, w["norm"], x) * scale, same))
    return own, found


def losses(
    config: ModelConfig, params: Any, tokens: jax.Array, segments: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """(summed nats, summed weight), each `[1 + depths]` float32: of the next token, then of every depth. What is
    minimised is the first mean + lambda times the mean of the others, lambda 0.3 and later 0.1 as published.

    tokens, segments `[batch, seq + 1]` int32, the latter as for models.transformer.loss.
    """
    inputs, targets, score, within = transformer.shifted(tokens, None, segments)
    own, ahead = forward(config, params, inputs, within)
    cap, head = config.logit_softcap, own.head
    found = [cross_entropy(own.hidden, head, targets, score, softcap=cap)]
    for k, (hidden, read) in enumerate(ahead, 1):
        found.append(cross_entropy(hidden, head, targets[:, k:], read * score[:, k:], softcap=cap))
    total, weight = zip(*found, strict=True)
    return jnp.stack(total), jnp.stack(weight)


def forecast(config: ModelConfig, params: Any, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(what depth 1 says of token i + 2, what the model itself says of it once it has read token i + 1), both
    `[batch, seq - 1]` int32 of tokens `[batch, seq]`: the share in which they agree is that of accepted drafts."""
    c = config.resolved()
    own, ahead = forward(config, params, tokens)
    drafted, said = (transformer.logits(c, hidden, own.head).argmax(-1) for hidden in (ahead[0].hidden, own.hidden))
    return drafted, said[:, 1:]
