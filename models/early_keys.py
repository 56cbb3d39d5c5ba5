"""Later layers whose keys and values are of an earlier layer's input, so that a prompt need not run them (SwiftKV, Qiao
et al. 2024, arXiv:2410.03960).

From layer `first` on, the layers of every `group` neighbours read keys and values of the stream x that enters layer
`first` there, one projection for all of them:

    [k, v] = norm(x) W_g,  k rotated by its own token's position;   layer i: attend(q = norm_i(x_i) Q_i; k, v).

The rest of layer i, its products after attention and its channel, is the model's own. A prompt's last token alone runs
the later layers (`read` with `last`): what they keep is known before them. `started` takes W_g of the first layer of a
group and Q_i of layer i, folding that layer's gain in, so that nothing changes for the one layer that reads x as it
always did; W, Q and the norm's gain are then trained to say what the model itself says, all else fixed
(`divergence`, published with a temperature of 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from models import cache, counts, transformer
from models.cache import Store
from models.causal_attention import causal_attention
from models.config import ModelConfig
from models.contraction import contract
from models.errors import require
from models.mixers.attention import Attention
from models.norm import norm
from models.positions import rotary_angles, rotate
from models.rows_past import RowsPast, over, places
from models.weight import Weight, WeightTree, walk
from models.wiring.prenorm import PreNorm

Attend = Callable[[jax.Array, int], jax.Array]  # (q [batch, seq, heads, head_dim], group) -> values, as q


@dataclass(frozen=True)
class EarlyKeys:
    """first: the first layer that has no keys and values of its own. group: neighbours that share one projection."""

    first: int
    group: int = 1

    def __post_init__(self) -> None:
        require(self.group >= 1, "group", f"is {self.group}", "give 1 or more")

    def groups(self, config: ModelConfig) -> range:
        """The groups of later layers."""
        return range(-(-(config.n_layers - self.first) // self.group))


class Memory(NamedTuple):
    """stores: what every earlier layer keeps, then every group; used `[rows]` int32: tokens in them."""

    stores: tuple[Store, ...]
    used: jax.Array


def later(config: ModelConfig, early: EarlyKeys) -> Attention:
    """The mixer of all later layers. ConfigError for layers that have no such keys, or do not share them."""
    c, n = config.resolved(), config.n_layers
    require(0 <= early.first < n, "first", f"is {early.first} of {n} layers", f"name a layer from 0 to {n - 1}")
    mixers = {layer.mixer for layer in c.layers[early.first :]}
    mixer = next(iter(mixers))
    plain = c.wired == PreNorm() and not c.scan_layers and not c.routed and c.stream.bias == "none"
    plain = plain and not c.stream.norm_bias and not any(cache.kept(c, "row"))
    alike = len(mixers) == 1 and type(mixer) is Attention
    fix = "use PreNorm, no biases or qk_norm, dense channels, and later layers of one Attention, not scanned"
    found = mixer.resolved(c.stream) if isinstance(mixer, Attention) else None
    fits = plain and alike and found is not None and not found.qk_norm and not found.gated
    require(fits, "model", "has layers that cannot read an earlier one's keys", fix)
    assert found is not None
    return found


def weights(config: ModelConfig, early: EarlyKeys) -> WeightTree:
    """Those that are trained: norm, keys `[d_model, kv_heads, 2, head_dim]` of every group (k, then v) and query
    `[d_model, kv_heads, heads / kv_heads, head_dim]` of every later layer."""
    c, a = config.resolved(), later(config, early)
    heads, kv, head_dim = a.heads or 0, a.kv_heads or 0, a.head_dim or 0
    axes = ("embed", "kv_heads", "qkv", "head_dim")
    std = c.stream.hidden_std(c.d_model)
    both = Weight((c.d_model, kv, 2, head_dim), axes, "matrix", std=std)
    query = Weight((c.d_model, kv, heads // kv, head_dim), axes, "matrix", std=std)
    return {
        "norm": c.stream.norm_weights(c.d_model, "embed"),
        "keys": {str(g): both for g in early.groups(c)},
        "query": {f"block_{i}": query for i in range(early.first, c.n_layers)},
    }


def started(config: ModelConfig, early: EarlyKeys, model: transformer.Params) -> dict[str, Any]:
    """`weights` that a trained model's parameters give."""
    c, plus = config.resolved(), config.norm_plus_one
    found: dict[str, Any] = {"keys": {}, "query": {}}
    for i in range(early.first, c.n_layers):
        block = model[f"block_{i}"]
        qkv = block["attention"]["qkv"]
        found["query"][f"block_{i}"] = qkv[:, :, :-2]
        if (i - early.first) % early.group == 0:
            gain = block["attention_norm"]["gain"] + plus
            found["keys"][str((i - early.first) // early.group)] = gain[:, None, None, None] * qkv[:, :, -2:]
    gain = model[f"block_{early.first}"]["attention_norm"]["gain"]
    return {"norm": {"gain": jnp.full_like(gain, 0 if plus else 1)}} | found


def apply(
    config: ModelConfig, early: EarlyKeys, model: transformer.Params, params: dict[str, Any], tokens: jax.Array
) -> jax.Array:  # fmt: skip
    """Logits `[batch, seq, vocab]` float32 of whole sequences `[batch, seq]`; params are those of `weights`."""
    c, a = config.resolved(), later(config, early)
    at = jnp.arange(tokens.shape[1])[None]
    x = transformer.embed(c, model, tokens, at)
    for i in range(early.first):
        x, _ = transformer.run_layer(c, c.layers[i], model[f"block_{i}"], x, at, None, tokens)
    w = transformer.ready(weights(c, early), params, c.dtype)
    keys = [_keys(c, a, w, g, x, at) for g in early.groups(c)]

    def attend(q: jax.Array, group: int) -> jax.Array:
        return causal_attention(q, keys[group]["k"], keys[group]["v"], a.span(c.stream))

    return _said(c, early, a, model, w, x, at, tokens, attend)


def empty(config: ModelConfig, early: EarlyKeys, rows: int, length: int, quantized: bool = False) -> Memory:
    """Room for so many tokens of every row."""
    c = config.resolved()
    stores = cache.empty(c, rows, length, quantized)
    return Memory(stores[: early.first + len(early.groups(c))], jnp.zeros(rows, jnp.int32))


def read(
    config: ModelConfig,
    early: EarlyKeys,
    model: transformer.Params,
    params: dict[str, Any],
    tokens: jax.Array,
    memory: Memory,
    last: bool = False,
) -> tuple[jax.Array, Memory]:
    """Logits of the next tokens `[rows, n]`, or with `last` of the last one `[rows, 1, vocab]`, which alone runs the
    later layers; and the memory with all of them."""
    c, a = config.resolved(), later(config, early)
    at = memory.used[:, None] + jnp.arange(tokens.shape[1])
    x, stores = transformer.embed(c, model, tokens, at), list(memory.stores)
    everyone = jnp.ones(tokens.shape, bool)
    for i in range(early.first):
        to = places(memory.used, everyone, cache.length_of(stores[i]))
        block = transformer.ready(transformer.block_weights(c, c.layers[i]), model[f"block_{i}"], c.dtype)
        x, past, _ = c.wired.apply(c.stream, c.layers[i], block, x, RowsPast(at, stores[i], to), tokens)
        assert isinstance(past, RowsPast)
        stores[i] = past.store
    w = transformer.ready(weights(c, early), params, c.dtype)
    for g in early.groups(c):
        store = stores[early.first + g]
        to = places(memory.used, everyone, cache.length_of(store))
        stores[early.first + g] = cache.write(store, _keys(c, a, w, g, x, at), cache.write_block, to)
    if last:
        x, at, tokens = x[:, -1:], at[:, -1:], tokens[:, -1:]

    def attend(q: jax.Array, group: int) -> jax.Array:
        return over(stores[early.first + group], q, at, a.span(c.stream))

    logits = _said(c, early, a, model, w, x, at, tokens, attend)
    return logits, Memory(tuple(stores), memory.used + everyone.shape[1])


def _keys(c: ModelConfig, a: Attention, w: Any, group: int, x: jax.Array, at: jax.Array) -> dict[str, jax.Array]:
    k, v = jnp.moveaxis(contract(norm(c.stream, w["norm"], x), w["keys"][str(group)]), 3, 0)
    return {"k": _rotated(a, k, at), "v": v}


def _rotated(a: Attention, x: jax.Array, at: jax.Array) -> jax.Array:
    if a.rotary is None or not a.rotary.share:
        return x
    angles = rotary_angles(at, a.rotary.dims(x.shape[-1]), a.rotary.theta, a.rotary.scaling)
    return rotate(x, *angles, interleaved=a.rotary.interleaved)


def _said(
    c: ModelConfig, early: EarlyKeys, a: Attention, model: transformer.Params, w: Any, x: jax.Array, at: jax.Array,
    tokens: jax.Array, attend: Attend,
) -> jax.Array:  # fmt: skip
    """Logits after the later layers of x `[batch, seq, d_model]`, the stream that enters them."""
    wired = c.wired
    assert isinstance(wired, PreNorm)
    for i in range(early.first, c.n_layers):
        layer = c.layers[i]
        block = transformer.ready(transformer.block_weights(c, layer), model[f"block_{i}"], c.dtype)
        q = contract(norm(c.stream, block["attention_norm"], x), w["query"][f"block_{i}"])
        y = attend(_rotated(a, q.reshape(*x.shape[:2], -1, q.shape[-1]), at), (i - early.first) // early.group)
        x = x + contract(y.reshape(q.shape), block["attention"]["out"], dims=3)
        if layer.channel is not None:
            x = x + wired.transformed(c.stream, layer, block, x, tokens)[0]
    return transformer.logits(c, *transformer.unembed(c, model, x))


def divergence(taught: jax.Array, logits: jax.Array, temperature: float = 2.0) -> jax.Array:
    """T^2 KL(softmax(taught / T) || softmax(logits / T)) in nats, a mean over tokens `[..., vocab]`."""
    want, found = (jax.nn.log_softmax(x / temperature) for x in (taught, logits))
    return temperature**2 * jnp.mean((jnp.exp(want) * (want - found)).sum(-1))


def prefill_flops(config: ModelConfig, early: EarlyKeys, prompt_len: int, causal: bool = True) -> int:
    """FLOPs of reading a prompt, with the logits after its last token, as counts.prefill_flops of the model itself."""
    c, s, a = config.resolved(), config.stream, later(config, early)
    declared = weights(c, early)
    once = sum(w.flops_per_token for _, w in walk(declared["query"])) + counts.head_flops(c)
    always = sum(w.flops_per_token for _, w in walk(declared["keys"]))
    for i, layer in enumerate(c.layers):
        products = sum(w.flops_per_token for _, w in walk(transformer.block_weights(c, layer)))
        channel = layer.channel.flops(s, 1) if layer.channel else 0
        if i < early.first:
            always += products + channel
            once += layer.mixer.flops(s, prompt_len, causal=causal)
        else:
            once += products - a.weights(s)["qkv"].flops_per_token + channel + a.flops(s, 1, prompt_len - 1)
    return prompt_len * always + once


def kept_bytes_per_token(config: ModelConfig, early: EarlyKeys, quantized: bool = False) -> int:
    """Bytes that all layers keep of one token, as counts.kv_cache_bytes_per_token of the model itself."""
    c = config.resolved()
    layers = cache.kept(c, "token")[: early.first + len(early.groups(c))]
    return sum(k.bytes(c.dtype, quantized) for layer in layers for k in layer.values())
