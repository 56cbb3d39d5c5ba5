"""The decoder-only transformer: declarations, initial parameters, forward pass and loss, all pure functions."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from models.config import ModelConfig
from models.contraction import PRODUCT, contract
from models.cross_entropy import cross_entropy
from models.layer import Layer
from models.norm import norm
from models.past import Past, WholeSequence
from models.quantized import QuantizedWeight, lookup
from models.routing import Routing, collect
from models.sharding import (
    GATHERED,
    HEAD,
    LOOKUP,
    RESIDUAL,
    WHOLE,
    axis_size,
    constrain,
    gathered,
    relayout,
    scatter_positions,
)
from models.weight import Stacked, Weight, WeightTree, map_weights, walk

Params = dict[str, Any]  # nested dict of arrays: a plain pytree


class Output(NamedTuple):
    """hidden `[batch, seq, d_model]`: what the head reads; head `[d_model, vocab]`; pasts: one per layer with the new
    tokens in it, where pasts were given; routing: of a model whose layers route, else None."""

    hidden: jax.Array
    head: Any
    pasts: tuple[Past, ...] | None
    routing: Routing | None


# -- declarations -------------------------------------------------------------------------------------------------


def weights(config: ModelConfig) -> WeightTree:
    """Every weight of the model, declared once; the params of `init` and `apply` have exactly this structure.

    Unrolled layers are `block_0`, `block_1`, ...; those that a scan runs over (`ModelConfig.repeats`) lie stacked in
    `blocks`: all together where all layers declare the same weights, else by their position in the pattern.
    """
    c = config.resolved()
    tables = table_weights(c)
    tree: dict[str, Any] = {name: tables[name] for name in ("tokens", "positions") if name in tables}
    tree |= {**layer_weights(c), **wiring_weights(c)}
    tree["final_norm"] = c.stream.norm_weights(c.d_model, "embed")
    if "head" in tables:
        tree["head"] = tables["head"]
    return tree


def table_weights(config: ModelConfig) -> dict[str, Weight]:
    """The token table, the table of learned positions and the untied head; `config` is resolved."""
    c = config
    width_at_init = c.mup_base_width or c.d_model  # muP keeps the input and output layers' scale at the base width
    std = c.init_std or width_at_init**-0.5
    tables = {"tokens": Weight((c.vocab_size, c.d_model), ("vocab", "embed"), "embedding", std=std)}
    if c.positions == "learned":
        shape = (c.max_seq_len, c.d_model)
        tables["positions"] = Weight(shape, ("position", "embed"), "embedding", std=0.1 * std)
    if not c.tied_embeddings:
        tables["head"] = Weight((c.d_model, c.vocab_size), ("embed", "vocab"), "head", std=std)
    return tables


def layer_weights(config: ModelConfig) -> WeightTree:
    """The weights of all layers, as they lie in the params; `config` is resolved."""
    repeats, layers = config.repeats, config.layers
    blocks = {layer: block_weights(config, layer) for layer in dict.fromkeys(layers)}
    if repeats.groups and repeats.together:
        return {"blocks": _stacked(blocks[layers[0]], config.n_layers)}
    tree: dict[str, Any] = {f"block_{i}": blocks[layers[i]] for i in range(repeats.first)}
    if repeats.groups:
        parts = [_stacked(blocks[layers[repeats.first + j]], repeats.groups) for j in range(repeats.period)]
        tree["blocks"] = parts[0] if len(parts) == 1 else {str(j): part for j, part in enumerate(parts)}
    return tree | {f"block_{i}": blocks[layers[i]] for i in range(repeats.stop, config.n_layers)}


def wiring_weights(config: ModelConfig) -> WeightTree:
    """What the wiring weighs once for all layers, under its name: nothing for most."""
    once = config.wired.once(config.stream)
    return {"wiring": once} if once else {}


def block_weights(config: ModelConfig, layer: Layer) -> WeightTree:
    """One layer's weights; `config` is resolved."""
    return config.wired.weights(config.stream, layer)


def _stacked(block: WeightTree, n: int) -> WeightTree:
    return map_weights(lambda w: w.stacked(n), block)


def stacked_layers(config: ModelConfig, path: tuple[str, ...]) -> range:
    """The layers, in order, of a stacked weight at `path`."""
    repeats = config.repeats
    if repeats.together:
        return range(config.n_layers)
    return repeats.layers(int(path[1]) if repeats.period > 1 else 0)


def embedding_multiplier(config: ModelConfig) -> float:
    """Factor on the embeddings: `embedding_scale` times 1, or times sqrt(d_model), kept by muP at the base width."""
    own = 1.0 if config.embedding_scale is None else config.embedding_scale
    return own * (config.mup_base_width or config.d_model) ** 0.5 if config.scale_embeddings else own


