"""Every mesh trains as one device does: loss, gradient and ten optimiser steps of the real train step, ZeRO's bytes."""

from __future__ import annotations

import dataclasses
import functools
import math
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from models import counts
from models.channels.experts import Experts
from models.config import ModelConfig
from models.errors import ConfigError
from models.sharding import MeshConfig, make_mesh
from scaling.train.config import TrainConfig, hyperparameters
from scaling.train.placement import QUICK_COMPILE, Placement, check_host_memory, check_mesh, trial_mode
from scaling.train.step import advance, init_state, loss_and_gradient, over_trials

STEPS = 10
DENSE = ModelConfig(
    vocab_size=32, d_model=16, n_layers=8, n_heads=8, head_dim=4, d_ff=24, tied_embeddings=False, scan_layers=True
)
RING = dataclasses.replace(DENSE, context="ring", n_kv_heads=4)
UNROLLED = dataclasses.replace(DENSE, n_layers=2, n_kv_heads=4, scan_layers=False, tied_embeddings=True)
EXPERTS = dataclasses.replace(
    DENSE, n_layers=4, moe=Experts(experts=8, top_k=2, d_ff=8, shared=1, capacity_factor=4.0)
)
DROPLESS = dataclasses.replace(
    DENSE, n_layers=4, moe=Experts(experts=8, top_k=2, d_ff=8, groups=4, top_groups=2, dispatch="dropless")
)
MODELS = {"dense": DENSE, "ring": RING, "unrolled": UNROLLED, "capacity": EXPERTS, "dropless": DROPLESS}
# Clipping off, so that the first step leaves (1 - beta1) times the gradient in the momentum.
TRAIN = TrainConfig(
    steps=STEPS, batch_size=16, seq_len=16, learning_rate=3e-3, warmup_steps=2, log_every=1, grad_clip=0.0, zero=3
)

CASES = [
    # every axis alone
    ("dense", "trial=8", {}),
    ("dense", "data=8", {}),
    ("dense", "fsdp=8", {}),
    ("dense", "stage=8", {"pipeline": "gpipe", "microbatches": 4}),
    ("capacity", "expert=8", {}),
    ("dense", "context=8", {}),
    ("dense", "tensor=8", {}),
    # combinations
    ("dense", "stage=2,fsdp=2,tensor=2", {}),
    ("dense", "stage=2,context=2,data=2", {"pipeline": "circular", "rounds": 2, "microbatches": 4}),
    ("unrolled", "data=2,fsdp=2,tensor=2", {}),
    ("unrolled", "fsdp=4,tensor=2", {"zero": 2, "accumulate": 2}),
    ("ring", "data=2,context=2,tensor=2", {"zero": 1}),
    ("ring", "stage=2,context=4", {}),
    ("dense", "trial=2,data=2,tensor=2", {}),
    ("dropless", "expert=4,data=2", {}),
    ("capacity", "stage=2,expert=2,fsdp=2", {}),
    ("dropless", "stage=2,expert=2,tensor=2", {"pipeline": "gpipe"}),
    ("capacity", "context=2,expert=2,fsdp=2", {"accumulate": 2}),
]


def parse(mesh: str) -> MeshConfig:
    return MeshConfig(**{axis: int(size) for axis, size in (part.split("=") for part in mesh.split(","))})


