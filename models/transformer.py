"""The decoder-only transformer: declarations, initial parameters, forward pass and loss, all pure functions."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
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
from models.moe import ROUTING, MoE, Routing, collect, moe_weights
from models.quantized import QuantizedWeight, lookup
from models.sharding import GATHERED, HEAD, LOOKUP, RESIDUAL, WHOLE, axis_size, constrain, relayout, split
from models.weight import Stacked, Weight, WeightTree, map_weights, walk

Params = dict[str, Any]  # nested dict of arrays: a plain pytree
# (x [batch, seq, d_model], positions [batch or 1, seq], segments [batch, seq] or None) -> x after all blocks
RunBlocks = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]


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
    """One pre-norm block, with norms after its parts too if `post_norms`; `config` is resolved."""
    block = {
        "attention_norm": norm_weights(config, config.d_model, "embed"),
        "attention": attention_weights(config),
        "feedforward_norm": norm_weights(config, config.d_model, "embed"),
        "feedforward": moe_weights(config) if config.moe else feedforward_weights(config),
    }
    if config.post_norms:
        block["post_attention_norm"] = norm_weights(config, config.d_model, "embed")
        block["post_feedforward_norm"] = norm_weights(config, config.d_model, "embed")
    return block


def embedding_multiplier(config: ModelConfig) -> float:
    """Factor on the token embeddings: 1, or sqrt(d_model), which muP keeps at the base width."""
    return (config.mup_base_width or config.d_model) ** 0.5 if config.scale_embeddings else 1.0


def output_multiplier(config: ModelConfig) -> float:
    """Factor on the logits: 1, in muP base width / width (Yang et al. 2022, table 8)."""
    return (config.mup_base_width or config.d_model) / config.d_model


class Block(nn.Module):
    """x + attention(norm(x)), then + feedforward(norm(x)); x `[batch, seq, d_model]`.

    `sliding` and `kind` as in `Attention`.
    """

    config: ModelConfig
    sliding: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        segments: jax.Array | None,
        attend: Attend | None = None,
        kind: jax.Array | None = None,
    ) -> jax.Array:
        c = self.config
        normed = Norm(c, name="attention_norm")(x)
        y = Attention(c, self.sliding, name="attention")(normed, positions, segments, attend, kind)
        x = x + (Norm(c, name="post_attention_norm")(y) if c.post_norms else y)
        feedforward = MoE if c.moe else FeedForward
        y = feedforward(c, name="feedforward")(Norm(c, name="feedforward_norm")(x))
        x = x + (Norm(c, name="post_feedforward_norm")(y) if c.post_norms else y)
        return constrain(x, RESIDUAL)


class Transformer(nn.Module):
    """tokens `[batch, seq]` int32 -> (hidden `[batch, seq, d_model]`, head `[d_model, vocab]`).

    `attends` replaces the attention of each layer (unrolled layers only): one entry per layer. `run_blocks` replaces
    all blocks.
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array | None = None,
        segments: jax.Array | None = None,
        attends: Sequence[Attend] | None = None,
        run_blocks: RunBlocks | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        c = self.config.resolved()
        tree = weights(c)
        w = declare(self, {k: v for k, v in tree.items() if isinstance(v, Weight)}, c)
        if positions is None:
            positions = jnp.arange(tokens.shape[1])[None]
        x = self.embedded(w["tokens"], tokens)
        if c.scale_embeddings:
            x = x * jnp.asarray(embedding_multiplier(c), x.dtype)
        if c.positions == "learned":
            x = x + jnp.take(w["positions"], positions, axis=0)
        x = constrain(split(constrain(x, WHOLE)), RESIDUAL)
        x = run_blocks(x, positions, segments) if run_blocks else self.blocks(x, positions, segments, attends)
        x = relayout(Norm(c, name="final_norm")(x), HEAD, RESIDUAL)
        if c.mup_base_width:
            x = x * jnp.asarray(output_multiplier(c), x.dtype)
        return x, w["tokens"].T if c.tied_embeddings else w["head"]

    def embedded(self, table: jax.Array | QuantizedWeight, tokens: jax.Array) -> jax.Array:
        """Embeddings `[batch, seq, d_model]` of tokens `[batch, seq]`.

        Over `fsdp` each device looks up its features of the whole group's tokens, and embeddings and their gradients
        change hands: far fewer bytes than a table that is gathered whole and a gradient of all of its rows.
        """
        if isinstance(table, QuantizedWeight):
            return lookup(table, tokens, jnp.dtype(self.config.dtype))
        kept: Any = self.get_variable("params", "tokens")
        found = lookup(kept.astype(table.dtype), constrain(tokens, LOOKUP[:2]), jnp.dtype(self.config.dtype))
        return constrain(found, LOOKUP)

    def blocks(
        self, x: jax.Array, positions: jax.Array, segments: jax.Array | None, attends: Sequence[Attend] | None
    ) -> jax.Array:
        """All blocks in order, unrolled or scanned, with the config's rematerialisation."""
        c = self.config.resolved()
        if attends is not None:
            for i, attend in enumerate(attends):
                x = Block(c, c.sliding[i], name=f"block_{i}")(x, positions, segments, attend)
            return x
        sliding = c.sliding
        block = rematerialized(Block, c)
        if not c.scan_layers:
            for i in range(c.n_layers):
                x = block(c, sliding[i], name=f"block_{i}")(x, positions, segments)
            return x
        mixed = len(set(sliding)) > 1

        def body(layer: nn.Module, carry: jax.Array, kind: jax.Array | None) -> tuple[jax.Array, None]:
            return layer(carry, positions, segments, None, kind), None

        axes: dict[Any, Any] = {"params": 0, ROUTING: 0}
        scan = nn.scan(body, variable_axes=axes, split_rngs={"params": True}, length=c.n_layers)
        return scan(block(c, sliding[0], name="blocks"), x, jnp.asarray(sliding) if mixed else None)[0]


