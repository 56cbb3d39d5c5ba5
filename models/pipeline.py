"""Pipeline parallelism over the mesh axis `stage`: layers are divided over stages, micro-batches pass through them.

Every stage runs one program (`shard_map` over `stage` alone; the other axes stay XLA's), in ticks: a stage works on
one micro-batch, then hands its result to its neighbour.

gpipe      all forward ticks, then JAX's reverse of them (Huang et al. 2019): (p - 1) / (m + p - 1) of p stages' ticks
           are idle with m micro-batches.
circular   each stage holds v separate runs of layers, and a micro-batch goes v times around (Narayanan et al. 2021,
           "interleaved"): (p - 1) / (v m + p - 1). Micro-batches must be a multiple of the stages.
1f1b       backward work starts as soon as the first micro-batch is through (Narayanan et al. 2019), so a stage keeps
           the inputs of at most 2 p - 1 micro-batches instead of the activations of all m. A forward tick alone p - 1
           times, both m times, a backward tick alone p - 1 times: idle as gpipe's. The vjp is written by hand, since
           JAX can only reverse a schedule as a whole, and recomputes each stage's forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from models import transformer
from models.config import ModelConfig
from models.cross_entropy import cross_entropy
from models.errors import require
from models.routing import Routing, collect
from models.sharding import DEFAULT_RULES, axis_size, constrain, fitted, free_axes, summable

Params = dict[str, Any]
STAGE = "stage"


@dataclass(frozen=True)
class Schedule:
    """Which micro-batch each stage works on at each tick; `rounds` is how often one passes through every stage."""

    kind: Literal["gpipe", "circular", "1f1b"]
    stages: int
    microbatches: int
    rounds: int = 1

    def __post_init__(self) -> None:
        for field in ("stages", "microbatches", "rounds"):
            value = getattr(self, field)
            require(value >= 1, field, f"is {value}", "give a positive integer")
        circular = self.kind == "circular"
        problem = f"{self.microbatches} is no multiple of the {self.stages} stages that a circular pipeline fills"
        fits = not circular or self.microbatches % self.stages == 0
        require(fits, "microbatches", problem, f"use a multiple of {self.stages}")
        problem = f"is {self.rounds}, but a {self.kind} pipeline goes round once"
        require(circular or self.rounds == 1, "rounds", problem, "use 1, or the circular schedule")

    @property
    def items(self) -> int:
        """Forward work of one stage, in ticks."""
        return self.rounds * self.microbatches

    @property
    def bubble(self) -> float:
        """Idle share of all stages' ticks: (p - 1) / (v m + p - 1)."""
        return (self.stages - 1) / (self.items + self.stages - 1)

    def timeline(self) -> np.ndarray:
        """What runs when, as the programs below do it: `[ticks, stages, 2]` int, the item of the forward and of the
        backward slot; -1 idle, -2 no such slot in this tick."""
        p, n = self.stages, self.items
        stage = np.arange(p)

        def row(ticks: range, item: Callable[[int], np.ndarray] | None) -> np.ndarray:
            if item is None:
                return np.full((len(ticks), p), -2)
            found = np.array([item(t) for t in ticks], int).reshape(-1, p)
            return np.where((found >= 0) & (found < n), found, -1)

        def phase(ticks: range, forward: Any, backward: Any) -> np.ndarray:
            return np.stack([row(ticks, forward), row(ticks, backward)], -1)

        if self.kind != "1f1b":  # JAX reverses the forward ticks
            there = phase(range(n + p - 1), lambda t: t - stage, None)
            return np.concatenate([there, there[::-1, :, ::-1]])
        forward, backward = (lambda t: t - stage), (lambda t: t - 2 * (p - 1) + stage)
        alone, both, last = range(p - 1), range(p - 1, n + p - 1), range(n + p - 1, n + 2 * (p - 1))
        phases = ((alone, forward, None), (both, forward, backward), (last, None, backward))
        return np.concatenate([phase(*slots) for slots in phases])


def idle_share(timeline: np.ndarray) -> float:
    """Idle slots over slots of a `Schedule.timeline`: forward and backward slots weigh alike."""
    return float((timeline == -1).sum() / (timeline >= -1).sum())


