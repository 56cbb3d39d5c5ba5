"""Every mesh computes what one device computes; a mesh or rule that cannot work says so before anything compiles."""

from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from models import transformer
from models.config import ModelConfig
from models.errors import ConfigError
from models.sharding import (
    AXES,
    DEFAULT_RULES,
    MeshConfig,
    Rules,
    constrain,
    fitted,
    gather_positions,
    gathered,
    make_mesh,
    scatter_positions,
    state_specs,
    weight_shardings,
    zero_mesh,
)  # fmt: skip
from models.weight import Weight, map_weights

# Grouped queries, a gate and an untied head; every dim that a rule splits is a multiple of 8.
MODEL = ModelConfig(
    vocab_size=32, d_model=16, n_layers=1, n_heads=8, n_kv_heads=4, head_dim=4, d_ff=24, tied_embeddings=False
)
SCANNED_TIED = ModelConfig(vocab_size=32, d_model=16, n_layers=2, n_heads=4, scan_layers=True, remat="full")
BATCH, SEQ = 8, 12


def parse(mesh: str) -> MeshConfig:
    return MeshConfig(**{axis: int(size) for axis, size in (part.split("=") for part in mesh.split(","))})


def draw(weight: Weight, rng: np.random.Generator) -> np.ndarray:
    """The declared spread, with noise on the gains."""
    mean, std = (weight.std or 0, 0.1) if weight.role == "vector" else (0, weight.std)
    return mean + std * rng.standard_normal(weight.shape, np.float32)


def loss_and_gradient(model: ModelConfig):
    def mean_loss(params, tokens):
        total, count = transformer.loss(model, params, tokens)
        return total / count

    return jax.value_and_grad(mean_loss)


@pytest.fixture(scope="module")
def one_device():
    """(params, tokens, loss, gradient) of a model, computed on one device."""

    def compute(model: ModelConfig, cache={}):  # noqa: B006
        if model not in cache:
            rng = np.random.default_rng(1)
            params = map_weights(lambda w: draw(w, rng), transformer.weights(model))
            tokens = np.random.default_rng(0).integers(0, model.vocab_size, (BATCH, SEQ + 1), np.int32)
            cache[model] = params, tokens, *jax.jit(loss_and_gradient(model))(params, tokens)
        return cache[model]

    return compute


@pytest.mark.parametrize(
    ("model", "mesh"),
    [(MODEL, mesh) for mesh in ("data=8", "fsdp=8", "fsdp=2,tensor=4", "data=2,fsdp=2,tensor=2")]
    + [(SCANNED_TIED, mesh) for mesh in ("fsdp=8", "data=2,fsdp=2,tensor=2")],
    ids=lambda value: value if isinstance(value, str) else "scanned" if value.scan_layers else "unrolled",
)
def test_sharded_loss_and_gradient_equal_one_device(model, mesh, one_device):
    params, tokens, loss, gradient = one_device(model)
    grid = make_mesh(parse(mesh))
    shardings = weight_shardings(transformer.weights(model), DEFAULT_RULES, grid)
    batch = NamedSharding(grid, DEFAULT_RULES.spec(("batch",)))
    with jax.set_mesh(grid):
        step = jax.jit(loss_and_gradient(model), out_shardings=(NamedSharding(grid, PartitionSpec()), shardings))
        got_loss, got_gradient = step(jax.device_put(params, shardings), jax.device_put(tokens, batch))
    np.testing.assert_allclose(got_loss, loss, rtol=1e-5)
    for got, want, sharding in zip(*map(jax.tree.leaves, (got_gradient, gradient, shardings)), strict=True):
        assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)
        assert got.sharding.is_equivalent_to(sharding, got.ndim)


def test_fsdp_leaves_each_device_its_share_of_every_matrix():
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    weights = transformer.weights(MODEL)
    shardings = weight_shardings(weights, DEFAULT_RULES, mesh)
    for weight, sharding in zip(jax.tree.leaves(weights), jax.tree.leaves(shardings), strict=True):
        share = math.prod(sharding.shard_shape(weight.shape))
        if weight.role != "vector":
            assert share * 8 == weight.size, weight


def test_a_tensor_split_unlike_any_dim_names_the_weight_and_the_divisor():
    mesh = make_mesh(MeshConfig(tensor=8))
    with pytest.raises(ConfigError) as error:
        weight_shardings(transformer.weights(MODEL), DEFAULT_RULES, mesh)
    message = "mesh.tensor: 8 does not divide the kv_heads dim 4 of block_0/attention/qkv: use a divisor of 4"
    assert str(error.value) == message


def test_rules_that_put_one_array_twice_on_a_mesh_axis_are_refused():
    with pytest.raises(ConfigError) as error:
        Rules(embed="tensor").spec(("embed", "mlp"))
    assert str(error.value) == "rules.mlp: and rules.embed both put one array on mesh axis 'tensor': change one"
    with pytest.raises(ConfigError, match=r"rules\.length: and rules\.batch both .* 'data'"):
        Rules(length="data").spec(("batch", "length", "residual"))


