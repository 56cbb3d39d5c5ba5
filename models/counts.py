"""Exact counts from the declarations: parameters, FLOPs and bytes of a ModelConfig, as Python integers.

FLOPs are those of matrix products, 2 per multiply-add; norms, softmax, rotations and lookups are not counted.
The unembedding is counted (tied or not), attention by default causally: position t attends to t keys, T(T+1)/2
query-key pairs for T positions. Document masks are ignored: a masked run counts as if every sequence were one document.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import Literal

import jax.numpy as jnp

from models import cache
from models.channels.experts import Experts
from models.config import ModelConfig
from models.layer import Layer
from models.transformer import layer_weights, weights, wiring_weights
from models.weight import Weight, WeightTree, walk


def declarations(config: ModelConfig) -> list[Weight]:
    """Every weight of the model, without its name."""
    return [weight for _, weight in walk(weights(config))]


def params(config: ModelConfig) -> int:
    """All parameters, embeddings and head included: the N of Hoffmann et al. 2022. A tied table counts once."""
    return sum(weight.size for weight in declarations(config))


def params_nonembed(config: ModelConfig) -> int:
    """Parameters of the blocks and the final norm: the N of Kaplan et al. 2020.

    The token table, the position table and an untied head (the "de-embedding") are left out, so that tying
    changes nothing; Kaplan et al. leave the de-embedding out of N and of the compute, we only out of N.
    """
    return sum(weight.size for weight in declarations(config) if weight.role not in ("embedding", "head"))


def params_active(config: ModelConfig) -> int:
    """Parameters that one token passes through, embeddings included: all but the experts that it is not sent to."""
    return sum(weight.active_size for weight in declarations(config))


def attention_flops(config: ModelConfig, seq_len: int, causal: bool = True) -> int:
    """Forward FLOPs of one sequence of `seq_len` tokens that no weight declares: scores q.k and weighted values of
    attention, updates and reads of states.

    In a layer with a sliding window position t attends to min(t, window) keys. causal=False counts the dense
    seq_len^2 pairs that a kernel without block skipping computes, whatever the window.
    """
    kinds = Counter(config.layers)
    return sum(count * layer_flops(config, layer, seq_len, causal) for layer, count in kinds.items())


def layer_flops(config: ModelConfig, layer: Layer, seq_len: int, causal: bool = True) -> int:
    """The same of one layer."""
    stream = config.stream
    channel = config.wired.copies * layer.channel.flops(stream, seq_len) if layer.channel else 0
    return channel + layer.mixer.flops(stream, seq_len, causal=causal)


def forward_flops(config: ModelConfig, seq_len: int, causal: bool = True) -> int:
    """Forward FLOPs of one sequence of `seq_len` tokens, logits at every position."""
    return seq_len * (_block_flops(config) + head_flops(config)) + attention_flops(config, seq_len, causal)


def train_flops(config: ModelConfig, tokens: int, seq_len: int, causal: bool = True) -> int:
    """FLOPs of training on `tokens` scored tokens in sequences of `seq_len`: 3 x forward (backward is twice forward).

    These are the model's FLOPs: what rematerialisation or a kernel recomputes is not in them (see `remat_flops`).
    Where `tokens` is no multiple of `seq_len` they cost the sequence's mean per token (an integer without windows).
    """
    return 3 * tokens * forward_flops(config, seq_len, causal) // seq_len


def remat_flops(config: ModelConfig, tokens: int, seq_len: int, causal: bool = True) -> int:
    """FLOPs that `config.remat` adds to `train_flops`: the blocks' forward products that the backward repeats.

    "full" repeats all but each block's last product, whose result no gradient needs (of experts every one is needed,
    for the gradient of their weights); "dots" and "offload" only attention's and what carries tokens to experts.
    """
    if config.remat == "none":
        return 0
    c = config.resolved()
    last = sum(_last_flops(c, layer) for layer in c.layers)
    repeated = _block_flops(c) - last if c.remat == "full" else 0
    carried, idle = _slot_flops(c, seq_len)
    sent = tokens * (carried + (idle if c.remat == "full" else 0)) // seq_len
    return tokens * repeated + tokens * attention_flops(c, seq_len, causal) // seq_len + sent


def _last_flops(config: ModelConfig, layer: Layer) -> int:
    """FLOPs per token of a layer's last product."""
    part = layer.parts[-1]
    weight = part.weights(config.stream).get(part.last)
    return config.wired.copies * weight.flops_per_token if weight else 0


def dispatch_flops(config: ModelConfig, tokens: int, seq_len: int) -> int:
    """FLOPs that the slots of a capacity block add to `train_flops`: carrying tokens in and out, and idle slots.

    The products that carry tokens in have no gradient in the mask, those that carry them out have two.
    """
    carried, idle = _slot_flops(config.resolved(), seq_len)
    return tokens * (5 * carried + 3 * idle) // seq_len