def output_multiplier(config: ModelConfig) -> float:
    """Factor on the logits: `logit_scale` times 1, in muP base width / width (Yang et al. 2022, table 8)."""
    own = 1.0 if config.logit_scale is None else config.logit_scale
    return own * (config.mup_base_width or config.d_model) / config.d_model


def init(config: ModelConfig, key: jax.Array) -> Params:
    """Initial parameters in `param_dtype`.

    Each weight's key is the root folded with its name (and layer), so a value depends neither on the other
    weights nor on whether layers are scanned.
    """
    c = config.resolved()
    return drawn(c, weights(c), key)


def drawn(config: ModelConfig, tree: WeightTree, key: jax.Array) -> Params:
    """Initial values of declared weights, the model's or others of the same form; `config` is resolved."""
    return {name: _drawn(config, (name,), node, key) for name, node in tree.items()}


def _drawn(config: ModelConfig, path: tuple[str, ...], node: Any, key: jax.Array) -> Any:
    if isinstance(node, Weight):
        return _initial(config, path, node, key, jnp.dtype(config.param_dtype))
    return {name: _drawn(config, (*path, name), child, key) for name, child in node.items()}


def _initial(config: ModelConfig, path: tuple[str, ...], weight: Weight, key: jax.Array, dtype: Any) -> jax.Array:
    if isinstance(weight, Stacked):
        inside = path[2:] if path[1].isdigit() else path[1:]
        names = [(f"block_{i}", *inside) for i in stacked_layers(config, path)]
        return jnp.stack([_initial(config, name, weight.layer(), key, dtype) for name in names])
    return weight.initial(jax.random.fold_in(key, zlib.crc32("/".join(path).encode())), dtype)


# -- the forward pass ---------------------------------------------------------------------------------------------


def ready(tree: WeightTree, params: Params, dtype: str) -> Params:
    """Declared weights as products read them: in the compute dtype, gathered over `fsdp`; as they are where quantised
    or stored for a CPU, and in float32 where `Weight.exact`."""

    def one(weight: Weight, x: Any) -> Any:
        multiplies_itself = not isinstance(x, jax.Array | np.ndarray)  # models.contraction.Factor
        if multiplies_itself:
            return x.ready(partial(one, weight), dtype)
        return gathered(x if weight.exact else x.astype(dtype), weight.axes)

    return {
        name: one(node, params[name]) if isinstance(node, Weight) else ready(node, params[name], dtype)
        for name, node in tree.items()
    }


def forward(
    config: ModelConfig,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array | None = None,
    segments: jax.Array | None = None,
    pasts: Sequence[Past] | None = None,
) -> Output:
    """The hidden states of tokens `[batch, seq]` int32 and the head; positions `[batch or 1, seq]`, from 0 by default.

    pasts: what lies before the tokens, one per layer (unrolled layers only); without them the sequences are whole, and
    segments `[batch, seq]` int32 bar what lies in other documents.
    """
    c = config.resolved()
    if positions is None:
        positions = jnp.arange(tokens.shape[1])[None]
    x = embed(c, params, tokens, positions)
    if pasts is None:
        x, routings = run_layers(c, params, x, positions, segments, tokens)
    else:
        stream, routings, after = c.stream, tuple[Routing, ...](), []
        for i, (layer, past) in enumerate(zip(c.layers, pasts, strict=True)):
            with jax.named_scope(f"block_{i}"):
                w = ready(block_weights(c, layer), params[f"block_{i}"], c.dtype)
                x, past, routed = c.wired.apply(stream, layer, w, x, past, tokens)
            routings += routed
            after.append(past)
        pasts = tuple(after)
    hidden, head = unembed(c, params, x)
    return Output(hidden, head, pasts, collect(routings) if routings else None)


def embed(config: ModelConfig, params: Params, tokens: jax.Array, positions: jax.Array) -> Any:
    """What the first layer reads `[batch, seq, d_model]`, as its wiring hands it on; `config` is resolved."""
    c, table = config, params["tokens"]
    dtype = jnp.dtype(c.dtype)
    if isinstance(table, QuantizedWeight):
        x = lookup(table, tokens, dtype)
    else:
        # Over `fsdp` each device looks up its features of the whole group's tokens, and embeddings and their gradients
        # change hands: far fewer bytes than a table that is gathered whole and a gradient of all of its rows.
        x = constrain(lookup(table.astype(dtype), constrain(tokens, LOOKUP[:2]), dtype), LOOKUP)
    x = shrunk(c, x)
    if c.scale_embeddings or c.embedding_scale is not None:
        x = x * jnp.asarray(embedding_multiplier(c), x.dtype)
    if c.positions == "learned":
        w = ready({"positions": table_weights(c)["positions"]}, params, c.dtype)
        x = x + jnp.take(w["positions"], positions, axis=0)
    return c.wired.enter(c.stream, c.layers, constrain(scatter_positions(constrain(x, WHOLE)), RESIDUAL))