class Totals(NamedTuple):
    """Sums over sequences: loss in nats, weight of the scored targets and, with experts, the routers' penalty and
    statistics (models.routing.Routing); float32 scalars."""

    loss: jax.Array
    weight: jax.Array
    penalty: jax.Array | None = None
    balance: jax.Array | None = None
    dropped: jax.Array | None = None

    @property
    def objective(self) -> jax.Array:
        """What training minimises, summed."""
        return self.loss if self.penalty is None else self.loss + self.penalty


class Micro(NamedTuple):
    """The inputs of the pipeline, micro-batches first: tokens and targets `[m, batch, seq]`, weights of the targets,
    and segments (or None)."""

    tokens: jax.Array
    targets: jax.Array
    weights: jax.Array
    segments: jax.Array | None


def pipelined_loss(
    config: ModelConfig,
    schedule: Schedule,
    params: Params,
    tokens: jax.Array,
    *,
    loss_weights: jax.Array | None = None,
    segments: jax.Array | None = None,
) -> tuple[jax.Array, Totals]:
    """(summed loss + penalty, its parts): `transformer.loss` or `routed_loss` through the pipeline; inputs alike.

    `config.scan_layers` is set, `schedule.stages` is the size of the current mesh's axis `stage`. Differentiable in
    params.
    """
    config = config.resolved()
    inputs, targets, score, segments = transformer.shifted(tokens, loss_weights, segments)
    micro = jax.tree.map(partial(_split_rows, m=schedule.microbatches), Micro(inputs, targets, score, segments))
    x = transformer.embed(config, params, inputs, jnp.arange(inputs.shape[1])[None])
    x = jax.tree.map(lambda x: constrain(_split_rows(x, schedule.microbatches), ("micro", *transformer.RESIDUAL)), x)
    blocks = jax.tree.map(partial(_to_stages, schedule=schedule), params["blocks"])
    rest = {name: value for name, value in params.items() if name != "blocks"}
    if schedule.kind == "1f1b":
        objective, totals = _one_forward_one_backward(config, schedule, blocks, rest, x, micro)
        return objective, jax.lax.stop_gradient(totals)
    y, routing = _circulate(config, schedule, blocks, x, micro)
    loss = _head_loss(config, rest, jax.tree.map(_join_rows, y), targets, score)
    totals = Totals(loss, score.sum(), *routing)
    return totals.objective, totals


def _split_rows(x: jax.Array, m: int) -> jax.Array:
    """`[batch, ...]` -> `[m, batch / m, ...]`: every m-th sequence, so that a batch split over devices stays there."""
    return x.reshape(-1, m, *x.shape[1:]).swapaxes(0, 1)


def _join_rows(x: jax.Array) -> jax.Array:
    """Inverse of `_split_rows`."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])


def _to_stages(w: jax.Array, schedule: Schedule) -> jax.Array:
    """`[layers, ...]` in the order of the stages `[stage, round, layers of one, ...]`; moves weights if rounds > 1."""
    p, v = schedule.stages, schedule.rounds
    return w.reshape(v, p, w.shape[0] // (v * p), *w.shape[1:]).swapaxes(0, 1)


def _head_loss(config: ModelConfig, rest: Params, y: Any, targets: jax.Array, weights: jax.Array) -> jax.Array:
    """Summed loss of what the last block handed on, y `[batch, seq, ...]`."""
    hidden, head = transformer.unembed(config, rest, y)
    return cross_entropy(hidden, head, targets, weights, softcap=config.logit_softcap)[0]


def _stage(
    config: ModelConfig, layers: Params, x: Any, own: Micro
) -> tuple[Any, Routing | None]:
    """One stage's groups of the pattern, `[n, ...]` each leaf, on x `[batch, seq, ...]` of one micro-batch."""
    positions = jnp.arange(own.tokens.shape[1])[None]
    x, routings = transformer.run_repeats(config, layers, x, positions, own.segments, own.tokens)
    return x, collect(routings) if routings else None


def _varying(tree: Any) -> Any:
    """Values that are alike on all stages, which from here on may differ."""

    def mark(x: jax.Array) -> jax.Array:  # whose gradient is the sum over stages
        return jax.lax.pcast(summable(x), (STAGE,), to="varying").astype(x.dtype)

    return jax.tree.map(mark, tree)