def _slot_flops(config: ModelConfig, seq_len: int) -> tuple[int, int]:
    """Forward FLOPs of one sequence in all layers: (one product between tokens and slots, experts on surplus slots)."""
    found = [
        part.slot_flops(config.stream, seq_len)
        for layer in config.layers
        for part in layer.parts
        if isinstance(part, Experts)
    ]
    return sum(carried for carried, _ in found), sum(idle for _, idle in found)


def flops_per_token_6n(config: ModelConfig) -> int:
    """The usual approximation 6 N of training FLOPs per token (Kaplan et al. 2020), with N = `params`."""
    return 6 * params(config)


def prefill_flops(config: ModelConfig, prompt_len: int, scored: int = 1) -> int:
    """FLOPs of reading one prompt of `prompt_len` tokens, causal; logits at the last `scored` positions only."""
    return prompt_len * _block_flops(config) + scored * head_flops(config) + attention_flops(config, prompt_len)


def decode_flops(config: ModelConfig, context_len: int) -> int:
    """FLOPs of one generated token that attends to `context_len` keys, its own included."""
    stream, kinds = config.stream, Counter(config.layers)
    past = sum(count * layer.mixer.flops(stream, 1, context_len - 1) for layer, count in kinds.items())
    return _block_flops(config) + head_flops(config) + past


def param_bytes(config: ModelConfig) -> int:
    """Bytes of the parameters in `param_dtype`."""
    return params(config) * jnp.dtype(config.param_dtype).itemsize


def gradient_bytes(config: ModelConfig) -> int:
    """Bytes of one gradient; it has the parameters' dtype."""
    return param_bytes(config)


def optimizer_bytes(config: ModelConfig, optimizer: Literal["adamw", "muon"] = "adamw") -> int:
    """Bytes of the optimiser's moments, float32: two per parameter, but one per hidden matrix under Muon."""
    moments = {"matrix": 1 if optimizer == "muon" else 2}
    return sum(4 * weight.size * moments.get(weight.role, 2) for weight in declarations(config))


def kv_cache_bytes_per_token(config: ModelConfig, quantized: bool = False) -> int:
    """Bytes that all layers keep of one token: in the compute dtype, or int8 with a float32 scale per vector."""
    layers = cache.kept(config.resolved(), "token")
    return sum(k.bytes(config.dtype, quantized) for layer in layers for k in layer.values())


def state_bytes_per_row(config: ModelConfig) -> int:
    """Bytes of what all layers keep of a row however long it is: states of recurrent mixers."""
    return sum(k.bytes(config.dtype) for layer in cache.kept(config.resolved(), "row") for k in layer.values())


def tree_flops(tree: WeightTree) -> int:
    """Forward FLOPs of declared weights for one token."""
    return sum(weight.flops_per_token for _, weight in walk(tree))


def decode_read_bytes(config: ModelConfig, context_len: int) -> int:
    """Bytes of what layers keep that one generated token reads, which attends to `context_len` keys, its own included:
    keys and values within each layer's window, another layer's of `Cross`, and states once."""
    stream, total = config.stream, 0
    for layer in config.layers:
        mixer = layer.mixer
        for k in getattr(mixer, "reads", mixer.kept)(stream).values():  # of another layer, or what it keeps itself
            seen = min(context_len, k.window or context_len) if k.per == "token" else 1
            total += seen * k.bytes(config.dtype)
    return total


def weight_read_bytes(config: ModelConfig, rows: int = 1) -> float:
    """Bytes of weights that one decode step of `rows` tokens reads, in the compute dtype (float32 where exact).

    Of a table that is looked up it reads a row for each token. Of experts it reads the expected share that some token
    is sent to, 1 - (1 - k/E)^rows, where tokens choose k of E evenly and independently of each other.
    """
    total = 0.0
    for path, weight in walk(weights(config)):
        if weight.role == "embedding" and not (config.tied_embeddings and path == ("tokens",)):
            read = float(min(weight.size, rows * (weight.size // weight.shape[0])))
        else:
            read = weight.size * (1 - (1 - weight.active_size / weight.size) ** rows)
        total += read * jnp.dtype("float32" if weight.exact else config.dtype).itemsize
    return total


@functools.lru_cache(maxsize=256)
def _block_flops(config: ModelConfig) -> int:
    """Forward FLOPs of all weights but the head's for one token."""
    copies = config.wired.copies
    return copies * tree_flops(layer_weights(config.resolved())) + tree_flops(wiring_weights(config.resolved()))


def head_flops(config: ModelConfig) -> int:
    """Forward FLOPs of one position's logits."""
    return 2 * config.d_model * config.vocab_size
