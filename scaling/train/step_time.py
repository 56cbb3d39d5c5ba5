"""Seconds of a train step, and of a decode step, on given devices, estimated from exact counts and what they can do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from models import counts, transformer
from models.config import ModelConfig
from models.devices import Device
from models.layer import Layer
from models.sharding import AXES, MeshConfig
from models.weight import walk
from scaling.train.config import TrainConfig
from scaling.train.memory import FLOAT32, Share, block_weights, gathered_bytes, local_bytes, specs_by_path
from scaling.train.traffic import Traffic, expected_traffic, runs

OPTIMIZER_PASSES = 7  # AdamW reads parameter, gradient and two moments, and writes all but the gradient
# How often a block's forward pass reads or writes what no product holds: its gate, the residual stream, and queries,
# keys and values, or what a mixer without attention makes of the stream. A backward pass does so twice as often.
HIDDEN_PASSES, STREAM_PASSES, HEAD_PASSES = 10, 8, 4
SCORE_PASSES = 8  # of scores that no kernel fuses: masked, exponentials and sums taken; as often in the backward pass


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step. compute: products; memory: optimiser state; elementwise: what blocks do between products;
    exposed: axis -> collectives that nothing hides; bubble: idle ticks of a pipeline; overhead: what layers cost beside
    their work."""

    compute: float
    memory: float
    elementwise: float
    exposed: Mapping[str, float]
    bubble: float
    overhead: float

    @property
    def total(self) -> float:
        """All of it."""
        parts = self.compute, self.memory, self.elementwise, self.bubble, self.overhead
        return sum(parts) + sum(self.exposed.values())


def estimate_step(
    model: ModelConfig, train: TrainConfig, mesh: MeshConfig, device: Device, torus: Sequence[int] = ()
) -> StepTime:
    """Seconds of one step of one trial on a resolved, legal mesh; torus: sides of the torus that the devices form."""
    share = Share.of(model, train, mesh)
    devices = math.prod(mesh.sizes.values()) // mesh.trial
    tokens = train.tokens_per_step
    products = executed_flops(share, tokens) / devices / (device.flops * device.efficiency)
    once = sum(n * gathered_bytes(share, block_weights(share, layer)) for layer, n in share.kinds)
    weights = 3 * share.passes * once
    compute = max(products, _over(weights, device.bandwidth))
    stages = share.sizes["stage"]
    idle = train.schedule_over(stages).bubble if stages > 1 else 0.0
    declared = dict(walk(transformer.weights(share.model)))
    state = local_bytes(declared, specs_by_path(share).moments, share.sizes, FLOAT32)
    bandwidth = axis_bandwidths(mesh, device, torus)
    exposed = _exposed(expected_traffic(model, train, mesh), bandwidth, device, compute)
    return StepTime(
        compute=compute,
        memory=_over(OPTIMIZER_PASSES * state, device.bandwidth),
        elementwise=_over(elementwise_bytes(share, fused=bool(device.torus)), device.bandwidth),
        exposed=exposed,
        bubble=compute * idle / (1 - idle),
        overhead=device.overhead * 3 * share.layers * runs(share),
    )


def estimate_decode(model: ModelConfig, rows: int, context: int, device: Device) -> float:
    """Seconds in which one device decodes a token for each of `rows` rows that hold `context` tokens.

    The longer of reading (weights once, what layers keep once for each row) and the products, which reach the share of
    the device that those of a training step do.
    """
    read = counts.weight_read_bytes(model, rows) + rows * counts.decode_read_bytes(model, context)
    products = rows * counts.decode_flops(model, context) / (device.flops * device.efficiency)
    return max(_over(read, device.bandwidth), products) + device.overhead * len(model.layers)


