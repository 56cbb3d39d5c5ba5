"""The decoder-only transformer: declarations, initial parameters, forward pass and loss, all pure functions."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.attention import Attend, Attention, attention_weights
from models.config import ModelConfig
from models.contraction import PRODUCT, contract
from models.cross_entropy import cross_entropy
from models.feedforward import FeedForward, feedforward_weights
from models.layers import Norm, declare, norm_weights
from models.sharding import constrain
from models.weight import Stacked, Weight, WeightTree, map_weights, walk

Params = dict[str, Any]  # nested dict of arrays: a plain pytree
RESIDUAL = ("batch", "length", "residual")


def weights(config: ModelConfig) -> WeightTree:
    """Every weight of the model, declared once; the params of `init` and `apply` have exactly this structure."""
    c = config.resolved()
    width_at_init = c.mup_base_width or c.d_model  # muP keeps the input and output layers' scale at the base width
    table_std = c.init_std or width_at_init**-0.5
    tree: dict[str, Any] = {"tokens": Weight((c.vocab_size, c.d_model), ("vocab", "embed"), "embedding", std=table_std)}
    if c.positions == "learned":
        shape = (c.max_seq_len, c.d_model)
        tree["positions"] = Weight(shape, ("position", "embed"), "embedding", std=0.1 * table_std)
    block = block_weights(c)
    if c.scan_layers:
        tree["blocks"] = map_weights(lambda w: w.stacked(c.n_layers), block)
    else:
        tree |= {f"block_{i}": block for i in range(c.n_layers)}
    tree["final_norm"] = norm_weights(c, c.d_model, "embed")
    if not c.tied_embeddings:
        tree["head"] = Weight((c.d_model, c.vocab_size), ("embed", "vocab"), "head", std=table_std)
    return tree


def block_weights(config: ModelConfig) -> WeightTree:
    """One pre-norm block; `config` is resolved."""
    return {
        "attention_norm": norm_weights(config, config.d_model, "embed"),
        "attention": attention_weights(config),
        "feedforward_norm": norm_weights(config, config.d_model, "embed"),
        "feedforward": feedforward_weights(config),
    }


def output_multiplier(config: ModelConfig) -> float:
    """Factor on the logits: 1, in muP base width / width (Yang et al. 2022, table 8)."""
    return (config.mup_base_width or config.d_model) / config.d_model


class Block(nn.Module):
    """x + attention(norm(x)), then + feedforward(norm(x)); x `[batch, seq, d_model]`."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self, x: jax.Array, positions: jax.Array, segments: jax.Array | None, attend: Attend | None = None
    ) -> jax.Array:
        c = self.config
        x = x + Attention(c, name="attention")(Norm(c, name="attention_norm")(x), positions, segments, attend)
        x = x + FeedForward(c, name="feedforward")(Norm(c, name="feedforward_norm")(x))
        return constrain(x, RESIDUAL)


class Transformer(nn.Module):
    """tokens `[batch, seq]` int32 -> (hidden `[batch, seq, d_model]`, head `[d_model, vocab]`).

    `attends` replaces the attention of each layer (unrolled layers only): one entry per layer.
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array | None = None,
        segments: jax.Array | None = None,
        attends: Sequence[Attend] | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        c = self.config.resolved()
        tree = weights(c)
        w = declare(self, {k: v for k, v in tree.items() if isinstance(v, Weight)}, c)
        if positions is None:
            positions = jnp.arange(tokens.shape[1])[None]
        x = jnp.take(w["tokens"], tokens, axis=0)
        if c.positions == "learned":
            x = x + jnp.take(w["positions"], positions, axis=0)
        x = self.blocks(constrain(x, RESIDUAL), positions, segments, attends)
        x = Norm(c, name="final_norm")(x)
        if c.mup_base_width:
            x = x * jnp.asarray(output_multiplier(c), x.dtype)
        return x, w["tokens"].T if c.tied_embeddings else w["head"]

    def blocks(
        self, x: jax.Array, positions: jax.Array, segments: jax.Array | None, attends: Sequence[Attend] | None
    ) -> jax.Array:
        """All blocks in order, unrolled or scanned, with the config's rematerialisation."""
        c = self.config.resolved()
        if attends is not None:
            for i, attend in enumerate(attends):
                x = Block(c, name=f"block_{i}")(x, positions, segments, attend)
            return x
        block = rematerialized(Block, c.remat)
        if not c.scan_layers:
            for i in range(c.n_layers):
                x = block(c, name=f"block_{i}")(x, positions, segments)
            return x

        def body(layer: nn.Module, carry: jax.Array, _: None) -> tuple[jax.Array, None]:
            return layer(carry, positions, segments), None

        scan = nn.scan(body, variable_axes={"params": 0}, split_rngs={"params": True}, length=c.n_layers)
        return scan(block(c, name="blocks"), x, None)[0]