def unembed(config: ModelConfig, params: Params, x: Any) -> tuple[jax.Array, Any]:
    """What the head reads `[batch, seq, d_model]`, of what the last layer handed on, and the head; `config` is
    resolved."""
    c, once = config, wiring_weights(config)
    name = "tokens" if c.tied_embeddings else "head"
    tree = {"final_norm": c.stream.norm_weights(c.d_model, "embed"), name: table_weights(c)[name], **once}
    w = ready(tree, params, c.dtype)
    x = c.wired.leave(c.stream, w.get("wiring"), x, partial(norm, c.stream, w["final_norm"]))
    x = relayout(x, HEAD, RESIDUAL)
    if c.mup_base_width or c.logit_scale is not None:
        x = x * jnp.asarray(output_multiplier(c), x.dtype)
    return x, shrunk(c, w[name]).T if c.tied_embeddings else w[name]


def shrunk(config: ModelConfig, x: Any) -> Any:
    """x of the token table itself, whose gradient is `embedding_gradient` times what it would be: alpha x + (1 - alpha)
    stop_gradient(x) (Zeng et al. 2022, GLM-130B, section 3.2), so written that x stays as it is to the last bit."""
    if config.embedding_gradient == 1:
        return x
    rest = jnp.asarray(1 - config.embedding_gradient, x.dtype)
    return x + rest * (jax.lax.stop_gradient(x) - x)


def run_layers(
    config: ModelConfig,
    params: Params,
    x: Any,
    positions: jax.Array,
    segments: jax.Array | None,
    tokens: jax.Array,
) -> tuple[Any, tuple[Routing, ...]]:
    """(x, as `embed` gives it, through all layers of whole sequences, the routings of those that route)."""
    c, routings = config, tuple[Routing, ...]()
    repeats, layers = c.repeats, c.layers
    first, stop = repeats.first, repeats.stop

    def unrolled(i: int, x: Any) -> tuple[Any, tuple[Routing, ...]]:
        if repeats.groups and repeats.together:
            w = jax.tree.map(lambda stack: stack[i], params["blocks"])
        else:
            w = params[f"block_{i}"]
        with jax.named_scope(f"block_{i}"):  # profiles and reports of collectives tell layers apart
            return run_layer(c, layers[i], w, x, positions, segments, tokens)

    for i in range(first):
        x, found = unrolled(i, x)
        routings += found
    if repeats.groups:
        blocks = params["blocks"]
        if repeats.together and (first or stop < c.n_layers):
            blocks = jax.tree.map(lambda stack: stack[first:stop], blocks)
        x, found = run_repeats(c, blocks, x, positions, segments, tokens)
        routings += found
    for i in range(stop, c.n_layers):
        x, found = unrolled(i, x)
        routings += found
    return x, routings


def run_repeats(
    config: ModelConfig,
    blocks: Params,
    x: Any,
    positions: jax.Array,
    segments: jax.Array | None,
    tokens: jax.Array,
) -> tuple[Any, tuple[Routing, ...]]:
    """x through consecutive groups of the pattern: a scan over `blocks`, the stacked weights of any number of them.

    The routings are `[groups, batch]` each.
    """
    period, together = config.repeats.period, config.repeats.together
    if together and period > 1:
        blocks = jax.tree.map(lambda stack: stack.reshape(-1, period, *stack.shape[1:]), blocks)

    def body(x: Any, group: Params) -> tuple[Any, tuple[Routing, ...]]:
        routings: tuple[Routing, ...] = ()
        for j, layer in enumerate(config.period):
            if period == 1:
                w = group
            else:
                w = jax.tree.map(lambda stack, j=j: stack[j], group) if together else group[str(j)]
            x, found = run_layer(config, layer, w, x, positions, segments, tokens)
            routings += found
        return x, routings

    with jax.named_scope("blocks"):
        return jax.lax.scan(body, x, blocks)


def run_layer(
    config: ModelConfig,
    layer: Layer,
    w: Params,
    x: Any,
    positions: jax.Array,
    segments: jax.Array | None,
    tokens: jax.Array,
) -> tuple[Any, tuple[Routing, ...]]:
    """x, as the wiring hands it on, through one layer of whole sequences, whose backward pass recomputes what
    `config.remat` says."""
    declared = block_weights(config, layer)

    def run(w: Params, x: Any, positions: jax.Array, segments: jax.Array | None, tokens: jax.Array) -> tuple[Any, Any]:
        past = WholeSequence(positions, segments, config.context)
        x, _, routings = config.wired.apply(config.stream, layer, ready(declared, w, config.dtype), x, past, tokens)
        return x, routings

    return rematerialized(run, config, declared)(w, x, positions, segments, tokens)