def _summed(tree: Any) -> Any:
    """The sum over stages."""
    return jax.tree.map(lambda x: jax.lax.psum(summable(x), STAGE).astype(x.dtype), tree)


def _penalty_and_statistics(routing: Routing | None, weights: jax.Array, scale: jax.Array) -> tuple[jax.Array, ...]:
    """What one run of layers adds to penalty, balance and dropped of `Totals`; weights `[batch, seq]`.

    scale: the run's share of the model's layers, since balance and dropped are means over layers; 0 for an idle slot.
    """
    if routing is None:
        return (0 * scale,)
    counted = jnp.where(scale > 0, jnp.sum(routing.penalty * weights.sum(1)), 0)
    return counted, scale * routing.balance.sum(), scale * routing.dropped.sum()


def _zero_statistics(config: ModelConfig) -> tuple[jax.Array, ...]:
    return (jnp.zeros((), jnp.float32),) * (3 if config.routed else 1)


def _ring(x: Any, schedule: Schedule, step: int) -> Any:
    """x of the stage `step` before this one."""
    p = schedule.stages
    return jax.lax.ppermute(x, STAGE, [(i, (i + step) % p) for i in range(p)])


def _where(here: jax.Array, x: Any, otherwise: Any = None) -> Any:
    """x where `here`, elsewhere the other tree, or zeros."""
    otherwise = jax.tree.map(jnp.zeros_like, x) if otherwise is None else otherwise
    return jax.tree.map(lambda a, b: jnp.where(here, a, b), x, otherwise)


def _at(x: Any, i: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, i, keepdims=False), x)


def _put(buffer: Any, value: Any, i: jax.Array, valid: jax.Array) -> Any:
    """buffer with `value` at index i where valid."""

    def one(buffer: jax.Array, value: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(buffer, jnp.where(valid, value, _at(buffer, i)), i, 0)

    return jax.tree.map(one, buffer, value)


def _first(x: Any) -> Any:
    """Zeros like the first micro-batch of x."""
    return jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), x)


# -- gpipe and circular -------------------------------------------------------------------------------------------


def _circulate(
    config: ModelConfig, schedule: Schedule, blocks: Params, x: Any, micro: Micro
) -> tuple[Any, tuple]:
    """(what the last block hands on `[m, batch, seq, ...]`, (penalty, balance, dropped)), differentiable by JAX."""
    p, v = schedule.stages, schedule.rounds

    def every_stage(blocks: Params, x: Any, micro: Micro) -> tuple[Any, tuple]:
        stage = jax.lax.axis_index(STAGE)
        blocks = jax.tree.map(lambda w: w[0], blocks)  # [round, layers of one, ...]

        def tick(carry: tuple, t: jax.Array) -> tuple[tuple, None]:
            arriving, done, statistics = carry
            item = t - stage
            valid = (item >= 0) & (item < schedule.items)
            item = jnp.clip(item, 0, schedule.items - 1)
            turn, index = item % (p * v) // p, item // (p * v) * p + item % p  # p micro-batches take turns
            own = _at(micro, index)
            start = (stage == 0) & (turn == 0)
            layers = _at(blocks, turn) if v > 1 else jax.tree.map(lambda w: w[0], blocks)
            y, routing = _stage(config, layers, _where(start, _at(x, index), arriving), own)
            scale = jnp.where(valid, 1 / (p * v), 0)
            added = _penalty_and_statistics(routing, own.weights, scale)
            done = _put(done, y, index, valid & (turn == v - 1))
            return (_ring(y, schedule, 1), done, jax.tree.map(jnp.add, statistics, added)), None

        x, micro = _varying((x, micro))
        carry = (_first(x), jax.tree.map(jnp.zeros_like, x), _varying(_zero_statistics(config)))
        (_, done, statistics), _ = jax.lax.scan(tick, carry, jnp.arange(schedule.items + p - 1))
        done = _where(stage == p - 1, done)  # other stages' results are halfway through the model
        return _summed((done, statistics))

    y, statistics = _over_stages(every_stage, blocks, x, micro)
    return y, _padded(statistics)


