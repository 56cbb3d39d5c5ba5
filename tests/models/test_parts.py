"""The contract of every mixer, channel and wiring: what counts, caches, scans and meshes may rely on."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import cache, counts, transformer
from models.config import ModelConfig
from models.pipeline import Schedule, pipelined_loss
from models.sharding import DEFAULT_RULES, MeshConfig, make_mesh, weight_shardings
from models.weight import walk
from search.engine import decode
from search.engine.prefill import Layout, Region, Segment, make_prefill, pack, tile_room
from tests.models.jaxprs import jaxpr_flops
from tests.models.parts import PARTS, covered, firsts

SEQ, ROWS, PAGE = 20, 2, 8  # no whole blocks of any part
# Everything here runs once or twice: LLVM's passes would take longer than they save.
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
CLOSE = {"rtol": 2e-5, "atol": 2e-5}  # float32: another order of sums over at most a few hundred numbers
EVERY = pytest.mark.parametrize("name", PARTS)
FIRSTS = firsts()


@functools.cache
def made(name: str) -> tuple[ModelConfig, dict, jax.Array, np.ndarray]:
    """(the part's model, parameters with gains and biases off their initial values, tokens, their logits)."""
    config = PARTS[name]
    params = quick(functools.partial(transformer.init, config))(jax.random.key(0))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: jnp.asarray(x + 0.05 * rng.standard_normal(x.shape), x.dtype), params)
    tokens = jax.random.randint(jax.random.key(2), (ROWS, SEQ), 0, config.vocab_size)
    return config, params, tokens, np.asarray(quick(functools.partial(transformer.apply, config))(params, tokens))


def objective(config: ModelConfig, params: dict, tokens: jax.Array, segments: jax.Array | None = None) -> jax.Array:
    """Summed loss and penalties."""
    if config.routed:
        loss, _, penalty, _ = transformer.routed_loss(config, params, tokens, segments=segments)
        return loss + penalty
    return transformer.loss(config, params, tokens, segments=segments)[0]


def loss_alone(config: ModelConfig, params: dict, tokens: jax.Array, segments: jax.Array | None = None) -> jax.Array:
    """Summed loss."""
    return transformer.loss(config, params, tokens, segments=segments)[0]


@functools.cache
def gradients(name: str, minimised: Callable[..., jax.Array]) -> tuple[jax.Array, dict]:
    """(what is minimised of `made`'s tokens, its gradient) on one device."""
    config, params, tokens, _ = made(name)
    return quick(jax.value_and_grad(functools.partial(minimised, config)))(params, tokens)


@functools.cache
def reader(name: str) -> Callable[..., tuple]:
    """`decode.forward` of the model without shared pages, compiled: of (blocks, states, new, own, live)."""
    config, params = made(name)[:2]
    pool, zeros = cache.empty_pool(config, 1, PAGE), jnp.zeros(ROWS, jnp.int32)

    @quick
    def read(blocks, states, new, own, live):
        return decode.forward(config, params, pool, blocks, states, (), new, zeros, own, live)

    return read


def assert_close(found: object, want: object, **tolerance: float) -> None:
    jax.tree.map(functools.partial(np.testing.assert_allclose, **(tolerance or CLOSE)), found, want)


def test_every_part_of_the_catalogue_has_a_model_here() -> None:
    catalogue, here = covered()
    assert catalogue == here


@EVERY
def test_parameters_flops_and_kept_bytes_are_those_declared(name: str) -> None:
    config, params, tokens, _ = made(name)
    assert counts.params(config) == sum(x.size for x in jax.tree.leaves(params))
    jaxpr = jax.make_jaxpr(functools.partial(transformer.apply, config))(params, tokens[:1]).jaxpr
    shifted = sum(w.flops_per_token for w in counts.declarations(config) if w.role == "conv")  # sums of no product
    assert jaxpr_flops(jaxpr) == counts.forward_flops(config, SEQ, causal=False) - SEQ * shifted
    for quantized in (False, True):
        blocks = jax.eval_shape(functools.partial(cache.empty, config, 1, 1, quantized))
        held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(blocks))
        assert held == counts.kv_cache_bytes_per_token(config, quantized)
    states = jax.eval_shape(functools.partial(cache.empty_states, config, 1))
    assert sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(states)) == counts.state_bytes_per_row(config)


