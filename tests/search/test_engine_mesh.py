"""An engine on several devices draws the tokens of one on one device, but for choices that it counted as close."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from models import transformer
from models.contraction import contract
from models.errors import ConfigError
from models.quantize import QuantizeMode, quantize
from models.sharding import MeshConfig, make_mesh
from search.engine.config import EngineConfig
from search.engine.engine import Engine
from search.engine.placement import place
from search.engine.precision import running_config
from search.engine.request import Completion, Request
from tests.search.test_engine import MODEL, MOST, SAMPLINGS, SMALL, VOCAB, near_ties_only, run

ONE = dataclasses.replace(MODEL, n_layers=1, vocab_size=20)  # a table that 2 devices divide
CONFIG = dataclasses.replace(SMALL, slots=4, precision="layercast")
WORK = [
    Request(p, tuple(np.random.default_rng(p).integers(0, VOCAB, 2 + 5 * p).tolist()), 3, MOST, SAMPLINGS[p % 2])
    for p in range(5)
]


@pytest.fixture(scope="module")
def params() -> dict:
    """On the host, as a checkpoint is read."""
    return jax.device_get(transformer.init(ONE, jax.random.key(0)))


@pytest.fixture(scope="module")
def expected(params: dict) -> dict[tuple[int, int], Completion]:
    """What one device draws."""
    return run(Engine(ONE, params, CONFIG), WORK)


def _unrolled(params: dict) -> dict:
    return transformer.unstack_layers(params, ONE) if "blocks" in params else params


def mesh_of(**sizes: int) -> Mesh:
    config = MeshConfig(**sizes)
    return make_mesh(config, jax.devices()[: config.data * config.tensor])


def test_slots_over_data_and_heads_over_tensor_give_the_tokens_of_one_device(params: dict, expected: dict) -> None:
    engine = Engine(ONE, params, CONFIG, mesh_of(data=2, tensor=2))
    assert engine.device.blocks[0][0]["k"].sharding.shard_shape((4, 2, 8, 8)) == (2, 1, 8, 8)
    assert engine.device.params["block_0"]["attention"]["qkv"].sharding.spec[1] == "tensor"
    found = run(engine, WORK)
    counted = sum(len(c.near_ties) for c in (*found.values(), *expected.values()))
    assert near_ties_only(found, expected) <= counted < 0.02 * sum(len(c.tokens) for c in found.values())


def test_quantised_weights_and_caches_are_split_and_give_the_tokens_of_one_device(params: dict) -> None:
    weights = quantize(jax.tree.map(jnp.asarray, params), ONE, "int8")
    config = dataclasses.replace(CONFIG, share="never", kv_cache="int8")
    alone = run(Engine(ONE, weights, config), WORK[:3])
    found = run(Engine(ONE, weights, config, mesh_of(tensor=2)), WORK[:3])
    assert {k: c.tokens for k, c in found.items()} == {k: c.tokens for k, c in alone.items()}
    apart = [abs(a - b) for k, c in found.items() for a, b in zip(c.logprobs, alone[k].logprobs)]
    assert np.median(apart) < 2e-6 and max(apart) < 0.02  # a digit of the cache may round the other way


@pytest.mark.parametrize("mode", ["int8", "w8a8", "int4"])
def test_a_quantised_weight_on_a_mesh_is_the_one_on_one_device(params: dict, mode: QuantizeMode) -> None:
    """Each scale lies with its output; sums over split inputs are of integers, so nothing is rounded differently."""
    weights = quantize(jax.tree.map(jnp.asarray, params), ONE, mode)
    mesh, model = mesh_of(tensor=2), running_config(ONE, "float32")
    with jax.set_mesh(mesh):
        split = place(whole := _unrolled(weights), model, mesh)
    assert split["tokens"].values.sharding.shard_shape((20, 32))[0] == 10
    for part, name, dim in (("attention", "qkv", 0), ("feedforward", "gate_up", 0), ("attention", "out", 1),
                            ("feedforward", "down", 1)):  # fmt: skip
        w, alone = split["block_0"][part][name], whole["block_0"][part][name]
        shard = w.values.sharding.shard_shape(w.values.shape)
        assert [n // m for n, m in zip(w.values.shape, shard)] == ([2, 1] if dim == 0 else [1, 2])
        assert w.scale.sharding.shard_shape(w.scale.shape)[0] == shard[0]
        x = jax.random.normal(jax.random.key(1), (3, *w.shape[: w.inputs]))
        product = partial(contract, dims=w.inputs)
        with jax.set_mesh(mesh):
            found = jax.jit(product)(x, w)
        assert np.array_equal(found, jax.jit(product)(x, alone))


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"tensor": 4}, r"mesh.tensor: 4 does not divide the kv_heads dim 2 of block_0/attention/qkv"),
        ({"data": 3}, r"mesh.data: 3 does not divide 4 engine.slots: use a divisor of 4"),
    ],
)
def test_a_mesh_that_does_not_divide_is_refused(params: dict, sizes: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Engine(ONE, params, CONFIG, mesh_of(**sizes))


def test_an_axis_that_an_engine_does_not_have_is_refused(params: dict) -> None:
    mesh = make_mesh(MeshConfig(fsdp=2), jax.devices()[:2])
    with pytest.raises(ConfigError, match="mesh.fsdp: splits nothing that an engine has: use data and tensor"):
        Engine(ONE, params, EngineConfig(slots=4, max_len=16, page_size=8), mesh)