def rematerialized(block: type[nn.Module], config: ModelConfig) -> type[nn.Module]:
    """The block class whose backward pass recomputes what `config.remat` says, and gathers weights again (ZeRO-3)."""
    policies = jax.checkpoint_policies
    if config.remat == "none" and axis_size("fsdp") == 1:
        return block
    saveable = {
        "none": all_but_gathered(config),
        "full": None,
        "dots": policies.save_only_these_names(PRODUCT),
        "offload": policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[], names_which_can_be_offloaded=[PRODUCT],
            offload_src="device", offload_dst="pinned_host",
        ),
    }[config.remat]  # fmt: skip
    return nn.remat(block, policy=saveable, prevent_cse=not config.scan_layers)


def all_but_gathered(config: ModelConfig) -> Callable[..., bool]:
    """A rematerialisation policy: keep everything but weights that were gathered over `fsdp`.

    Their name alone does not tell: JAX would keep what goes into the naming instead, which is just as large.
    """
    shapes = {weight.shape for _, weight in walk(block_weights(config.resolved()))}

    def saveable(primitive: Any, *inputs: Any, **params: Any) -> bool:
        relaid = primitive.name in ("sharding_constraint", "custom_vjp_call") and inputs[0].shape in shapes
        return not relaid and params.get("name") != GATHERED

    return saveable


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
    run_blocks: RunBlocks | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Final hidden states `[batch, seq, d_model]` and the head `[d_model, vocab]`: `Transformer` with its types."""
    output: Any = Transformer(config).apply({"params": params}, tokens, positions, segments, attends, run_blocks)
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
    return logits(config, *hidden_and_head(config, params, tokens, positions, segments))


def logits(config: ModelConfig, hidden: jax.Array, head: jax.Array) -> jax.Array:
    """Logits `[..., vocab]` float32 of hidden states `[..., d_model]` and the head `[d_model, vocab]`, soft-capped."""
    y = contract(hidden.astype(jnp.float32), head.astype(jnp.float32))
    cap = config.logit_softcap
    return y if cap is None else cap * jnp.tanh(y / cap)


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
    inputs, targets, score, segments = shifted(tokens, loss_weights, segments)
    hidden, head = hidden_and_head(config, params, inputs, None, segments)
    return cross_entropy(hidden, head, targets, score, softcap=config.logit_softcap)


def shifted(
    tokens: jax.Array, loss_weights: jax.Array | None, segments: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """(inputs, targets, weights of the targets, segments of the inputs), all `[batch, seq]`, from those of `loss`."""
    targets = tokens[:, 1:]
    score = jnp.ones(targets.shape, jnp.float32) if loss_weights is None else loss_weights
    if segments is not None:
        score = score * (segments[:, :-1] == segments[:, 1:])
        segments = segments[:, :-1]
    return tokens[:, :-1], targets, score, segments


def routed_loss(
    config: ModelConfig,
    params: Params,
    tokens: jax.Array,
    *,
    loss_weights: jax.Array | None = None,
    segments: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array, Routing]:
    """(summed loss, summed weight, summed penalty, routing) of a model with experts; inputs as for `loss`.

    The penalty of a sequence (`Routing.penalty`) counts once for each of its scored targets, so that sums over any
    micro-batches, divided by the summed weight, add up to the same objective.
    """
    inputs, targets, score, segments = shifted(tokens, loss_weights, segments)
    output: Any = Transformer(config).apply({"params": params}, inputs, None, segments, mutable=[ROUTING])
    (hidden, head), written = output
    total, count = cross_entropy(hidden, head, targets, score, softcap=config.logit_softcap)
    routing = collect(written[ROUTING])
    return total, count, jnp.sum(routing.penalty * score.sum(1)), routing


def stack_layers(params: Params, n_layers: int) -> Params:
    """Parameters of an unrolled model as those of the scanned one."""
    rest = {k: v for k, v in params.items() if not k.startswith("block_")}
    blocks = [params[f"block_{i}"] for i in range(n_layers)]
    return {**rest, "blocks": jax.tree.map(lambda *xs: jnp.stack(xs), *blocks)}


def unstack_layers(params: Params, n_layers: int) -> Params:
    """Parameters of a scanned model as those of the unrolled one."""
    rest = {k: v for k, v in params.items() if k != "blocks"}
    return rest | {f"block_{i}": jax.tree.map(lambda x, i=i: x[i], params["blocks"]) for i in range(n_layers)}
