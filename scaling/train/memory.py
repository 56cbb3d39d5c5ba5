"""Bytes that a train step occupies on each device, estimated from the declarations without compiling anything.

The state is exact: every weight's shape divided as `state_specs` divides it. What lives only within a step is a sum
over what XLA was seen to keep at its peaks: while the loss is computed, while a block's backward pass runs, and while
copies of the model exchange what they updated (benchmarks/compile_tpu.py compares it with the TPU compiler;
docs/sharding.md has the table).
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from models import transformer
from models.channels.dense import Dense
from models.channels.experts import Experts
from models.config import ModelConfig
from models.cross_entropy import ACCELERATOR_LOGITS, CPU_LOGITS
from models.layer import Layer
from models.mixers.attention import Attention
from models.pipeline import Schedule
from models.sharding import DEFAULT_RULES, MeshConfig, mesh_axes, state_specs
from models.splash_attention import block_size
from models.weight import Weight, map_weights, walk
from scaling.train.config import TrainConfig
from scaling.train.layers import Widths, widths

Path = tuple[str, ...]
FLOAT32 = 4
LANES = 128  # of a TPU: shorter last dims are padded, and the splash kernel writes a log-sum-exp once for each
HIDDEN_COPIES = 5  # arrays as large as the feed-forward block's gate that its backward pass holds at once
STREAM_COPIES = 4  # the same for the residual stream
RING_SHARDS = 5  # shards of a gradient that a matrix product fused with its reduce-scatter holds
RING_FROM = 8  # devices from which XLA fuses the two
SCORES = 6  # bytes for each score that attention without a fused kernel holds: float32, and bfloat16 beside it


@dataclass(frozen=True)
class Share:
    """What one device has of a step.

    sizes: mesh axis -> devices, as the step runs on them (ZeRO below stage 3 moves `fsdp` into `data`).
    rows: sequences of one pass; passes: forward passes per step (accumulation x micro-batches of a pipeline).
    positions: of each sequence inside a block; residual: of the residual stream between blocks.
    vocab: as split by `tensor`. layers: of one pipeline stage.
    """

    model: ModelConfig
    train: TrainConfig
    sizes: Mapping[str, int]
    rows: int
    passes: int
    positions: int
    residual: int
    vocab: int
    layers: int

    @classmethod
    def of(cls, model: ModelConfig, train: TrainConfig, mesh: MeshConfig) -> Share:
        """The share of one device of a resolved mesh that divides the model and the batch."""
        c, sizes = model.resolved(), zero_sizes(mesh, train.zero)
        tensor, context = sizes["tensor"], sizes["context"]
        micro = schedule.microbatches if (schedule := _schedule(train, sizes)) else 1
        rows = train.batch_size // train.accumulate // micro
        positions = train.seq_len // context
        return cls(
            c,
            train,
            sizes,
            rows=max(1, rows // _ways(sizes)),
            passes=train.accumulate * micro,
            positions=positions,
            residual=positions // tensor if positions % tensor == 0 else positions,
            vocab=c.vocab_size // tensor,
            layers=c.n_layers // sizes["stage"],
        )

    @property
    def schedule(self) -> Schedule | None:
        """The pipeline's; None without stages."""
        return _schedule(self.train, self.sizes)

    @property
    def tokens(self) -> int:
        """Tokens of one pass inside a block."""
        return self.rows * self.positions

    @property
    def stream(self) -> int:
        """Elements of the residual stream of one pass, between blocks."""
        return self.rows * self.residual * self.model.d_model

    @property
    def itemsize(self) -> int:
        """Bytes of a number in the compute dtype."""
        return jnp.dtype(self.model.dtype).itemsize

    @functools.cached_property
    def kinds(self) -> tuple[tuple[Layer, int], ...]:
        """(layer, how many like it a stage has), in the order in which they first come."""
        return tuple((layer, n // self.sizes["stage"]) for layer, n in Counter(self.model.layers).items())

    def widths(self, layer: Layer) -> Widths:
        """Of one layer, as split by `tensor`."""
        return Widths(*(width // self.sizes["tensor"] for width in astuple(widths(self.model, layer))))


def _schedule(train: TrainConfig, sizes: Mapping[str, int]) -> Schedule | None:
    return train.schedule_over(sizes["stage"]) if sizes["stage"] > 1 else None


def zero_sizes(mesh: MeshConfig, zero: int) -> dict[str, int]:
    """Axis sizes as `zero_mesh` makes them."""
    sizes = dict(mesh.sizes)
    if zero < 3:
        sizes |= {"data": sizes["data"] * sizes["fsdp"], "fsdp": 1}
    return sizes


@dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    state: parameters and optimiser. saved: activations kept for the backward pass. copies: of the blocks' weights in
    the compute dtype. gradients: float32, accumulators included; early: those of them that are there during the loss.
    loss, block, update: what else lives while the loss, a block's backward pass and the new parameters are computed;
    forward: while a pipeline runs forwards. host: of the state, in the host's memory instead. padding: what tiles that
    are not full add to the state.
    """

    state: int
    batch: int
    saved: int
    copies: int
    gradients: int
    early: int
    loss: int
    block: int
    update: int
    host: int
    padding: int = 0
    forward: int = 0

    @property
    def peak(self) -> int:
        """The most that lives at once."""
        phases = self.early + max(self.loss, self.forward), self.gradients + self.block
        return self.state + self.padding + self.batch + max(self.saved + self.copies + max(phases), self.update)


def estimate_memory(model: ModelConfig, train: TrainConfig, mesh: MeshConfig, platform: str = "tpu") -> Memory:
    """Estimate for a resolved mesh that divides the model and the batch; platform "tpu", "gpu" or "cpu".

    One trial; every trial along `trial` has devices of its own.
    """
    share = Share.of(model, train, mesh)
    weights = dict(walk(transformer.weights(share.model)))
    specs = specs_by_path(share)
    params = local_bytes(weights, specs.params, share.sizes, jnp.dtype(share.model.param_dtype).itemsize)
    moments = _moments(share, weights, specs)
    offloaded = moments if train.offload == "optimizer" else 0
    blocks = {path: w for path, w in weights.items() if "blocks" in path and w.role == "matrix"}
    replicas = specs.params != specs.moments
    gradients, early = _gradients(share, weights, specs, platform)
    return Memory(
        state=params + moments - offloaded,
        batch=train.batch_size // _ways(share.sizes) * (train.seq_len + 1) * 4,
        saved=_saved(share, platform),
        copies=_copies(share, local_bytes(blocks, specs.params, share.sizes, share.itemsize), platform),
        gradients=gradients,
        early=early,
        loss=_loss(share, platform),
        block=_block(share, platform),
        update=local_bytes(weights, specs.params, share.sizes, FLOAT32) if replicas else 0,
        host=offloaded,
        padding=_padding(share, weights, specs) if platform == "tpu" else 0,
        forward=_forward(share, platform),
    )


def _ways(sizes: Mapping[str, int]) -> int:
    """Devices that hold different sequences."""
    return math.prod(sizes[axis] for axis in mesh_axes(DEFAULT_RULES.batch))


class Specs(NamedTuple):
    """`StateSpecs` with each tree as a flat dict: path -> PartitionSpec."""

    params: dict[Path, PartitionSpec]
    gradients: dict[Path, PartitionSpec]
    moments: dict[Path, PartitionSpec]


def specs_by_path(share: Share) -> Specs:
    """How the share's mesh divides parameters, gradients and moments."""
    mesh: Any = jax.sharding.AbstractMesh(tuple(share.sizes.values()), tuple(share.sizes))
    found = state_specs(transformer.weights(share.model), DEFAULT_RULES, mesh, share.train.zero)

    def flat(tree: Any) -> dict[Path, PartitionSpec]:
        leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, PartitionSpec))
        return {tuple(key.key for key in path): spec for path, spec in leaves}

    return Specs(*(flat(tree) for tree in found))


def local_shape(weight: Weight, spec: PartitionSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The part of a weight that one device holds."""
    ways = (math.prod(sizes[axis] for axis in mesh_axes(entry)) for entry in spec)
    return tuple(-(-size // way) for size, way in zip(weight.shape, ways, strict=True))


def local_bytes(
    weights: Mapping[Path, Weight], specs: Mapping[Path, PartitionSpec], sizes: Mapping[str, int], itemsize: int
) -> int:
    """Bytes of all weights on one device."""
    return sum(itemsize * math.prod(local_shape(w, specs[path], sizes)) for path, w in weights.items())


def _moments(share: Share, weights: Mapping[Path, Weight], specs: Specs) -> int:
    twice = {p: w for p, w in weights.items() if share.train.optimizer == "adamw" or w.role != "matrix"}
    once = {path: weight for path, weight in weights.items() if path not in twice}
    return sum(n * local_bytes(some, specs.moments, share.sizes, FLOAT32) for n, some in ((2, twice), (1, once)))


def _copies(share: Share, once: int, platform: str) -> int:
    """Bytes of the blocks' weights in the compute dtype; `once`: of one copy."""
    schedule = share.schedule
    if schedule and schedule.kind == "circular":  # each tick slices its run of layers, which are kept for its reverse
        return (schedule.items + schedule.stages - 1) * once // schedule.rounds
    return once if platform == "tpu" and share.model.param_dtype != share.model.dtype else 0


def _gradients(share: Share, weights: Mapping[Path, Weight], specs: Specs, platform: str) -> tuple[int, int]:
    """(bytes of gradients while the blocks' backward pass runs, while the loss is computed), accumulators included."""
    each = {path: local_bytes({path: w}, specs.gradients, share.sizes, FLOAT32) for path, w in weights.items()}
    blocks = sum(size for path, size in each.items() if "blocks" in path and weights[path].role == "matrix")
    accumulators = sum(each.values()) if share.train.accumulate > 1 else 0
    schedule = share.schedule
    if schedule:  # each tick stacks its layers' gradients, which are then added to the sums over ticks
        table = sum(size for path, size in each.items() if weights[path].role == "embedding")
        late = 0 if share.model.tied_embeddings else table  # rows that were looked up get theirs after the last tick
        whole = accumulators + sum(each.values()) - late + blocks
        # 1F1B computes the loss in its ticks, where zeros to stack gradients in are there as well
        return whole, whole if schedule.kind == "1f1b" else accumulators + blocks
    # in the order that XLA chooses, zeros to add the blocks' gradients to come before any loop that the loss contains
    loops = _chunks(share, platform) > 1 or share.sizes["fsdp"] >= RING_FROM or share.sizes["tensor"] > 1
    return accumulators + sum(each.values()), accumulators + (blocks if loops else 0)


def _padding(share: Share, weights: Mapping[Path, Weight], specs: Specs) -> int:
    """Bytes that tiles waste where features are split too far to fill the lanes.

    Attention: short heads lie last then, padded to the lanes, in the moments and in the weights that are updated from
    them. The token table: its features do.
    """
    assert share.model.head_dim
    itemsize = jnp.dtype(share.model.param_dtype).itemsize
    total = 0.0
    for path, weight in weights.items():
        if weight.role == "matrix" and "attention" in path and "embed" in weight.axes:
            last = share.model.head_dim
        elif weight.axes == ("vocab", "embed"):
            last = local_shape(weight, specs.moments[path], share.sizes)[1]
        else:
            continue
        if local_shape(weight, specs.moments[path], share.sizes)[weight.axes.index("embed")] % LANES:
            mine = local_bytes({path: weight}, specs.params, share.sizes, itemsize)
            total += -last % LANES / last * (mine + _moments(share, {path: weight}, specs))
    return round(total)


def gathered_bytes(share: Share, weights: Iterable[Weight]) -> int:
    """Bytes of weights as they are computed with: whole over `fsdp`, in the compute dtype; of one layer if stacked."""
    total = 0
    for weight in weights:
        one = weight.layer() if hasattr(weight, "layer") else weight
        total += math.prod(local_shape(one, DEFAULT_RULES.used(one.axes), share.sizes)) * share.itemsize
    return total


def block_weights(share: Share, layer: Layer) -> list[Weight]:
    """The matrices of one layer."""
    return [w for part in layer.parts for _, w in walk(part.weights(share.model.stream)) if w.role == "matrix"]


def _layer(share: Share, layer: Layer, platform: str) -> int:
    """Activations that one layer keeps of one pass from the forward to the backward pass."""
    c, tokens, item, widths = share.model, share.tokens, share.itemsize, share.widths(layer)
    head = widths.queries // widths.heads if widths.heads else LANES
    padded = -(-head // LANES) * LANES / head if platform == "tpu" else 1  # heads lie last
    queries, keys, hidden = widths.queries, widths.keys, _gates(c) * widths.hidden
    products = tokens * (padded * (queries + keys) + hidden) + share.stream
    everything = tokens * (queries + padded * (2 * queries + keys) + 3 * hidden + 2 * widths.heads) + 3 * share.stream
    if share.sizes["tensor"] > 1:  # what both products read is gathered over positions
        everything += 2 * tokens * c.d_model - share.stream
    extra = {"full": 0, "offload": 0, "dots": products, "none": everything}[c.remat]
    return round((share.stream + extra) * item)


def _saved(share: Share, platform: str) -> int:
    """Activations kept from the forward pass to the backward pass."""
    tick, schedule = _tick(share, platform), share.schedule
    if schedule is None:
        return tick
    stream = share.stream * share.itemsize
    ends = 2 * schedule.microbatches * stream  # what enters the first stage, and its gradient
    if schedule.kind != "1f1b":
        return ends + (schedule.items + schedule.stages - 1) * tick
    inputs = (min(schedule.microbatches, 2 * schedule.stages - 1) + 2) * stream  # two are on their way
    # Two stages end with a single tick of backward work, which is no loop then, and XLA sets its activations aside
    # before the loop in front of it.
    return ends + inputs + (2 if schedule.stages == 2 else 1) * tick


def _tick(share: Share, platform: str) -> int:
    """What all layers that a stage runs in one tick, or one device in one pass, keep."""
    rounds = share.schedule.rounds if share.schedule else 1
    total = 0
    for layer, count in share.kinds:
        fitted = all(map(_fitted, layer.parts))
        total += count * (_layer(share, layer, platform) if fitted else residual_bytes(share, layer))
    return total // rounds


def _fitted(part: Any) -> bool:
    """Whether the formulas here are fitted to it: not to experts behind a bottleneck, whose width is another."""
    return type(part) in (Attention, Dense) or (isinstance(part, Experts) and part.bottleneck is None)


def residual_bytes(share: Share, layer: Layer) -> int:
    """What JAX keeps of one layer for its backward pass, by the shapes of its vjp: for parts that no formula here is
    fitted to. What has d_model features is divided as the residual stream is, the rest over `tensor`.

    Of attention and feed-forward blocks it is within 0.3 % of the fitted formula, before what a TPU's tiles add.
    """
    stream, rest = _residuals(share.model, layer, share.rows, share.positions)
    return stream * share.residual // share.positions + rest // share.sizes["tensor"]


@functools.lru_cache(maxsize=256)
def _residuals(model: ModelConfig, layer: Layer, rows: int, positions: int) -> tuple[int, int]:
    """(bytes with d_model features, others) that the vjp of one layer keeps besides its weights."""
    dtype, param_dtype = jnp.dtype(model.dtype), jnp.dtype(model.param_dtype)

    def shape(w: Weight) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(w.shape, jnp.dtype("float32") if w.exact else param_dtype)

    weights = map_weights(shape, transformer.block_weights(model, layer))
    x = jax.ShapeDtypeStruct((rows, positions, model.d_model), dtype)

    def kept(w: Any, x: jax.Array) -> Any:
        at, tokens = jnp.arange(positions)[None], jnp.zeros((rows, positions), jnp.int32)

        def run(w: Any, x: Any) -> Any:
            return transformer.run_layer(model, layer, w, x, at, None, tokens)[0]

        return jax.vjp(run, w, model.wired.enter(model.stream, (layer,), x))[1]

    own = {leaf.shape for leaf in jax.tree.leaves(weights)}
    leaves = [leaf for leaf in jax.tree.leaves(jax.eval_shape(kept, weights, x)) if leaf.shape not in own]
    stream = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves if leaf.shape[-1:] == (model.d_model,))
    return stream, sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) - stream


def _gates(config: ModelConfig) -> int:
    return 2 if config.gated else 1


def _chunks(share: Share, platform: str) -> int:
    """Stretches of positions that `cross_entropy` cuts a pass into."""
    limit = CPU_LOGITS if platform == "cpu" else ACCELERATOR_LOGITS * math.prod(share.sizes.values())
    rows, length, schedule = share.train.batch_size // share.train.accumulate, share.train.seq_len, share.schedule
    if schedule and schedule.kind == "1f1b":  # a stage's stretch of one micro-batch
        rows, length = rows // schedule.microbatches, -(-length // schedule.stages)
    return min(length, -(-rows * length * share.model.vocab_size // limit))


def _in_rings(share: Share) -> bool:
    """Whether gradients are scattered in rings; shards that do not fill the lanes are cut from one reduced whole."""
    ways = share.sizes["fsdp"] * (share.sizes["data"] if share.train.zero >= 2 else 1)
    return share.sizes["fsdp"] >= RING_FROM and share.model.d_model // ways % LANES == 0


def _loss(share: Share, platform: str) -> int:
    """Logits of a chunk and the head's gradient, beside the gathered head and the hidden states."""
    c, fsdp, item, chunks = share.model, share.sizes["fsdp"], share.itemsize, _chunks(share, platform)
    stages, tokens = share.sizes["stage"], share.tokens
    if share.schedule and share.schedule.kind != "1f1b":  # all micro-batches at once
        tokens = tokens * share.schedule.microbatches
    logits = FLOAT32 * tokens * share.vocab // chunks // stages  # which share the positions
    head = c.d_model * share.vocab
    shard = FLOAT32 * head // fsdp
    if _in_rings(share):  # which read their gradient from memory, in half the bytes
        peak = max(1.5 * logits, 0.5 * logits + RING_SHARDS * shard)
    else:
        peak = logits + FLOAT32 * head
    kept = shard if chunks > 1 else 0
    kept += (
        FLOAT32 * share.tokens * c.d_model if share.sizes["tensor"] > 1 else 0
    )  # partial sums before they are scattered
    return round(peak) + kept + item * head + 3 * item * max(tokens // stages, share.tokens) * c.d_model


def _block(share: Share, platform: str) -> int:
    """The largest layer's backward pass: gathered weights, activations computed again, a gradient before it is
    scattered."""
    read = _tick(share, platform) if share.schedule and share.schedule.kind != "1f1b" else 0  # from those of all ticks
    return max(_backward(share, layer, platform) for layer, _ in share.kinds) + read


def _backward(share: Share, layer: Layer, platform: str) -> int:
    c, tokens, item, fsdp = share.model, share.tokens, share.itemsize, share.sizes["fsdp"]
    parts, widths = block_weights(share, layer), share.widths(layer)
    gathered = gathered_bytes(share, parts) if fsdp > 1 else 0
    hidden = (HIDDEN_COPIES if c.gated else HIDDEN_COPIES - 2) * widths.hidden
    stream = STREAM_COPIES * c.d_model + 2 * widths.queries + widths.keys
    largest = max(gathered_bytes(share, [w]) for w in parts) * FLOAT32 // item
    reduced = RING_SHARDS * largest // fsdp if _in_rings(share) else largest + largest // fsdp
    return (hidden + stream) * tokens * item + _scores(share, widths, platform) + gathered + reduced


def _forward(share: Share, platform: str) -> int:
    """What a pipeline that JAX reverses holds in a forward tick: its activations, before they join those of all ticks,
    a block's work and, under GPipe, gathered weights.

    The same weights serve all ticks, so JAX takes their gathers out of the loop: those of all layers of a stage are
    whole at once. Where rounds take turns on them, and in 1F1B's ticks, each layer gathers its own.
    """
    schedule = share.schedule
    if schedule is None or schedule.kind == "1f1b":
        return 0
    once = schedule.kind == "gpipe" and share.sizes["fsdp"] > 1
    gathered = sum(n * gathered_bytes(share, block_weights(share, layer)) for layer, n in share.kinds) if once else 0
    hidden = max(share.widths(layer).hidden for layer, _ in share.kinds)
    return gathered + _tick(share, platform) + _gates(share.model) * hidden * share.tokens * share.itemsize


def _scores(share: Share, widths: Widths, platform: str) -> int:
    """What attention keeps of its scores: row sums in the splash kernel, whole squares where nothing fuses them."""
    split = share.sizes["context"] > 1
    if platform == "tpu" and block_size(share.positions) and not (split and share.model.context == "ring"):
        return FLOAT32 * LANES * share.tokens * widths.heads
    if platform == "gpu" and not split:
        return FLOAT32 * share.tokens * widths.heads
    keys = share.positions if share.model.context == "ring" else share.train.seq_len
    return SCORES * share.tokens * widths.heads * keys
