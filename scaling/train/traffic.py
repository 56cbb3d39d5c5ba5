"""The collectives that a train step needs in theory: kind, mesh axis, bytes and times, from the declarations alone.

docs/sharding.md compares them with those of programs compiled for TPUs (benchmarks/collectives.py). Payloads are bytes
of the whole array that a group has or makes together. Weights travel in the compute dtype, gradients and partial sums
of products in float32, as they leave the multiplication.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from models import transformer
from models.config import ModelConfig
from models.layer import Layer
from models.sharding import DEFAULT_RULES, MeshConfig
from models.weight import walk
from scaling.train.config import TrainConfig
from scaling.train.memory import FLOAT32, Share, gathered_bytes, local_bytes, specs_by_path

FACTORS = {"all-reduce": 2.0}  # a ring reduces and gathers
# Per part of a layer, in units of the positions' features: a gather before its column-parallel product and the mirror
# image backwards, a scatter after its row-parallel one; recomputing a layer repeats all but the layer's last scatter.
TENSOR_GATHERS = {"none": 2, "dots": 3, "offload": 3, "full": 3}
TENSOR_SCATTERS = {"none": 2, "dots": 2, "offload": 2, "full": 3}


@dataclass(frozen=True)
class Traffic:
    """Collectives of the theory that serve one purpose: `payload` bytes in `arrays` of them, `times` per step.

    hidden: whether compute can go on meanwhile.
    """

    kind: str
    axis: str
    group: int
    payload: int
    times: int
    purpose: str
    hidden: bool = False
    arrays: int = 1

    @property
    def bytes(self) -> int:
        """Payload of all executions of one step."""
        return self.payload * self.times

    @property
    def sent(self) -> float:
        """Bytes that a device sends per step in a ring."""
        share = 1.0 if self.kind == "collective-permute" else (self.group - 1) / self.group
        return self.bytes * FACTORS.get(self.kind, 1.0) * share


def expected_traffic(model: ModelConfig, train: TrainConfig, mesh: MeshConfig) -> list[Traffic]:
    """Every collective of one step and device that moves more than a few numbers; the mesh is resolved and legal."""
    share = Share.of(model, train, mesh)
    parts = _parameters, _replicas, _tensor, _context, _experts, _pipeline
    times = Counter[Traffic]()  # layers of two kinds may send the same
    for traffic in (traffic for part in parts for traffic in part(share)):
        times[replace(traffic, times=0)] += traffic.times
    found = [replace(traffic, times=many) for traffic, many in times.items()]
    return [traffic for traffic in found if traffic.group > 1 and traffic.bytes > 0]


def runs(share: Share) -> int:
    """How often a stage's blocks run forwards per step, the idle ticks of a pipeline included."""
    stages = share.sizes["stage"]
    if stages == 1:
        return share.passes
    schedule = share.train.schedule_over(stages)
    return share.train.accumulate * (schedule.items + stages - 1) // schedule.rounds


def _parameters(share: Share) -> list[Traffic]:
    """ZeRO-3: every weight gathered for the forward and again for the backward pass, its gradient scattered once."""
    size, c = share.sizes["fsdp"], share.model
    if size == 1:
        return []
    reduced = _joined((*_copies(share), "fsdp"), share)  # over copies of the model in the same stroke
    three = share.sizes["stage"] > 1 and share.train.schedule_over(share.sizes["stage"]).kind == "1f1b"
    found = []
    for layer, count in share.kinds:
        declared = [w for _, w in walk(transformer.block_weights(c, layer))]
        weights = [w for w in declared if "fsdp" in str(DEFAULT_RULES.spec(w.axes))]
        block, times, many = gathered_bytes(share, weights), count * runs(share), len(weights)
        gradient = block * FLOAT32 // share.itemsize
        found += [
            Traffic("all-gather", "fsdp", size, block, (3 if three else 2) * times, "parameters of blocks", True, many),
            Traffic("reduce-scatter", *reduced, gradient, times, "gradients of blocks", True, many),
        ]
    head = share.vocab * c.d_model
    stream = share.tokens * c.d_model * share.itemsize
    return [
        *found,
        Traffic("all-gather", "fsdp", size, head * share.itemsize, share.passes, "head", True),
        Traffic("reduce-scatter", *reduced, head * FLOAT32, share.passes, "gradient of the head", True),
        Traffic("all-to-all", "fsdp", size, stream, 2 * share.passes, "token embeddings and their gradients"),
    ]


def _copies(share: Share) -> tuple[str, ...]:
    """Axes along which whole copies of the parameters lie."""
    return tuple(axis for axis in ("data", "context") if share.sizes[axis] > 1)


def _joined(axes: Sequence[str], share: Share) -> tuple[str, int]:
    """(axes written as one, devices along them), in mesh order."""
    ordered = [axis for axis in share.sizes if axis in axes]
    return "+".join(ordered), math.prod(share.sizes[axis] for axis in ordered)