@EVERY
@pytest.mark.parametrize("steps", [(1,) * SEQ, (7, 1, 12)])
def test_tokens_read_in_any_steps_are_scored_as_the_whole_sequence(name: str, steps: tuple[int, ...]) -> None:
    config, _, tokens, want = made(name)
    blocks, states = (cache.empty(config, ROWS, SEQ),), cache.empty_states(config, ROWS)
    zeros, live = jnp.zeros(ROWS, jnp.int32), jnp.ones(ROWS, bool)
    found, at = [], 0
    for n in steps:
        scores, blocks, states = reader(name)(blocks, states, tokens[:, at : at + n], zeros + at, live)
        found.append(scores)
        at += n
    assert_close(jnp.concatenate(found, axis=1), want)


@EVERY
def test_rows_that_do_not_run_keep_their_states(name: str) -> None:
    config, _, tokens, _ = made(name)
    filled = jax.tree.map(lambda x: x + 0.5, cache.empty_states(config, ROWS))
    blocks, zeros = (cache.empty(config, ROWS, SEQ),), jnp.zeros(ROWS, jnp.int32)
    after = reader(name)(blocks, filled, tokens[:, :1], zeros, jnp.array([True, False]))[2]
    jax.tree.map(lambda old, new: np.testing.assert_array_equal(old[1], new[1]), filled, after)


@EVERY
def test_packed_chunks_over_pages_score_as_the_whole_sequences(name: str) -> None:
    config, params, tokens, logits = made(name)
    layout, room = Layout.of(config, 16, PAGE), tile_room(SEQ, 16, PAGE)
    pool = cache.empty_pool(config, 8, PAGE)
    program = make_prefill(config, True)
    want = jax.nn.log_softmax(logits)
    texts = [[int(t) for t in row] for row in tokens]
    plan = [[(0, 0, 12)], [(0, 12, 14), (1, 0, 6)], [(1, 6, 10), (0, 14, 19)], [(1, 10, 19)]]  # (row, start, stop)
    if layout.align > 1:  # a part of a sequence begins where a block does, and takes up whole blocks
        plan = [[(0, 0, 16)], [(1, 0, 8), (0, 16, 18)], [(1, 8, 19)]]
    for parts in plan:
        segments = [
            Segment(texts[r][a:b], a, (Region(0, (3 * r, 3 * r + 1, 3 * r + 2)),), texts[r][a + 1 : b + 1])
            for r, a, b in parts
        ]
        chunk = pack(segments, layout, room, 8)
        pool, logprobs = program(params, pool, *chunk.inputs)
        found = np.asarray(logprobs)[chunk.index]
        at = 0
        for r, a, b in parts:
            targets = np.asarray(texts[r][a + 1 : b + 1])
            n = len(targets)
            assert_close(found[at : at + n], want[r, a : a + n][np.arange(n), targets], rtol=5e-5, atol=5e-5)
            at += b - a


@EVERY
def test_packed_documents_are_separate_ones_in_values_and_gradients(name: str) -> None:
    config, params, tokens, _ = made(name)
    segments = jnp.repeat(jnp.arange(ROWS), SEQ)[None]

    minimised = loss_alone if config.routed else objective  # penalties are of a row's tokens together

    # positions count from the row's start, which rotary scores do not notice
    def packed(p):
        return minimised(config, p, tokens.reshape(1, -1), segments)

    assert_close(quick(jax.value_and_grad(packed))(params), gradients(name, minimised), rtol=1e-4, atol=1e-4)