def _over_stages(f: Callable[..., Any], blocks: Params, *args: Any) -> Any:
    """`shard_map` of f over `stage` alone: blocks are split by their first dim, all else is shared."""
    split, shared = PartitionSpec(STAGE), PartitionSpec()
    specs = (split, *[shared] * len(args))
    return jax.shard_map(f, in_specs=specs, out_specs=shared, axis_names={STAGE})(blocks, *args)


def _padded(statistics: tuple[jax.Array, ...]) -> tuple:
    return statistics if len(statistics) == 3 else (statistics[0], None, None)


# -- 1f1b ---------------------------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _one_forward_one_backward(
    config: ModelConfig, schedule: Schedule, blocks: Params, rest: Params, x: Any, micro: Micro
) -> tuple[jax.Array, Totals]:
    """(objective, totals); as in `cross_entropy`, differentiating it runs forward and backward at once."""
    y, statistics = _circulate(config, schedule, blocks, x, micro)
    y, targets, weights = jax.tree.map(_join_rows, (y, micro.targets, micro.weights))
    loss = _head_loss(config, rest, y, targets, weights)
    totals = Totals(loss, micro.weights.sum(), *statistics)
    return totals.objective, totals


def _forward(
    config: ModelConfig, schedule: Schedule, blocks: Params, rest: Params, x: Any, micro: Micro
) -> tuple[tuple[jax.Array, Totals], tuple]:
    every_stage = partial(_alternate, config, schedule)
    shared, split = PartitionSpec(), PartitionSpec(STAGE)
    run = jax.shard_map(
        every_stage, in_specs=(split, shared, shared, shared), out_specs=(shared, split, shared, shared),
        axis_names={STAGE},
    )  # fmt: skip
    (loss, *statistics), d_blocks, d_rest, d_x = run(blocks, rest, x, micro)
    totals = Totals(loss, micro.weights.sum(), *_padded(tuple(statistics)))
    gradients = jax.tree.map(lambda g, w: g.astype(w.dtype), (d_blocks, d_rest, d_x), (blocks, rest, x))
    return (totals.objective, totals), gradients


def _backward(config: ModelConfig, schedule: Schedule, gradients: tuple, cotangent: tuple) -> tuple:
    scale = cotangent[0]
    return *jax.tree.map(lambda g: (scale * g).astype(g.dtype), gradients), None


_one_forward_one_backward.defvjp(_forward, _backward)


class Carry(NamedTuple):
    """What a stage holds between ticks: activations and cotangents on their way, inputs kept for the backward pass
    `[2 p - 1 at most, ...]`, gradients so far in float32, and the sums (loss, penalty, balance, dropped)."""

    arriving: Any
    returning: Any
    inputs: Any
    d_blocks: Params
    d_rest: Params
    d_x: Any
    sums: tuple