def batches(trials: int) -> dict[str, np.ndarray]:
    """Ten steps of tokens with uneven weights, the same for every trial."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, DENSE.vocab_size, (STEPS, TRAIN.batch_size, TRAIN.seq_len + 1), np.int32)
    weights = (rng.random((STEPS, TRAIN.batch_size, TRAIN.seq_len)) < 0.9).astype(np.float32)
    return {name: np.stack([x] * trials) for name, x in {"tokens": tokens, "weights": weights}.items()}


def trained(model: ModelConfig, train: TrainConfig, mesh: str | None) -> tuple[Any, list[np.ndarray], Any]:
    """(state after the first step, losses of all steps, routing of the last), trials first."""
    sizes = parse(mesh) if mesh else MeshConfig()
    grid = make_mesh(sizes, jax.devices()[: math.prod(sizes.sizes.values())])
    check_mesh(model, train, grid.shape)
    trials = sizes.trial
    mode = trial_mode("map", grid, trials)
    hyper = jax.tree.map(lambda x: np.stack([x] * trials), hyperparameters(train))
    placement = Placement(model, grid, abstract(model, train, trials), zero=train.zero, offload=train.offload)
    initial = jax.tree.map(lambda x: np.stack([x] * trials), one_initial(model, train.optimizer))
    state = jax.device_put(initial, placement.state) if placement.distributed else initial
    losses: list[np.ndarray] = []
    first: Any = None
    with placement.context():
        inputs = placement.put_batches(batches(trials))
        arguments = (np.zeros(trials, np.int32), np.ones(trials, np.int32))
        program = placement.jit_advance(over_trials(partial(advance, model, train), mode))
        program = program.lower(state, inputs, hyper, *arguments).compile(compiler_options=QUICK_COMPILE)
        for step in range(STEPS):
            state, metrics = program(state, inputs, hyper, arguments[0], arguments[1] * (step + 1))
            losses.append(np.asarray(metrics.last_loss))
            first = jax.device_get(state) if step == 0 else first
    return first, losses, jax.device_get(metrics.routing)


@functools.cache
def one_initial(model: ModelConfig, optimizer: str = "adamw") -> Any:
    """The state before step 0 of one run, on the host."""
    train = dataclasses.replace(TRAIN, optimizer=optimizer)
    return jax.device_get(jax.jit(partial(init_state, model, train))(np.uint32(0), hyperparameters(train)))


def abstract(model: ModelConfig, train: TrainConfig, trials: int) -> Any:
    shapes = jax.eval_shape(partial(init_state, model, train), np.uint32(0), hyperparameters(train))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((trials, *x.shape), x.dtype), shapes)


@functools.cache
def one_device(name: str, optimizer: str) -> tuple[Any, list[np.ndarray], Any]:
    return trained(MODELS[name], dataclasses.replace(TRAIN, optimizer=optimizer), None)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mesh", "changes"), CASES, ids=lambda value: str(value) or "-")
def test_a_mesh_trains_as_one_device_does(name: str, mesh: str, changes: dict[str, Any]) -> None:
    want, want_losses, want_routing = one_device(name, changes.get("optimizer", "adamw"))
    got, losses, routing = trained(MODELS[name], dataclasses.replace(TRAIN, **changes), mesh)
    for trial in range(len(losses[0])):
        assert abs(losses[0][trial] / want_losses[0][0] - 1) < 1e-5
        pairs = zip(*(jax.tree.leaves_with_path(state.opt_state.momentum) for state in (got, want)), strict=True)
        for (path, gradient), (_, expected) in pairs:
            difference = np.linalg.norm(gradient[trial] - expected[0])
            assert difference <= 1e-5 * np.linalg.norm(expected), jax.tree_util.keystr(path)
        np.testing.assert_allclose([loss[trial] for loss in losses], np.array(want_losses)[:, 0], rtol=1e-4)
        for statistic, value in routing.items():
            np.testing.assert_allclose(value[trial], want_routing[statistic][0], rtol=1e-4)
    assert want_losses[-1][0] < want_losses[0][0]
    assert want_routing.get("dropped_share", 0) == 0


# -- ZeRO and offload ---------------------------------------------------------------------------------------------

SPREADABLE = dataclasses.replace(DENSE, n_layers=2, scan_layers=False)  # every weight has a dim that 8 divides


def bytes_per_device(tree: Any, shardings: Any) -> int:
    """Bytes that one device holds of the parameters, gradients or moments in `tree`."""
    pairs = zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(shardings), strict=True)
    return sum(
        math.prod(sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for (path, x), sharding in pairs
        if "step" not in jax.tree_util.keystr(path)
    )


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(
    ("mesh", "zero", "shares"),  # of parameters, gradients and moments that one device holds (Rajbhandari et al. 2020)
    [
        ("data=8", 0, (1, 1, 1)),
        ("data=8", 1, (1, 1, 8)),
        ("fsdp=8", 1, (1, 1, 8)),
        ("data=2,fsdp=4", 2, (1, 8, 8)),
        ("fsdp=8", 3, (8, 8, 8)),
        ("data=2,fsdp=4", 3, (4, 8, 8)),
        ("data=2,fsdp=2,tensor=2", 1, (2, 2, 8)),
        ("fsdp=4,tensor=2", 3, (8, 8, 8)),
    ],
)
def test_bytes_per_device_are_those_of_the_zero_stage(mesh: str, zero: int, shares: tuple, optimizer: str) -> None:
    train = dataclasses.replace(TRAIN, zero=zero, optimizer=optimizer)
    grid, shapes = make_mesh(parse(mesh)), abstract(SPREADABLE, train, 1)
    placement = Placement(SPREADABLE, grid, shapes, zero=zero)
    unstacked = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), shapes.params)
    gradients = jax.tree.map(partial(NamedSharding, placement.mesh), placement.specs.gradients)
    held = (
        bytes_per_device(shapes.params, placement.state.params),
        bytes_per_device(unstacked, gradients),
        bytes_per_device(shapes.opt_state, placement.state.opt_state),
    )
    whole = (
        counts.param_bytes(SPREADABLE),
        counts.gradient_bytes(SPREADABLE),
        counts.optimizer_bytes(SPREADABLE, optimizer),
    )
    gains = 4 * sum(w.size for w in counts.declarations(SPREADABLE) if w.role == "vector")  # whole along `tensor`
    ways = grid.shape["tensor"]
    vectors = (gains, gains, 2 * gains)
    expected = [(n - v) / share + v * ways / share for n, v, share in zip(whole, vectors, shares, strict=True)]
    assert list(held) == expected


def test_gradients_are_born_split_at_stage_two() -> None:
    train = dataclasses.replace(TRAIN, zero=2)
    placement = Placement(UNROLLED, make_mesh(parse("data=4"), jax.devices()[:4]), abstract(UNROLLED, train, 1), zero=2)
    params = jax.device_put(one_initial(UNROLLED).params, placement.replicated)
    batch = {name: x[0, 0] for name, x in batches(1).items()}
    with placement.context():
        _, grads = jax.jit(partial(loss_and_gradient, UNROLLED, train))(params, batch)
    expected = jax.tree.map(partial(NamedSharding, placement.mesh), placement.specs.gradients)
    for grad, sharding in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        assert grad.sharding.is_equivalent_to(sharding, grad.ndim)


@pytest.mark.slow
def test_moments_that_rest_in_the_hosts_memory_train_alike() -> None:
    """The CPU's host memory is the same memory, so this shows the program, not the saving."""
    want, losses = (
        trained(UNROLLED, dataclasses.replace(TRAIN, offload=kind), "fsdp=2") for kind in ("none", "optimizer")
    )
    np.testing.assert_allclose(losses[1], want[1], rtol=1e-6)
    train = dataclasses.replace(TRAIN, offload="optimizer")
    grid = make_mesh(parse("fsdp=2"), jax.devices()[:2])
    placement = Placement(UNROLLED, grid, abstract(UNROLLED, train, 1), offload="optimizer")
    assert {s.memory_kind for s in jax.tree.leaves(placement.state.opt_state.momentum)} == {"pinned_host"}