def test_a_rule_for_an_unknown_mesh_axis_is_refused():
    with pytest.raises(ConfigError) as error:
        Rules(mlp=("tensor", "x"))
    assert str(error.value) == f"rules.mlp: 'x' is no mesh axis: use one of {', '.join(AXES)}"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 0}, "mesh.data: is 0: give a positive integer, or -1 for the rest"),
        ({"data": -1, "fsdp": -1}, "mesh.fsdp: data and fsdp are both -1: leave one to fill"),
        (
            {"data": 3},
            "mesh: data=3 does not make 8 devices: "
            "choose axes whose product is 8, or set one axis to -1 to fill the rest",
        ),
        ({"data": 3, "fsdp": -1}, "mesh: data=3 x fsdp=-1 does not make 8 devices: choose axes whose product is 8"),
        (
            {},
            "mesh: all axes 1 does not make 8 devices: "
            "choose axes whose product is 8, or set one axis to -1 to fill the rest",
        ),
    ],
)
def test_a_mesh_that_does_not_fit_the_devices_says_what_would(sizes, message):
    with pytest.raises(ConfigError) as error:
        make_mesh(MeshConfig(**sizes))
    assert str(error.value) == message


def test_minus_one_takes_the_devices_that_the_other_axes_leave():
    mesh = make_mesh(MeshConfig(data=2, fsdp=-1))
    assert dict(mesh.shape) == dict.fromkeys(AXES, 1) | {"data": 2, "fsdp": 4}
    assert mesh.axis_names == AXES


def test_constraining_without_a_mesh_is_the_identity():
    x = jnp.ones((2, 3))
    assert constrain(x, ("batch", "length")) is x
    stream = x[None]
    assert gather_positions(stream) is stream and scatter_positions(stream) is stream
    assert gathered(x, ("embed", "mlp")) is x


def test_a_dim_that_an_axis_does_not_divide_stays_whole_in_an_activation():
    with jax.set_mesh(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))):
        assert fitted(PartitionSpec(("data", "fsdp"), "tensor"), (4, 6)) == PartitionSpec(("data", "fsdp"), "tensor")
        assert fitted(PartitionSpec(("data", "fsdp"), "tensor"), (6, 3)) == PartitionSpec("data", None)
        assert jax.jit(lambda x: constrain(x, ("batch", "length", "residual")))(jnp.ones((3, 1, 2))).shape == (3, 1, 2)


def test_below_stage_three_fsdp_is_data():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    assert zero_mesh(mesh, 3) is mesh
    folded = zero_mesh(mesh, 1)
    assert dict(folded.shape) == dict(mesh.shape) | {"data": 4, "fsdp": 1}
    assert np.array_equal(folded.devices.ravel(), mesh.devices.ravel())


def test_moments_are_split_over_every_axis_that_holds_copies():
    mesh = make_mesh(MeshConfig(data=2, expert=2, context=2))
    declared = {
        "dense": Weight((16, 24), ("embed", "mlp"), "matrix"),
        "expert": Weight((4, 16, 24), ("experts", "embed", "mlp"), "matrix", experts_used=2),
        "odd": Weight((3, 5), ("embed", "mlp"), "matrix"),
    }
    specs = state_specs(declared, DEFAULT_RULES, mesh, zero=2)
    assert specs.moments == specs.gradients
    assert specs.moments["dense"] == PartitionSpec(("fsdp", "data", "expert", "context"), "tensor")
    assert specs.moments["expert"] == PartitionSpec("expert", ("fsdp", "data", "context"), "tensor")
    assert specs.moments["odd"] == specs.params["odd"] == PartitionSpec("fsdp", "tensor")


@pytest.fixture
def own_names():
    """Compiled programs carry the names that they were traced with, not those of an equal program in the cache."""
    jax.config.update("jax_compilation_cache_include_metadata_in_key", True)
    yield
    jax.config.update("jax_compilation_cache_include_metadata_in_key", False)


@pytest.mark.usefixtures("own_names")
def test_a_tensor_parallel_block_gathers_and_scatters_twice_each_way(one_device):
    """Megatron's sequence parallelism: the CPU compiler writes a reduce-scatter as an all-reduce and a slice."""
    params, tokens, *_ = one_device(MODEL)
    grid = make_mesh(MeshConfig(tensor=2), jax.devices()[:2])
    shardings = weight_shardings(transformer.weights(MODEL), DEFAULT_RULES, grid)
    with jax.set_mesh(grid):
        step = jax.jit(loss_and_gradient(MODEL), out_shardings=(None, shardings))
        text = step.lower(jax.device_put(params, shardings), tokens).compile().as_text()
    moves = [line for line in text.splitlines() if re.search(r" = \S+ all-(gather|reduce)\(", line)]
    moves = [line for line in moves if "block_0" in line]
    for backward in (False, True):
        kinds = [re.search(r"all-(gather|reduce)\(", line)[1] for line in moves if ("transpose(" in line) == backward]
        assert sorted(kinds) == ["gather", "gather", "reduce", "reduce"], moves
