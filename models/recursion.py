"""A block of layers that every token runs as often as a router says (Mixture-of-Recursions, Bae et al. 2025,
arXiv:2507.10524).

Layers between the first and last `ends` are one shared block f, run up to `times` times. Step r = 1 .. R has a router
w_r; of the tokens that ran step r - 1 some go on, and for these

    s_r = x . w_r,    x <- x + scale sigmoid(s_r) f(x),

f with its own residual sums, over the tokens that go on alone: a token that left is no key of later steps, so that
every step keeps keys and values of its own tokens (recursion-wise caching). All tokens run step 1. Who goes on:

- `apply`, for training: the T (R - r + 1) / R tokens of the best scores (expert choice), so that shapes are fixed and
  products spared. A token's rank depends on later tokens: this is no language model.
- `read`: tokens with sigmoid(s_r) > 1/2, which depends on earlier tokens alone, in any steps from a cache on. `loss`
  teaches the routers that threshold by the cross-entropy of sigmoid(s_r) with who went on.

Losses are to be quoted of `read`. A model of `config` weighs as much as one that runs every layer once, beside R
routers `[d_model]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from models import cache, counts, transformer
from models.cache import Store
from models.config import ModelConfig
from models.errors import require
from models.rows_past import RowsPast, places
from models.weight import Weight, WeightTree, walk
from models.wiring.prenorm import PreNorm


@dataclass(frozen=True)
class Recursion:
    """times: most runs of the shared block. ends: so many first and last layers run once. scale: of what a run adds."""

    times: int = 3
    ends: int = 0
    scale: float = 0.1

    def __post_init__(self) -> None:
        require(self.times >= 1, "times", f"is {self.times}", "give 1 or more")
        require(self.scale > 0, "scale", f"is {self.scale}", "give a positive number")

    def capacities(self, seq: int) -> list[int]:
        """Of so many tokens, how many run each step in training."""
        return [-(-seq * (self.times - r) // self.times) for r in range(self.times)]


class Recursed(NamedTuple):
    """logits `[batch, seq, vocab]`, scores `[times, batch, seq]`, float32, and who ran each step, bool likewise."""

    logits: jax.Array
    scores: jax.Array
    ran: jax.Array


class Memory(NamedTuple):
    """stores: what is kept by every run of a layer, in order; used `[times, rows]` int32: tokens of each step."""

    stores: tuple[Store, ...]
    used: jax.Array


def parts(config: ModelConfig, recursion: Recursion) -> tuple[range, range, range]:
    """The layers before, in and after the shared block. ConfigError where there is none, and for layers whose tokens
    cannot leave: scanned or routed ones, states, wirings other than `PreNorm`."""
    c, ends = config.resolved(), recursion.ends
    fix = f"use 0 to {(c.n_layers - 1) // 2}"
    require(0 <= 2 * ends < c.n_layers, "ends", f"is {ends} of {c.n_layers} layers", fix)
    plain = isinstance(c.wired, PreNorm) and not c.scan_layers and not c.routed and not any(cache.kept(c, "row"))
    fix = "use PreNorm, dense channels, and mixers that keep keys and values, not scanned"
    require(plain, "model", "has layers that no token can leave", fix)
    return range(ends), range(ends, c.n_layers - ends), range(c.n_layers - ends, c.n_layers)


def weights(config: ModelConfig, recursion: Recursion) -> WeightTree:
    """model, each layer once, and router `[times, d_model]`."""
    c = config.resolved()
    parts(c, recursion)
    shape, std = (recursion.times, c.d_model), c.stream.hidden_std(c.d_model)
    return {"model": transformer.weights(c), "router": Weight(shape, ("recursion", "embed"), "matrix", std=std)}


def init(config: ModelConfig, recursion: Recursion, key: jax.Array) -> dict[str, Any]:
    """Initial parameters of `weights`."""
    c = config.resolved()
    return transformer.drawn(c, weights(c, recursion), key)


def apply(config: ModelConfig, recursion: Recursion, params: dict[str, Any], tokens: jax.Array) -> Recursed:
    """tokens `[batch, seq]`; who goes on is chosen among all tokens of a sequence."""
    c, w = config.resolved(), params["model"]
    first, shared, last = parts(c, recursion)
    at, rows = jnp.arange(tokens.shape[1])[None], jnp.arange(tokens.shape[0])[:, None]
    everyone = jnp.broadcast_to(at, tokens.shape)

    def run(layers: range, x: jax.Array, index: jax.Array) -> jax.Array:
        for i in layers:
            x, _ = transformer.run_layer(c, c.layers[i], w[f"block_{i}"], x, index, None, tokens[rows, index])
        return x

    x, ran = run(first, transformer.embed(c, w, tokens, at), everyone), jnp.ones(tokens.shape, bool)
    scores, steps = [], []
    for r, count in enumerate(recursion.capacities(tokens.shape[1])):
        scores.append(_scored(params["router"][r], x))
        index = jnp.sort(jax.lax.top_k(jnp.where(ran, scores[r], -jnp.inf), count)[1], axis=1)  # in the text's order
        ran = jnp.zeros(tokens.shape, bool).at[rows, index].set(True)
        going = x[rows, index]
        share = _share(recursion, scores[r][rows, index], x.dtype)
        x = x.at[rows, index].set(going + share * run(shared, going, index))
        steps.append(ran)
    hidden, head = transformer.unembed(c, w, run(last, x, everyone))
    return Recursed(transformer.logits(c, hidden, head), jnp.stack(scores), jnp.stack(steps))


def _scored(router: jax.Array, x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32) @ router.astype(jnp.float32)


def _share(recursion: Recursion, scores: jax.Array, dtype: Any) -> jax.Array:
    return (recursion.scale * jax.nn.sigmoid(scores))[..., None].astype(dtype)


def loss(found: Recursed, targets: jax.Array, calibration: float) -> jax.Array:
    """Mean nats of targets `[batch, seq]`, + calibration times the mean cross-entropy of the later steps' scores with
    who ran them, over the tokens that ran the step before."""
    missed = optax.softmax_cross_entropy_with_integer_labels(found.logits, targets).mean()
    if len(found.ran) == 1:
        return missed
    apart = optax.sigmoid_binary_cross_entropy(found.scores[1:], found.ran[1:].astype(jnp.float32))
    return missed + calibration * jnp.mean(apart, where=found.ran[:-1])


def empty(config: ModelConfig, recursion: Recursion, rows: int, length: int, quantized: bool = False) -> Memory:
    """Room for so many tokens of every row in every run of a layer."""
    c = config.resolved()
    first, shared, last = parts(c, recursion)
    stores = cache.empty(c, rows, length, quantized)
    order = [*first, *list(shared) * recursion.times, *last]
    return Memory(tuple(stores[i] for i in order), jnp.zeros((recursion.times, rows), jnp.int32))


def read(
    config: ModelConfig, recursion: Recursion, params: dict[str, Any], tokens: jax.Array, memory: Memory
) -> tuple[Recursed, Memory]:
    """The next tokens `[rows, n]`, each going on while its own score is positive, and the memory with them; the
    first that are read follow `empty`."""
    c, w, used = config.resolved(), params["model"], memory.used
    first, shared, last = parts(c, recursion)
    wired, everyone = c.wired, jnp.ones(tokens.shape, bool)
    assert isinstance(wired, PreNorm)
    at = used[0][:, None] + jnp.arange(tokens.shape[1])
    stores, after = iter(memory.stores), list[Store]()

    def run(layers: range, x: jax.Array, going: jax.Array, used: jax.Array) -> jax.Array:
        for i in layers:
            store, layer = next(stores), c.layers[i]
            past = RowsPast(at, store, places(used, going, cache.length_of(store)))
            block = transformer.ready(transformer.block_weights(c, layer), w[f"block_{i}"], c.dtype)
            x, new, _ = wired.apply(c.stream, layer, block, x, past, tokens)
            assert isinstance(new, RowsPast)
            after.append(new.store)
        return x

    x, going = run(first, transformer.embed(c, w, tokens, at), everyone, used[0]), everyone
    scores, steps = [], []
    for r in range(recursion.times):
        scores.append(_scored(params["router"][r], x))
        going = going & (scores[r] > 0) if r else going
        added = _share(recursion, scores[r], x.dtype) * run(shared, x, going, used[r])
        x = jnp.where(going[..., None], x + added, x)
        steps.append(going)
    hidden, head = transformer.unembed(c, w, run(last, x, everyone, used[0]))
    found = Recursed(transformer.logits(c, hidden, head), jnp.stack(scores), jnp.stack(steps))
    return found, Memory(tuple(after), used + found.ran.sum(-1))


def flops(config: ModelConfig, recursion: Recursion, ran: Sequence[int], causal: bool = True) -> int:
    """Forward FLOPs of one sequence whose steps are run by so many tokens, all of them first; as of models.counts."""
    c = config.resolved()
    first, shared, last = parts(c, recursion)

    def layer(i: int, seq: int) -> int:
        one = c.layers[i]
        products = seq * sum(w.flops_per_token for _, w in walk(transformer.block_weights(c, one)))
        channel = one.channel.flops(c.stream, seq) if one.channel else 0
        return products + channel + one.mixer.flops(c.stream, seq, causal=causal)

    once = sum(layer(i, ran[0]) for i in (*first, *last))
    again = sum(layer(i, seq) for i in shared for seq in ran)
    return once + again + ran[0] * (counts.head_flops(c) + 2 * c.d_model * recursion.times)


def kept_bytes(config: ModelConfig, recursion: Recursion, ran: Sequence[int]) -> int:
    """Bytes that are kept of a sequence whose steps were run by so many tokens."""
    c = config.resolved()
    first, shared, last = parts(c, recursion)
    one = [sum(k.bytes(c.dtype) for k in layer.values()) for layer in cache.kept(c, "token")]
    return ran[0] * sum(one[i] for i in (*first, *last)) + sum(ran) * sum(one[i] for i in shared)