@pytest.mark.slow
def test_activations_that_wait_in_the_hosts_memory_train_alike() -> None:
    model, away = DENSE, dataclasses.replace(DENSE, remat="offload")
    (want, want_losses, _), (got, losses, _) = (trained(m, TRAIN, "data=2") for m in (model, away))
    np.testing.assert_allclose(losses, want_losses, rtol=1e-5)
    for gradient, expected in zip(jax.tree.leaves(got.opt_state.momentum), jax.tree.leaves(want.opt_state.momentum)):
        assert np.linalg.norm(gradient - expected) <= 1e-5 * np.linalg.norm(expected)
    batch = {name: x[0, 0] for name, x in batches(1).items()}
    params = one_initial(model).params
    program = str(jax.make_jaxpr(partial(loss_and_gradient, away, TRAIN))(params, batch))
    assert "<host>" in program and "<host>" not in str(
        jax.make_jaxpr(partial(loss_and_gradient, model, TRAIN))(params, batch)
    )


class Described:
    """A device without host memory that it can reach."""

    platform = "npu"

    def addressable_memories(self) -> list[Any]:
        return [type("Memory", (), {"kind": "device"})()]


def test_a_backend_without_host_memory_is_refused() -> None:
    with pytest.raises(ConfigError) as error:
        check_host_memory(Described())
    assert str(error.value) == "train.offload: npu devices have no pinned_host memory (device): use 'none'"