def _alternate(
    config: ModelConfig, schedule: Schedule, blocks: Params, rest: Params, x: Any, micro: Micro
) -> tuple:
    """The program of one stage: (sums, d_blocks of this stage, d_rest, d_x), all of the summed loss."""
    p, m = schedule.stages, schedule.microbatches
    stage = jax.lax.axis_index(STAGE)
    blocks = jax.tree.map(lambda w: w[0, 0], blocks)
    rest, x, micro = _varying((rest, x, micro))
    kept = min(m, 2 * p - 1)

    def item(n: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.clip(n, 0, m - 1), (n >= 0) & (n < m)

    def forward(c: Carry, t: jax.Array) -> tuple[Carry, Any]:
        index, valid = item(t - stage)
        start = _where(stage == 0, _at(x, index), c.arriving)
        y, _ = _stage(config, blocks, start, _at(micro, index))
        return c._replace(arriving=_ring(y, schedule, 1), inputs=_put(c.inputs, start, index % kept, valid)), y

    def head(c: Carry, t: jax.Array, y: Any) -> tuple[Carry, Any]:
        index, _ = item(t - (p - 1))  # valid whenever this runs
        last = _summed(_where(stage == p - 1, y))
        loss, (d_rest, d_y) = _shared_head(config, rest, _varying(last), _at(micro, index))
        d_rest = jax.tree.map(lambda a, b: a + b.astype(jnp.float32), c.d_rest, d_rest)
        return c._replace(d_rest=d_rest, sums=(c.sums[0] + loss, *c.sums[1:])), d_y

    def backward(c: Carry, t: jax.Array, d_y: Any) -> Carry:
        index, valid = item(t - 2 * (p - 1) + stage)
        own = _at(micro, index)

        def run(layers: Params, start: Any) -> tuple[tuple[Any, jax.Array], tuple]:
            y, routing = _stage(config, layers, start, own)
            scale = jnp.where(valid, 1 / p, 0)
            statistics = _penalty_and_statistics(routing, own.weights, scale)
            return (y, statistics[0]), statistics

        _, vjp, statistics = jax.vjp(run, blocks, _at(c.inputs, index % kept), has_aux=True)
        d_y = _where(stage == p - 1, d_y, c.returning)
        d_layers, d_start = vjp((_where(valid, d_y), _varying(jnp.float32(1))))
        d_blocks = jax.tree.map(lambda a, b: a + b.astype(jnp.float32), c.d_blocks, d_layers)
        sums = (c.sums[0], *jax.tree.map(jnp.add, c.sums[1:], statistics))
        d_x = _put(c.d_x, d_start, index, valid & (stage == 0))
        return c._replace(returning=_ring(d_start, schedule, -1), d_blocks=d_blocks, d_x=d_x, sums=sums)

    def both(c: Carry, t: jax.Array) -> tuple[Carry, None]:
        c, y = forward(c, t)
        c, d_y = head(c, t, y)
        return backward(c, t, d_y), None

    zeros = partial(jax.tree.map, lambda w: jnp.zeros_like(w, jnp.float32))
    empty = _first(x)
    sums = _varying((jnp.zeros((), jnp.float32), *_zero_statistics(config)))
    inputs = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[:kept]), x)
    c = Carry(empty, empty, inputs, zeros(blocks), zeros(rest), jax.tree.map(jnp.zeros_like, x), sums)
    c, _ = jax.lax.scan(lambda c, t: (forward(c, t)[0], None), c, jnp.arange(p - 1))
    c, _ = jax.lax.scan(both, c, jnp.arange(p - 1, m + p - 1))
    c, _ = jax.lax.scan(lambda c, t: (backward(c, t, empty), None), c, jnp.arange(m + p - 1, m + 2 * (p - 1)))
    d_blocks = jax.tree.map(lambda g: g[None, None], c.d_blocks)
    return _summed(c.sums), d_blocks, _summed(c.d_rest), _summed(c.d_x)


def _shared_head(config: ModelConfig, rest: Params, y: Any, own: Micro) -> tuple[jax.Array, tuple]:
    """(this stage's part of the loss, its gradients in rest and in all of y): stages share the head's products by
    taking turns on the positions of y `[batch, seq, ...]`."""
    p, stage = axis_size(STAGE), jax.lax.axis_index(STAGE)
    seq = own.targets.shape[1]
    length = -(-seq // p)

    def part(a: jax.Array) -> jax.Array:  # padded positions have weight 0
        a = jnp.pad(a, [(0, 0), (0, p * length - a.shape[1])] + [(0, 0)] * (a.ndim - 2))
        return jax.lax.dynamic_slice_in_dim(a, stage * length, length, 1)

    def loss(rest: Params, y: Any) -> jax.Array:
        return _head_loss(config, rest, y, part(own.targets), part(own.weights))

    value, (d_rest, d_part) = jax.value_and_grad(loss, (0, 1))(rest, jax.tree.map(part, y))
    return value, (d_rest, jax.tree.map(lambda d: _all_positions(d)[:, :seq], d_part))


def _all_positions(part: jax.Array) -> jax.Array:
    """The stages' stretches of positions `[batch, length, d_model]`, joined to `[batch, stages x length, d_model]`.

    By hand over the other axes too: XLA gathers over all of them what it gathers over one that alone is split by hand.
    """
    spec = fitted(DEFAULT_RULES.spec(("batch", "all", "residual")), part.shape)
    gather = partial(jax.lax.all_gather, axis_name=STAGE, axis=1, tiled=True)
    return jax.shard_map(gather, in_specs=spec, out_specs=spec, axis_names=set(free_axes()))(part)
