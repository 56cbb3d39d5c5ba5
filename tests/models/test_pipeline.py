"""Schedules: their order, their bubbles, their memory, and that what they compute is the unpipelined model."""

from __future__ import annotations

import dataclasses
import functools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from models import counts, transformer
from models.config import ModelConfig
from models.errors import ConfigError
from models.pipeline import Schedule, idle_share, pipelined_loss
from models.sharding import DEFAULT_RULES, MeshConfig, make_mesh, weight_shardings
from tests.models.test_counts import flops_of, plain_kernels

MODEL = ModelConfig(
    vocab_size=32, d_model=16, n_layers=16, n_heads=4, n_kv_heads=2, d_ff=24, scan_layers=True, tied_embeddings=False,
    sliding_window=5, layer_types=("sliding", "full"),
).resolved()  # fmt: skip
BATCH, SEQ = 12, 10
SCHEDULES = [
    Schedule("gpipe", 4, 6),
    Schedule("circular", 4, 4, rounds=2),
    Schedule("circular", 2, 6, rounds=4),
    Schedule("1f1b", 4, 6),
    Schedule("1f1b", 4, 2),  # fewer micro-batches than stages
]
GRID = [
    *(Schedule(kind, p, m) for kind in ("gpipe", "1f1b") for p in (1, 2, 3, 8) for m in (1, 2, 5, 16)),
    *(Schedule("circular", p, m, v) for p in (1, 2, 4) for m in (p, 3 * p) for v in (1, 2, 5)),
]


def name(schedule: Schedule) -> str:
    return f"{schedule.kind}-p{schedule.stages}-m{schedule.microbatches}-v{schedule.rounds}"


# -- the order of work --------------------------------------------------------------------------------------------


def times(schedule: Schedule, slot: int) -> np.ndarray:
    """When each stage does each item, `[items, stages]`: ticks doubled, plus one for the backward slot."""
    timeline = schedule.timeline()[..., slot]
    when = np.full((schedule.items, schedule.stages), -1)
    for tick, stage in zip(*np.nonzero(timeline >= 0), strict=True):
        assert when[timeline[tick, stage], stage] == -1, "done twice"
        when[timeline[tick, stage], stage] = 2 * tick + slot
    assert (when >= 0).all(), "left undone"
    return when


@pytest.mark.parametrize("schedule", GRID, ids=name)
def test_every_stage_does_every_item_once_and_after_what_it_needs(schedule: Schedule) -> None:
    p, v = schedule.stages, schedule.rounds
    forward, backward = times(schedule, 0), times(schedule, 1)
    assert (np.diff(forward, axis=1) > 0).all() and (np.diff(backward, axis=1) < 0).all()
    assert (backward[:, -1] > forward[:, -1]).all()
    if v > 1:  # an item of a later turn is what the last stage made of the same micro-batch a turn before
        later = np.arange(schedule.items) % (p * v) >= p
        items = np.nonzero(later)[0]
        assert (forward[items, 0] > forward[items - p, -1]).all()


@pytest.mark.parametrize("schedule", GRID, ids=name)
def test_idle_slots_are_the_bubble_of_the_formula(schedule: Schedule) -> None:
    p, m, v = schedule.stages, schedule.microbatches, schedule.rounds
    assert idle_share(schedule.timeline()) == pytest.approx((p - 1) / (v * m + p - 1), abs=1e-12)
    assert schedule.bubble == pytest.approx((p - 1) / (v * m + p - 1), abs=1e-12)


@pytest.mark.parametrize("schedule", [s for s in GRID if s.kind == "1f1b"], ids=name)
def test_1f1b_keeps_few_inputs(schedule: Schedule) -> None:
    forward, backward = times(schedule, 0), times(schedule, 1)
    for stage in range(schedule.stages):
        held = [((forward[:, stage] <= t) & (t <= backward[:, stage])).sum() for t in range(backward.max() + 1)]
        assert max(held) <= min(schedule.microbatches, 2 * (schedule.stages - stage) - 1)


# -- the programs -------------------------------------------------------------------------------------------------


@functools.cache
def data() -> tuple[Any, dict[str, np.ndarray]]:
    params = jax.device_get(jax.jit(partial(transformer.init, MODEL))(jax.random.key(0)))
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, MODEL.vocab_size, (BATCH, SEQ + 1), np.int32)
    weights = rng.random((BATCH, SEQ), np.float32)
    return params, {"tokens": tokens, "loss_weights": weights, "segments": np.cumsum(tokens == 3, 1, np.int32)}


@functools.cache
def unpipelined() -> tuple:
    params, batch = data()
    return jax.jit(jax.value_and_grad(lambda params: transformer.loss(MODEL, params, **batch)[0]))(params)


def objective(model: ModelConfig, schedule: Schedule, params: Any, batch: dict[str, Any]) -> jax.Array:
    return pipelined_loss(model, schedule, params, **batch)[0]