# -- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mesh", "changes", "message"),
    [
        ("dense", "stage=16", {}, "mesh.stage: 16 stages for 8 layers: use at most 8"),
        ("dense", "stage=3", {"microbatches": 4}, "mesh.stage: 8 layers do not divide into 3 equal runs (3 st"),
        ("unrolled", "stage=2", {}, "model.scan_layers: is off, but stages hold stacked layers: set it to true"),
        ("dense", "stage=2", {"microbatches": 3}, "train.microbatches: 3 micro-batches do not divide the 16 sequences"),
        ("dense", "stage=4", {"pipeline": "circular", "microbatches": 2}, "train.microbatches: 2 is no multiple of "),
        ("dense", "stage=4", {"rounds": 2}, "train.rounds: is 2, but a 1f1b pipeline goes round once: use 1"),
        ("dense", "data=3", {}, "train.batch_size: a micro-batch of 16 sequences does not divide over data=3: use"),
        ("dense", "stage=2,data=8", {}, "train.batch_size: a micro-batch of 4 sequences does not divide over data=8"),
        ("dense", "context=3", {}, "train.seq_len: 16 positions do not divide over context=3: use a multiple of 3"),
        ("dense", "expert=2", {}, "mesh.expert: the model has no experts: use 1, or set model.moe"),
        ("capacity", "expert=16", {}, "mesh.expert: 16 does not divide the experts dim 8 of blocks/"),
        ("dense", "tensor=3", {}, "mesh.tensor: 3 does not divide the vocab dim 32 of tokens: use a divisor of 32"),
        ("dense", "fsdp=32", {"batch_size": 32}, "mesh.fsdp: 32 does not divide the embed dim 16 of tokens"),
        ("dense", "trial=2,stage=2", {}, "mesh.trial: trials side by side cannot share a program with stage: use 1"),
    ],
)  # fmt: skip
def test_a_mesh_that_cannot_train_the_model_says_what_would(name: str, mesh: str, changes: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_mesh(MODELS[name], dataclasses.replace(TRAIN, **changes), parse(mesh).sizes)
    assert str(error.value).startswith(message)


def test_a_stack_that_the_trial_axis_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"mesh\.trial: 8 does not divide the 3 trials of a stack"):
        Placement(DENSE, make_mesh(parse("trial=8")), abstract(DENSE, TRAIN, 3))


def test_a_rest_axis_is_checked_once_it_is_known() -> None:
    check_mesh(DENSE, TRAIN, MeshConfig(data=-1).sizes)
    with pytest.raises(ConfigError, match=r"train\.batch_size: a micro-batch of 4 sequences"):
        check_mesh(DENSE, dataclasses.replace(TRAIN, batch_size=4), make_mesh(MeshConfig(data=-1)).shape)