def _replicas(share: Share) -> list[Traffic]:
    """Copies of the model agree on gradients, and on parameters where each has updated a share of them.

    The rows of the token table get their gradients where their tokens' features are sent.
    """
    weights = dict(walk(transformer.weights(share.model)))
    specs, zero, tied = specs_by_path(share), share.train.zero, share.model.tied_embeddings
    local = local_bytes(weights, specs.params, share.sizes, FLOAT32)
    reduced = {path: w for path, w in weights.items() if zero < 2 or tied or w.role != "embedding"}
    gradients = local_bytes(reduced, specs.params, share.sizes, FLOAT32)
    axes = _joined(_copies(share), share)
    kind = "reduce-scatter" if zero >= 2 else "all-reduce"
    many = share.layers * len(weights) if share.model.scan_layers else len(weights)
    found = []
    if share.sizes["fsdp"] == 1:
        found.append(Traffic(kind, *axes, gradients, share.passes, "gradients of copies", True, many))
    if zero >= 2:
        stream = share.tokens * share.model.d_model * share.itemsize
        found.append(Traffic("all-to-all", *axes, stream, share.passes, "gradients of token embeddings"))
    if zero >= 1:
        found.append(Traffic("all-gather", *axes, local, 1, "updated parameters", arrays=len(weights)))
    return found


def _tensor(share: Share) -> list[Traffic]:
    """Megatron's two all-reduces forwards and two backwards per block, each as a gather and a scatter of positions."""
    size, c = share.sizes["tensor"], share.model
    whole = share.tokens * c.d_model
    gathered, scattered = whole * share.itemsize, whole * FLOAT32
    parts = sum(count * len(layer.parts) for layer, count in share.kinds)
    scatters = TENSOR_SCATTERS[c.remat] * parts - (share.layers if c.remat == "full" else 0)
    return [
        Traffic("all-gather", "tensor", size, gathered, TENSOR_GATHERS[c.remat] * parts * runs(share),
                "positions of blocks"),
        Traffic("reduce-scatter", "tensor", size, scattered, scatters * runs(share), "partial sums of blocks"),
        Traffic("all-gather", "tensor", size, gathered, 2 * share.passes, "positions of head and table"),
        Traffic("reduce-scatter", "tensor", size, gathered, share.passes, "token embeddings"),
        Traffic("reduce-scatter", "tensor", size, scattered, share.passes, "gradient of the hidden states"),
    ]


def _context(share: Share) -> list[Traffic]:
    """Keys and values gathered, or sent round, and their gradients brought back."""
    return [traffic for layer, count in share.kinds for traffic in _keys(share, layer, count * runs(share))]


def _keys(share: Share, layer: Layer, times: int) -> list[Traffic]:
    """Of one kind of layer, which runs `times` per step."""
    size, item, again = share.sizes["context"], share.itemsize, 1 if share.model.remat == "none" else 2
    keys, steps = share.tokens * share.widths(layer).keys, size - 1
    if share.model.context == "ring":
        return [
            Traffic("collective-permute", "context", size, keys * item, again * steps * times, "keys and values"),
            Traffic("collective-permute", "context", size, keys * item, size * times, "keys and values, backwards"),
            Traffic("collective-permute", "context", size, keys * FLOAT32, size * times, "their gradients"),
        ]
    return [
        Traffic("all-gather", "context", size, size * keys * item, again * times, "keys and values", arrays=2),
        Traffic("reduce-scatter", "context", size, size * keys * item, times, "gradients of keys and values", arrays=2),
    ]


def _experts(share: Share) -> list[Traffic]:
    """Tokens on their way to their experts and back."""
    size, again = share.sizes["expert"], 1 if share.model.remat == "none" else 2
    return [
        Traffic(one.kind, "expert", size, one.elements * share.itemsize, (again + 1) * one.times * count * runs(share),
                one.purpose)
        for layer, count in share.kinds if layer.channel
        for one in layer.channel.exchanged(share.model.stream, share.tokens, size)
    ]  # fmt: skip


def _pipeline(share: Share) -> list[Traffic]:
    """What one stage hands to the next in every tick and its gradient on the way back, and what all of them share.

    The last stage's results go to all, since all take part in the head's products; gradients of the embeddings come
    back to all; under 1F1B also that of the head.
    """
    size, c = share.sizes["stage"], share.model
    if size == 1:
        return []
    schedule = share.train.schedule_over(size)
    boundary, item = share.stream * share.itemsize, share.itemsize
    passes, ticks = share.passes, share.train.accumulate * (schedule.items + size - 1)
    micro = share.tokens * c.d_model * item
    found = [
        Traffic("collective-permute", "stage", size, boundary, 2 * ticks, "boundary activations and gradients"),
        Traffic("all-reduce", "stage", size, micro, passes, "results of the last stage"),
        Traffic("all-reduce", "stage", size, micro, passes, "gradients of the embeddings"),
    ]
    if schedule.kind == "1f1b":
        weights = dict(walk(transformer.weights(c)))
        rest = {p: w for p, w in weights.items() if "blocks" not in p and (c.tied_embeddings or w.role != "embedding")}
        shared = local_bytes(rest, specs_by_path(share).params, share.sizes, FLOAT32)
        found.append(Traffic("all-gather", "stage", size, micro, passes, "gradients of the last stage's results"))
        found.append(Traffic("all-reduce", "stage", size, shared, share.train.accumulate, "gradient of the head"))
    return found