def placed(model: ModelConfig, schedule: Schedule, params: Any) -> tuple[Any, Any]:
    """(mesh, params on it)."""
    mesh = make_mesh(MeshConfig(stage=schedule.stages), jax.devices()[: schedule.stages])
    return mesh, jax.device_put(params, weight_shardings(transformer.weights(model), DEFAULT_RULES, mesh))


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_loss_and_gradient_are_those_of_the_model(schedule: Schedule) -> None:
    params, batch = data()
    loss, gradient = unpipelined()
    mesh, params = placed(MODEL, schedule, params)
    with jax.set_mesh(mesh):
        got_loss, got = jax.jit(jax.value_and_grad(partial(objective, MODEL, schedule)))(params, batch)
        forward_only = jax.jit(partial(objective, MODEL, schedule))(params, batch)
    np.testing.assert_allclose([got_loss, forward_only], loss, rtol=1e-5)
    pairs = zip(jax.tree.leaves_with_path(got), jax.tree.leaves(gradient), strict=True)
    for (path, value), want in pairs:
        assert np.linalg.norm(value - want) <= 1e-5 * np.linalg.norm(want), jax.tree_util.keystr(path)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_the_programs_work_as_many_ticks_as_their_bubble_says(schedule: Schedule) -> None:
    """Products of one stage's program, idle ticks included: its share of the model's over the share of busy ticks.

    1f1b computes every stage's forward pass twice, and its stages share the head's products, which no bubble touches.
    """
    model = dataclasses.replace(MODEL, sliding_window=None)
    params = jax.eval_shape(lambda: transformer.init(model, jax.random.key(0)))
    batch = {"tokens": jax.ShapeDtypeStruct((BATCH, SEQ + 1), jnp.int32)}
    head = BATCH * SEQ * 2 * model.d_model * model.vocab_size
    blocks = BATCH * counts.forward_flops(model, SEQ, causal=False) - head
    mesh = make_mesh(MeshConfig(stage=schedule.stages), jax.devices()[: schedule.stages])
    with jax.set_mesh(mesh), plain_kernels():
        forward = flops_of(partial(objective, model, schedule), params, batch)
        both = flops_of(jax.grad(partial(objective, model, schedule)), params, batch)
    share = blocks / schedule.stages / (1 - schedule.bubble)
    assert forward == pytest.approx(head + share, rel=1e-12)
    if schedule.kind == "1f1b":
        positions = -(-SEQ // schedule.stages)
        assert both == pytest.approx(3 * head * positions / SEQ + 4 * share, rel=1e-12)
    else:
        assert both == pytest.approx(3 * head + 3 * share, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "full"])
def test_1f1b_needs_less_memory_for_activations_than_gpipe(remat: Any) -> None:
    model = dataclasses.replace(MODEL, sliding_window=None, remat=remat)
    params = jax.eval_shape(lambda: transformer.init(model, jax.random.key(0)))
    batch = {"tokens": jax.ShapeDtypeStruct((32, 33), jnp.int32)}

    def temporaries(schedule: Schedule) -> int:
        mesh = make_mesh(MeshConfig(stage=schedule.stages), jax.devices()[: schedule.stages])
        shardings = weight_shardings(transformer.weights(model), DEFAULT_RULES, mesh)
        shapes = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), params, shardings)
        with jax.set_mesh(mesh):
            compiled = jax.jit(jax.grad(partial(objective, model, schedule))).lower(shapes, batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, all_of_them = temporaries(Schedule("1f1b", 2, 16)), temporaries(Schedule("gpipe", 2, 16))
    print(f"remat {remat}: 1f1b {few} bytes, gpipe {all_of_them} bytes")
    times = {"none": 2, "full": 1}[remat]  # computed again, a block keeps its input only, under either schedule
    assert few < all_of_them / times


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("circular", 4, 6, 2),
            "microbatches: 6 is no multiple of the 4 stages that a circular pipeline fills: use a mul",
        ),
        (("1f1b", 4, 8, 2), "rounds: is 2, but a 1f1b pipeline goes round once: use 1, or the circular schedule"),
        (("gpipe", 0, 8, 1), "stages: is 0: give a positive integer"),
    ],
)
def test_a_schedule_that_cannot_run_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Schedule(*arguments)
    assert str(error.value).startswith(message)


def test_micro_batches_of_devices_stay_on_them() -> None:
    """Splitting a batch into micro-batches moves nothing where the batch is divided over devices."""
    mesh = make_mesh(MeshConfig(data=2), jax.devices()[:2])
    from models.pipeline import _split_rows

    with jax.set_mesh(mesh):
        batch = NamedSharding(mesh, DEFAULT_RULES.spec(("batch",)))
        split = jax.jit(partial(_split_rows, m=3), in_shardings=batch)
        text = split.lower(jax.ShapeDtypeStruct((BATCH, 4), jnp.float32)).compile().as_text()
    assert not any(op in text for op in ("all-gather", "all-to-all", "collective-permute"))


def test_what_stages_gather_stays_divided_over_sequences() -> None:
    """The head's gradients of all stages' positions: every device gets them for its own sequences only."""
    from launch.collectives import collectives
    from models.pipeline import _all_positions

    mesh = make_mesh(MeshConfig(fsdp=2, stage=2), jax.devices()[:4])
    x = np.random.default_rng(0).random((6, SEQ, 4), np.float32)

    def parts(x: jax.Array) -> jax.Array:
        return _all_positions(x)[None]

    with jax.set_mesh(mesh):
        split, stacked = PartitionSpec(None, "stage"), PartitionSpec("stage")
        gather = jax.jit(jax.shard_map(parts, in_specs=split, out_specs=stacked, axis_names={"stage"}))
        placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec("fsdp", "stage")))
        result, text = gather(placed), gather.lower(placed).compile().as_text()
    np.testing.assert_array_equal(result, [x, x])
    assert [(c.kind, c.axes, c.payload) for c in collectives(text, mesh.shape)] == [
        ("all-gather", ("stage",), x.nbytes // 2)
    ]