def rematerialized(f: Callable[..., Any], config: ModelConfig, declared: WeightTree) -> Callable[..., Any]:
    """A layer's function whose backward pass recomputes what `remat` says, and gathers weights again (ZeRO-3)."""
    policies = jax.checkpoint_policies
    if config.remat == "none" and axis_size("fsdp") == 1:
        return f
    saveable = {
        "none": all_but_gathered(declared),
        "full": None,
        "dots": policies.save_only_these_names(PRODUCT),
        "offload": policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[], names_which_can_be_offloaded=[PRODUCT],
            offload_src="device", offload_dst="pinned_host",
        ),
    }[config.remat]  # fmt: skip
    return jax.checkpoint(f, policy=saveable, prevent_cse=not config.scan_layers)


def all_but_gathered(declared: WeightTree) -> Callable[..., bool]:
    """A rematerialisation policy: keep everything but weights that were gathered over `fsdp`.

    Their name alone does not tell: JAX would keep what goes into the naming instead, which is just as large.
    """
    shapes = {weight.shape for _, weight in walk(declared)}

    def saveable(primitive: Any, *inputs: Any, **params: Any) -> bool:
        relaid = primitive.name in ("sharding_constraint", "custom_vjp_call") and inputs[0].shape in shapes
        return not relaid and params.get("name") != GATHERED

    return saveable


class Transformer(nn.Module):
    """tokens `[batch, seq]` int32 -> (hidden `[batch, seq, d_model]`, head `[d_model, vocab]`), as a linen module.

    Its params are those of `init` in structure; what linen draws for them has the same distribution.
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self, tokens: jax.Array, positions: jax.Array | None = None, segments: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """As `forward`, without a past."""
        c = self.config.resolved()
        draws = {name: partial(_drawn, c, (name,), node) for name, node in weights(c).items()}
        params = {name: self.param(name, draw) for name, draw in draws.items()}
        output = forward(c, params, tokens, positions, segments)
        return output.hidden, output.head


def apply(
    config: ModelConfig,
    params: Params,
    tokens: jax.Array,
    *,
    positions: jax.Array | None = None,
    segments: jax.Array | None = None,
) -> jax.Array:
    """Logits `[batch, seq, vocab]` float32 of tokens `[batch, seq]` int32."""
    output = forward(config, params, tokens, positions, segments)
    return logits(config, output.hidden, output.head)


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
    output = forward(config, params, inputs, None, segments)
    return cross_entropy(output.hidden, output.head, targets, score, softcap=config.logit_softcap)


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
    output = forward(config, params, inputs, None, segments)
    assert output.routing is not None, "no layer of this model routes"
    total, count = cross_entropy(output.hidden, output.head, targets, score, softcap=config.logit_softcap)
    return total, count, jnp.sum(output.routing.penalty * score.sum(1)), output.routing


# -- layers, stacked and unrolled ---------------------------------------------------------------------------------


def stack_layers(params: Params, config: ModelConfig) -> Params:
    """Parameters of the unrolled model as those of the scanned one, whose config is given."""
    c = config.resolved()
    rest = {name: value for name, value in params.items() if not name.startswith("block_")}

    def stack(layers: range) -> Any:
        return jax.tree.map(lambda *xs: jnp.stack(xs), *(params[f"block_{i}"] for i in layers))

    kept = {name: params[name] for name in layer_weights(c) if name != "blocks"}
    if "blocks" not in (tree := layer_weights(c)):
        return dict(params)
    return {**rest, **kept, "blocks": _each_stack(c, tree["blocks"], stack)}


def unstack_layers(params: Params, config: ModelConfig) -> Params:
    """Parameters of the scanned model, whose config is given, as those of the unrolled one."""
    c = config.resolved()
    rest = {name: value for name, value in params.items() if name != "blocks"}
    if "blocks" not in params:
        return rest

    def unstack(blocks: Any, layers: range) -> Params:
        return {f"block_{i}": jax.tree.map(lambda x, at=at: x[at], blocks) for at, i in enumerate(layers)}

    repeats = c.repeats
    if repeats.together or repeats.period == 1:
        return rest | unstack(params["blocks"], stacked_layers(c, ("blocks", "0")))
    found = [unstack(params["blocks"][str(j)], repeats.layers(j)) for j in range(repeats.period)]
    return rest | {name: block for blocks in found for name, block in blocks.items()}


def _each_stack(config: ModelConfig, declared: WeightTree, stack: Callable[[range], Any]) -> Any:
    repeats = config.repeats
    if repeats.together or repeats.period == 1:
        return stack(stacked_layers(config, ("blocks", "0")))
    return {str(j): stack(repeats.layers(j)) for j in range(repeats.period)}