def executed_flops(share: Share, tokens: int) -> int:
    """FLOPs that all devices execute for `tokens`: the model's, and what is done twice or for nothing.

    Rematerialisation repeats blocks, 1F1B runs every micro-batch again before its backward pass, and divided positions
    cannot skip what the last of them see.
    """
    c, seq, context, stages = share.model, share.train.seq_len, share.sizes["context"], share.sizes["stage"]
    flops = counts.train_flops(c, tokens, seq) + counts.remat_flops(c, tokens, seq)
    if stages > 1 and share.train.schedule_over(stages).kind == "1f1b":
        head = 2 * c.d_model * c.vocab_size * tokens
        flops += tokens * (counts.forward_flops(c, seq) // seq) - head
    if context > 1:  # the device of the last positions sees all keys, and the others wait for it
        repeats = 3 if c.remat == "none" else 4
        flops += repeats * (tokens // seq) * round(counts.attention_flops(c, seq) * (1 - 1 / context))
    return flops


def elementwise_bytes(share: Share, fused: bool) -> int:
    """Bytes that a device's blocks read and write in a step beside those of products, a pipeline's idle ticks included.

    fused: whether a kernel of the platform keeps the scores of divided positions; those of a ring never are.
    """
    return sum(n * _elementwise(share, layer, fused) for layer, n in share.kinds) * runs(share)


def _elementwise(share: Share, layer: Layer, fused: bool) -> int:
    c, tokens, widths = share.model, share.tokens, share.widths(layer)
    mixed = widths.queries + widths.keys if widths.heads else _drawn(layer, c) // share.sizes["tensor"]
    block = HIDDEN_PASSES * tokens * widths.hidden + STREAM_PASSES * share.stream + HEAD_PASSES * tokens * mixed
    total = 3 * block * share.itemsize
    if share.sizes["context"] > 1 and not (fused and c.context == "gather"):
        again = 3 if c.remat == "none" else 4  # forwards, once more for the backward pass, and that
        total += again * SCORE_PASSES * FLOAT32 * tokens * widths.heads * share.train.seq_len
    return total


def _drawn(layer: Layer, model: ModelConfig) -> int:
    """Features that a mixer without attention makes of a token's stream: what it convolves, gates and keeps a state of.

    They count as queries, keys and values do; what a mixer makes of these in turn is its kernel's and does not.
    """
    found = walk(layer.mixer.weights(model.stream))
    return sum(w.size // w.fan_in for _, w in found if w.role == "matrix" and w.input_axes == ("embed",))


def _over(amount: float, rate: float) -> float:
    return amount / rate if rate else 0.0


def _exposed(
    traffic: Sequence[Traffic], bandwidth: Mapping[str, float], device: Device, compute: float
) -> dict[str, float]:
    """Axis -> seconds of collectives, less what compute hides; hidden ones share it in proportion."""
    seconds: dict[tuple[str, bool], float] = {}
    for t in traffic:
        rate = min((bandwidth[axis] for axis in t.axis.split("+")), default=0.0)
        steps = t.arrays * t.times * (1 if t.kind == "collective-permute" else t.group - 1)
        key = t.axis, t.hidden
        seconds[key] = seconds.get(key, 0.0) + _over(t.sent, rate) + device.latency * steps
    hidden = sum(time for (_, can_hide), time in seconds.items() if can_hide)
    visible = max(0.0, 1 - device.overlap * compute / hidden) if hidden else 0.0
    visible = max(visible, 1 - device.overlap)
    exposed: dict[str, float] = {}
    for (axis, can_hide), time in seconds.items():
        exposed[axis] = exposed.get(axis, 0.0) + time * (visible if can_hide else 1.0)
    return exposed


def axis_bandwidths(mesh: MeshConfig, device: Device, torus: Sequence[int] = ()) -> dict[str, float]:
    """Mesh axis -> bytes/s that a device sends in a ring along it, one way counted.

    Axes take the sides of the torus from the innermost on: each side, or part of one, gives two links where it closes
    to a ring (4 devices or more), one where it does not. Axes that reach beyond `device.reach` use the network. A
    measured `device.matrix` (bytes/s from device to device) overrules all that: a ring is as fast as its slowest pair.
    """
    if device.matrix:
        return _measured(mesh, device.matrix)
    sides = [side * (device.per_chip if i == len(torus) - 1 else 1) for i, side in enumerate(torus)]
    rates, inner = {}, 1
    for axis in reversed(AXES):
        size = mesh.sizes[axis]
        links, left = 0, size
        for i in reversed(range(len(sides))):
            used = math.gcd(left, sides[i])
            if used > 1:
                links += 2 if used == sides[i] >= 4 else 1
                sides[i] //= used
                left //= used
        inner *= size
        within = inner <= device.reach
        rates[axis] = (device.link * (max(links, 1) if device.torus else 1)) if within else device.network
    return rates


def _measured(mesh: MeshConfig, matrix: Sequence[Sequence[float]]) -> dict[str, float]:
    rates, stride = {}, 1
    count = math.prod(mesh.sizes.values())
    for axis in reversed(AXES):
        size = mesh.sizes[axis]
        pairs = [(i, i + stride * (1 if i // stride % size < size - 1 else 1 - size)) for i in range(count) if size > 1]
        rates[axis] = min((matrix[i][j] for i, j in pairs), default=0.0)
        stride *= size
    return rates
