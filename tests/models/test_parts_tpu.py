"""Every part compiles for a TPU topology: a train step over two axes of devices, and a decode step of one."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import cache, transformer
from models.config import ModelConfig
from models.sharding import AXES, DEFAULT_RULES, weight_shardings
from search.engine import decode
from tests.models.parts import PARTS
from tests.models.test_parts import objective

ROWS, SEQ = 4, 256
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu (extra isoflop[tpu]) is not installed"
)


@functools.cache
def mesh_of(**axes: int) -> Any:
    """Devices of a v5e:2x2 that this machine does not have."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[: math.prod(axes.values())]
    sizes = [axes.get(axis, 1) for axis in AXES]
    types = (jax.sharding.AxisType.Auto,) * len(AXES)
    return jax.sharding.Mesh(np.array(devices).reshape(sizes), AXES, axis_types=types)


def placed(config: ModelConfig, on: Any) -> Any:
    """The shapes of the parameters, each in its shards."""
    shapes = jax.eval_shape(functools.partial(transformer.init, config), jax.random.key(0))
    shardings = weight_shardings(transformer.weights(config), DEFAULT_RULES, on)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def compiled(f: Any, on: Any, *args: Any) -> Any:
    with jax.set_mesh(on):
        return jax.jit(f).trace(*args).lower(lowering_platforms=("tpu",)).compile()


@needs_libtpu
@pytest.mark.slow  # two programs of the TPU compiler for each part
@pytest.mark.parametrize("name", PARTS)
def test_a_train_step_and_a_decode_step_compile_for_a_tpu(name: str) -> None:
    config = dataclasses.replace(PARTS[name], dtype="bfloat16", max_seq_len=SEQ)
    undivided = {axis for layer in config.resolved().layers for part in layer.parts for axis in part.undivided}
    four, one = mesh_of(fsdp=2, **{"data" if "tensor" in undivided else "tensor": 2}), mesh_of(data=1)
    everywhere = jax.sharding.NamedSharding(four, jax.sharding.PartitionSpec())
    tokens = jax.ShapeDtypeStruct((ROWS, SEQ + 1), jnp.int32, sharding=everywhere)
    train = compiled(jax.value_and_grad(functools.partial(objective, config)), four, placed(config, four), tokens)
    assert train.memory_analysis().argument_size_in_bytes > 0  # a small one keeps nothing else in memory

    def step(params: Any, blocks: Any, states: Any, new: jax.Array, own: jax.Array) -> Any:
        pool, live = cache.empty_pool(config, 1, 8), jnp.ones(ROWS, bool)
        return decode.forward(config, params, pool, blocks, states, (), new, own * 0, own, live)

    here = jax.sharding.NamedSharding(one, jax.sharding.PartitionSpec())

    def shape(x: Any) -> Any:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here)

    kept = jax.eval_shape(lambda: ((cache.empty(config, ROWS, SEQ),), cache.empty_states(config, ROWS)))
    inputs = jax.ShapeDtypeStruct((ROWS, 1), jnp.int32), jax.ShapeDtypeStruct((ROWS,), jnp.int32)
    args = placed(config, one), *jax.tree.map(shape, kept), *map(shape, inputs)
    assert compiled(step, one, *args).memory_analysis().argument_size_in_bytes > 0
