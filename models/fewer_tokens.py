"""An encoder of images whose layers drop and join tokens, at rates that gradients find (DiffRate, Chen et al. 2023,
arXiv:2305.17997).

Layers are those of `config`, but every token sees every other; the last token asks for the class and is kept for good.
Behind the attention of a layer its tokens are ranked by how much the class token attends to them, mean over heads. The
first p of them stay, the class token before all; of these the last p - m are joined, each with the most similar of the
first m by the cosine of their streams: the mean, each counting as many tokens as it stands for (its size, whose log is
added to the scores of later attentions). The channel and the layers after that run m tokens.

`apply` drops: numbers are fixed and products spared. `masked` says the same to the last digits, but keeps all tokens
behind a mask in every softmax, whose gradient passes straight through. There every p and m has logits over the shares
1/n, 2/n .. 1 of the b tokens that come, with softmax P: the number is b sum P(k) k/n rounded up, and rank i (from 0)
stays with probability P(b k/n > i), which has the mask's gradient. What is minimised is the class's cross-entropy and
(FLOPs - target)^2; the model's own weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models import counts, transformer
from models.channels import Dense
from models.config import ModelConfig
from models.contraction import contract
from models.errors import require
from models.mixers.attention import Attention
from models.norm import norm
from models.weight import walk
from models.wiring.prenorm import PreNorm

Params = transformer.Params


LEAST = 2  # tokens: the class and one that others can be joined with


class Rates(NamedTuple):
    """Logits `[layers, n]` over the shares 1/n .. 1 that are left by dropping, and of these by joining."""

    dropped: jax.Array
    joined: jax.Array


class Left(NamedTuple):
    """number `[layers, 2]` float32: tokens left after dropping and after joining; stays `[layers, 2, n]`: whether
    each rank does. Their gradients are those of the expected number and of the probability."""

    number: jax.Array
    stays: jax.Array


def checked(config: ModelConfig) -> ModelConfig:
    """The config, resolved; ConfigError for layers that cannot do without a token: those that are not softmax
    attention over all tokens with learned positions and a dense channel, scanned ones, wirings beside `PreNorm`."""
    c = config.resolved()
    alike = all(type(a.mixer) is Attention and type(a.channel) is Dense for a in c.layers)
    mixers = [layer.mixer.resolved(c.stream) for layer in c.layers if isinstance(layer.mixer, Attention)]
    bare = not any(a.gated or a.qk_norm or a.softcap or a.window or a.rotary for a in mixers)
    plain = isinstance(c.wired, PreNorm) and c.wired == PreNorm() and not c.scan_layers and c.stream.bias == "none"
    fix = "use Attention and Dense alone, learned positions, no biases, PreNorm, layers that are not scanned"
    require(alike and bare and plain, "model", "has layers that keep their tokens", fix)
    return c


def begun(config: ModelConfig, n: int, steep: float = 20.0) -> Rates:
    """Rates that keep nearly all of n tokens: logits rise by `steep` from none to all."""
    logits = jnp.tile(steep * jnp.arange(1.0, n + 1) / n, (config.n_layers, 1))
    return Rates(logits, logits)


def left(rates: Rates) -> Left:
    """What the rates say of every layer."""
    layers, n = rates.dropped.shape
    p = jax.nn.softmax(jnp.stack(rates, axis=1).reshape(2 * layers, n))  # in the order in which they are applied
    shares, numbers, stays, before = jnp.arange(1, n + 1) / n, [], [], jnp.asarray(float(n))
    for one in p:
        came, expected = jax.lax.stop_gradient(before), before * (one @ shares)
        # A product of float32 may lie above the number that it means.
        before = _straight(jnp.maximum(jnp.ceil(expected - 1e-4), LEAST), expected)
        chance = (came * shares > jnp.arange(n)[:, None] + 1e-4) @ one
        hard = jnp.arange(n) < jax.lax.stop_gradient(before)
        numbers.append(before)
        stays.append(_straight(hard.astype(jnp.float32), chance))
    return Left(jnp.stack(numbers).reshape(layers, 2), jnp.stack(stays).reshape(layers, 2, n))


def given(kept: Sequence[tuple[int, int]], n: int) -> Left:
    """That of numbers which are known: (after dropping, after joining) of every layer."""
    number = jnp.asarray(kept, jnp.float32)
    return Left(number, (jnp.arange(n) < number[..., None]).astype(jnp.float32))


def numbers(rates: Rates) -> list[tuple[int, int]]:
    """The numbers that rates have found, for `apply`."""
    return [(int(p), int(m)) for p, m in np.asarray(left(rates).number)]


def uniform(layers: int, n: int, removed: float, dropped: float) -> list[tuple[int, int]]:
    """As many of n tokens removed by every layer, a share of these by dropping: `removed` tokens, rounded to fewer."""
    kept, before = list[tuple[int, int]](), n
    for layer in range(1, layers + 1):
        after = max(LEAST, int(np.ceil(n - removed * layer - 1e-9)))
        kept.append((before - int(dropped * (before - after) + 0.5), after))
        before = after
    return kept


def _straight(value: jax.Array, gradient: jax.Array) -> jax.Array:
    return gradient + jax.lax.stop_gradient(value - gradient)


def apply(config: ModelConfig, params: Params, tokens: jax.Array, kept: Sequence[tuple[int, int]]) -> jax.Array:
    """Logits `[batch, vocab]` at the last of tokens `[batch, n]`, of layers that leave the numbers `kept`."""
    c = checked(config)
    x = transformer.embed(c, params, tokens, jnp.arange(tokens.shape[1])[None])
    x = jnp.roll(x, 1, axis=1)  # the class token first, where it stays
    size, rows = jnp.ones(tokens.shape), jnp.arange(tokens.shape[0])[:, None]
    for i, (stay, after) in enumerate(kept):
        w = _ready(c, params, i)
        y, seen = _attended(c, i, w, x, size, jnp.ones(size.shape))
        x = x + y
        if after < x.shape[1]:
            order = jnp.argsort(-_importance(seen), axis=1, stable=True)[:, :stay]
            x, size = x[rows, order], size[rows, order]
        if after < stay:
            likeness = _cosines(x[:, after:], x[:, :after])
            to = jnp.argmax(likeness.at[:, :, 0].set(-jnp.inf), axis=2)
            weighted = (size[..., None] * x)[:, :after].at[rows, to].add((size[..., None] * x)[:, after:])
            size = size[:, :after].at[rows, to].add(size[:, after:])
            x = weighted / size[..., None]
        x = x + _channelled(c, i, w, x)
    return _classed(c, params, x[:, 0])


def masked(config: ModelConfig, params: Params, tokens: jax.Array, left: Left) -> jax.Array:
    """The same logits, with gradients of what is left."""
    c = checked(config)
    x = transformer.embed(c, params, tokens, jnp.arange(tokens.shape[1])[None])
    x = jnp.roll(x, 1, axis=1)
    size, alive = jnp.ones(tokens.shape), jnp.ones(tokens.shape)
    for i in range(c.n_layers):
        w = _ready(c, params, i)
        y, seen = _attended(c, i, w, x, size, alive)
        x = x + y
        there = jax.lax.stop_gradient(alive) > 0
        order = jnp.argsort(-jnp.where(there, _importance(seen), -jnp.inf), axis=1, stable=True)
        rank = jnp.argsort(order, axis=1)
        stay, after = left.stays[i, 0][rank], left.stays[i, 1][rank]
        alive = alive * stay * after
        first = jax.lax.stop_gradient(alive) > 0
        source = there & (jax.lax.stop_gradient(stay) > 0) & ~first
        likeness = jnp.where((first & (rank > 0))[:, None], _cosines(x, x), -jnp.inf)
        to = jax.nn.one_hot(likeness.argmax(2), x.shape[1]) * source[..., None]  # [batch, source, place]
        total = size + jnp.einsum("bsp,bs->bp", to, size)
        x = (size[..., None] * x + jnp.einsum("bsp,bsd->bpd", to, size[..., None] * x)) / total[..., None]
        size = jnp.where(first, total, size)
        x = x + _channelled(c, i, w, x)
    return _classed(c, params, x[:, 0])


def _ready(c: ModelConfig, params: Params, i: int) -> Any:
    return transformer.ready(transformer.block_weights(c, c.layers[i]), params[f"block_{i}"], c.dtype)


def _attended(
    c: ModelConfig, i: int, w: Any, x: jax.Array, size: jax.Array, alive: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What attention adds to x, and how much the first token attends to every token, `[batch, seq]`."""
    s, mixer = c.stream, c.layers[i].mixer
    assert isinstance(mixer, Attention)
    q, k, v = mixer.projected(s, w["attention"], norm(s, w["attention_norm"], x))
    heads, kv = q.shape[2], k.shape[2]
    k, v = (jnp.repeat(y, heads // kv, axis=2) for y in (k, v))
    scores = mixer.scale(s) * jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
    scores = scores + jnp.log(size)[:, None, None]
    mask = alive[:, None, None]
    highest = jnp.where(mask > 0, scores, -jnp.inf).max(-1, keepdims=True)
    scores = scores - jax.lax.stop_gradient(highest)
    weights = jnp.exp(jnp.where(mask > 0, scores, jnp.minimum(scores, 0.0))) * mask
    weights = weights / weights.sum(-1, keepdims=True)
    y = jnp.einsum("bhqk,bkhd->bqhd", weights.astype(v.dtype), v)
    y = contract(y.reshape(*x.shape[:2], kv, heads // kv, -1), w["attention"]["out"], dims=3)
    return y, jax.lax.stop_gradient(weights[:, :, 0].mean(1))


def _importance(seen: jax.Array) -> jax.Array:
    return seen.at[:, 0].set(jnp.inf)


def _cosines(a: jax.Array, b: jax.Array) -> jax.Array:
    def unit(x: jax.Array) -> jax.Array:
        x = jax.lax.stop_gradient(x)
        return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)

    return jnp.einsum("bsd,bpd->bsp", unit(a), unit(b))


def _channelled(c: ModelConfig, i: int, w: Any, x: jax.Array) -> jax.Array:
    assert isinstance(c.wired, PreNorm)
    return c.wired.transformed(c.stream, c.layers[i], w, x, jnp.zeros(x.shape[:2], jnp.int32))[0]


def _classed(c: ModelConfig, params: Params, x: jax.Array) -> jax.Array:
    hidden, head = transformer.unembed(c, params, x[:, None])
    return transformer.logits(c, hidden, head)[:, 0]


def flops(config: ModelConfig, n: int, kept: Any) -> Any:
    """Forward FLOPs of an image of n tokens whose layers leave so many of them `[layers, 2]`: an int of ints, and of
    `Left.number` a scalar that has a gradient. Likenesses of joined tokens are among them."""
    c, before = checked(config), n
    total = counts.head_flops(c)
    for i, layer in enumerate(c.layers):
        stay, after = kept[i][0], kept[i][1]
        assert isinstance(layer.mixer, Attention) and layer.channel is not None
        mixer, channel = (
            sum(w.flops_per_token for _, w in walk(part.weights(c.stream))) for part in (layer.mixer, layer.channel)
        )
        pair = layer.mixer.flops(c.stream, 1, causal=False)
        total = total + before * mixer + before * before * pair + after * channel
        total = total + 2 * c.d_model * (stay - after) * after
        before = after
    return total