def rematerialized(block: type[nn.Module], policy: str) -> type[nn.Module]:
    """The block class whose backward pass recomputes what `policy` says."""
    if policy == "none":
        return block
    saveable = {"full": None, "dots": jax.checkpoint_policies.save_only_these_names(PRODUCT)}[policy]
    return nn.remat(block, policy=saveable, prevent_cse=False)


def init(config: ModelConfig, key: jax.Array) -> Params:
    """Initial parameters in `param_dtype`.

    Each weight's key is the root folded with its name (and layer), so a value depends neither on the other
    weights nor on whether layers are scanned.
    """
    c = config.resolved()
    dtype = jnp.dtype(c.param_dtype)
    params: Params = {}
    for path, weight in walk(weights(c)):
        node = params
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = _initial(path, weight, key, dtype, c.n_layers)
    return params


def _initial(path: tuple[str, ...], weight: Weight, key: jax.Array, dtype: Any, n_layers: int) -> jax.Array:
    if isinstance(weight, Stacked):
        layers = [_initial((f"block_{i}", *path[1:]), weight.layer(), key, dtype, n_layers) for i in range(n_layers)]
        return jnp.stack(layers)
    return weight.initial(jax.random.fold_in(key, zlib.crc32("/".join(path).encode())), dtype)


def hidden_and_head(
    config: ModelConfig,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array | None = None,
    segments: jax.Array | None = None,
    attends: Sequence[Attend] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Final hidden states `[batch, seq, d_model]` and the head `[d_model, vocab]`: `Transformer` with its types."""
    output: Any = Transformer(config).apply({"params": params}, tokens, positions, segments, attends)
    return output


def apply(
    config: ModelConfig,
    params: Params,
    tokens: jax.Array,
    *,
    positions: jax.Array | None = None,
    segments: jax.Array | None = None,
) -> jax.Array:
    """Logits `[batch, seq, vocab]` float32 of tokens `[batch, seq]` int32."""
    hidden, head = hidden_and_head(config, params, tokens, positions, segments)
    return contract(hidden.astype(jnp.float32), head.astype(jnp.float32))


def loss(
    config: ModelConfig,
    params: Params,
    tokens: jax.Array,
    *,
    loss_weights: jax.Array | None = None,
    segments: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """(summed next-token loss in nats, summed weight) of tokens `[batch, seq + 1]`.

    loss_weights `[batch, seq]` float32 scores each target (default 1); segments `[batch, seq + 1]` int32 bars
    attention between documents and unscores the targets that cross a boundary.
    """
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    score = jnp.ones(targets.shape, jnp.float32) if loss_weights is None else loss_weights
    if segments is not None:
        score = score * (segments[:, :-1] == segments[:, 1:])
        segments = segments[:, :-1]
    hidden, head = hidden_and_head(config, params, inputs, None, segments)
    return cross_entropy(hidden, head, targets, score)


def stack_layers(params: Params, n_layers: int) -> Params:
    """Parameters of an unrolled model as those of the scanned one."""
    rest = {k: v for k, v in params.items() if not k.startswith("block_")}
    blocks = [params[f"block_{i}"] for i in range(n_layers)]
    return {**rest, "blocks": jax.tree.map(lambda *xs: jnp.stack(xs), *blocks)}


def unstack_layers(params: Params, n_layers: int) -> Params:
    """Parameters of a scanned model as those of the unrolled one."""
    rest = {k: v for k, v in params.items() if k != "blocks"}
    return rest | {f"block_{i}": jax.tree.map(lambda x, i=i: x[i], params["blocks"]) for i in range(n_layers)}
