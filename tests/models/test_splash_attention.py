"""The TPU's attention kernel, interpreted: the definition of causal attention, on every mesh."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from models.causal_attention import reference_attention
from models.sharding import MeshConfig, make_mesh
from models.span import Span
from models.splash_attention import block_size, splash_attention

BATCH, SEQ, HEADS, KV_HEADS, HEAD_DIM = 2, 256, 4, 2, 16
SPAN = Span(HEAD_DIM**-0.5)


def inputs():
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(BATCH, SEQ, n, HEAD_DIM) for n in (HEADS, KV_HEADS, KV_HEADS, HEADS)]
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


def value_and_gradients(attention, *args):
    def weighed(q, k, v, w):
        return (attention(q, k, v) * w).sum()

    return jax.value_and_grad(weighed, argnums=(0, 1, 2))(*args)


def close(found, wanted):
    def error(x, y):
        return float(jnp.abs(x - y).max() / jnp.abs(y).max())

    return max(jax.tree.leaves(jax.tree.map(error, found, wanted))) < 5e-6  # float32, another order of summation


@pytest.fixture(scope="module")
def wanted():
    segments = jnp.cumsum(jnp.arange(SEQ)[None] % 100 == 0, 1) * jnp.ones((BATCH, 1), jnp.int32)
    plain = value_and_gradients(partial(reference_attention, span=SPAN), *inputs())
    packed = value_and_gradients(partial(reference_attention, span=SPAN, segments=segments), *inputs())
    return segments, plain, packed


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "mesh", [MeshConfig(), MeshConfig(data=2, tensor=2, context=2), MeshConfig(fsdp=2, context=2)], ids=str
)
def test_it_equals_the_definition_on_every_mesh(wanted, mesh, packed):
    segments, *oracles = wanted
    attend = partial(splash_attention, segments=segments if packed else None, span=SPAN, interpret=True)
    devices = jax.devices()[: max(1, mesh.data * mesh.tensor * mesh.context * mesh.fsdp)]
    with jax.set_mesh(make_mesh(mesh, devices)):
        found = jax.jit(partial(value_and_gradients, attend))(*inputs())
    assert close(found, oracles[packed])


@pytest.mark.slow
def test_it_equals_the_definition_inside_a_pipeline_stage(wanted):
    attend = partial(splash_attention, span=SPAN, interpret=True)

    def stage(q, k, v, w):
        """Each stage attends for itself; the results of the first count."""
        q, k, v, w = (jax.lax.pcast(x, ("stage",), to="varying") for x in (q, k, v, w))
        loss, gradients = value_and_gradients(attend, q, k, v, w)
        first = jax.lax.axis_index("stage") == 0
        return jax.tree.map(lambda x: jax.lax.psum(jnp.where(first, x, 0), "stage"), (loss, gradients))

    with jax.set_mesh(make_mesh(MeshConfig(stage=2, data=2, tensor=2))):
        whole = PartitionSpec()
        run = jax.shard_map(stage, in_specs=(whole,) * 4, out_specs=whole, axis_names={"stage"})
        found = jax.jit(run)(*inputs())
    assert close(found, wanted[1])


@pytest.mark.parametrize(("positions", "block"), [(2048, 512), (768, 256), (384, 128), (100, None)])
def test_blocks_divide_the_positions(positions, block):
    assert block_size(positions) == block