# and layers before the pattern, several layers in it
@pytest.mark.parametrize("name", [*FIRSTS, "biased_experts", "routers"])
def test_scanned_layers_compute_what_unrolled_ones_do(name: str) -> None:
    config = FIRSTS.get(name, PARTS[name])
    config = dataclasses.replace(config, n_layers=len(config.prologue) + 2 * len(config.period) + 1)
    tokens = jax.random.randint(jax.random.key(2), (ROWS, SEQ), 0, config.vocab_size)
    scanned = dataclasses.replace(config, scan_layers=True)
    params = quick(functools.partial(transformer.init, scanned))(jax.random.key(3))
    want = quick(functools.partial(transformer.apply, config))(transformer.unstack_layers(params, scanned), tokens)
    assert_close(quick(functools.partial(transformer.apply, scanned))(params, tokens), want)
    again = transformer.stack_layers(transformer.unstack_layers(params, scanned), scanned)
    jax.tree.map(np.testing.assert_array_equal, again, params)


@EVERY
def test_bfloat16_scores_agree_to_its_precision(name: str) -> None:
    config, params, tokens, want = made(name)
    half = dataclasses.replace(config, dtype="bfloat16")
    found = quick(functools.partial(transformer.apply, half))(params, tokens)
    # 2^-8 per rounding, some tens of them in a row; a choice of experts may flip, and then a few tokens differ
    apart = np.abs(np.asarray(found) - want).max(-1) / np.abs(want).max()
    assert np.median(apart) < 0.05 and np.mean(apart > 0.15) < 0.2


@EVERY
@pytest.mark.slow  # two programs over several devices for each part
def test_meshes_compute_what_one_device_does(name: str) -> None:
    config, params, tokens, _ = made(name)
    undivided = {axis for layer in config.layers for part in layer.parts for axis in part.undivided}
    axes = {axis: 2 for axis in ("fsdp", "tensor", "context", "expert") if axis not in undivided}
    axes = axes if config.routed else {axis: n for axis, n in axes.items() if axis != "expert"}
    if config.routed:
        axes.pop("context", None)  # three axes are eight devices
    rows = jnp.concatenate([tokens] * 2)  # divided over fsdp and expert
    mesh = make_mesh(MeshConfig(**axes), jax.devices()[: 2 ** len(axes)])
    placed = jax.device_put(params, weight_shardings(transformer.weights(config), DEFAULT_RULES, mesh))
    with jax.set_mesh(mesh):
        found = quick(jax.value_and_grad(functools.partial(objective, config)))(placed, rows)
    assert_close(jax.tree.map(lambda x: x / 2, found), gradients(name, objective), rtol=1e-4, atol=1e-4)


@pytest.mark.slow  # a program over two devices for each part
@pytest.mark.parametrize("name", FIRSTS)
def test_stages_compute_what_one_device_does(name: str) -> None:
    config = FIRSTS.get(name, PARTS[name])
    config = dataclasses.replace(config, scan_layers=True, n_layers=2 * len(config.period))
    tokens = jax.random.randint(jax.random.key(2), (ROWS, SEQ), 0, config.vocab_size)
    params = quick(functools.partial(transformer.init, config))(jax.random.key(3))
    want = quick(jax.value_and_grad(functools.partial(objective, config)))(params, tokens)
    mesh, schedule = make_mesh(MeshConfig(stage=2), jax.devices()[:2]), Schedule("gpipe", 2, 2)
    placed = jax.device_put(params, weight_shardings(transformer.weights(config), DEFAULT_RULES, mesh))
    with jax.set_mesh(mesh):
        run = quick(jax.value_and_grad(lambda p: pipelined_loss(config, schedule, p, tokens)[0]))
        assert_close(run(placed), want, rtol=1e-4, atol=1e-4)


@EVERY
def test_only_the_width_grows_what_mup_scales(name: str) -> None:
    """The declared spread of hidden matrices falls as fan_in^-1/2 at every width, and muP's learning rate multiplier
    is the width's where the inputs are the stream's."""
    narrow = dataclasses.replace(PARTS[name], mup_base_width=16)
    wide = dataclasses.replace(narrow, d_model=64, d_ff=96)
    for (path, a), (_, b) in zip(walk(transformer.weights(narrow)), walk(transformer.weights(wide)), strict=True):
        if a.role == "matrix" and a.draw is None:
            assert a.std is not None and b.std is not None
            assert b.std / a.std == pytest.approx((b.fan_in / a.fan_in) ** -0.5), path
