"""AdamW and Muon equal optax's own on the weights they apply to, traced or stacked, clipped or not."""

from __future__ import annotations

import dataclasses
import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from models import counts, transformer
from models.config import ModelConfig
from models.sharding import DEFAULT_RULES, MeshConfig, make_mesh, weight_shardings
from models.weight import Weight, map_weights, walk
from scaling.train import optimizer
from scaling.train.config import TrainConfig, hyperparameters
from scaling.train.optimizer import clip_factor, make_optimizer, newton_schulz, orthogonalize
from scaling.train.schedule import learning_rate

# Every role and layout: grouped queries, a gate, biases, an untied head, learned positions.
MODEL = ModelConfig(
    vocab_size=11, d_model=8, n_layers=1, n_heads=4, n_kv_heads=2, max_seq_len=6, positions="learned",
    norm="layernorm", bias="all", tied_embeddings=False, qk_norm=True,
)  # fmt: skip
PLAIN = dataclasses.replace(MODEL, bias="none", norm="rmsnorm", qk_norm=False)  # every role, few weights: compiles fast
TRAIN = TrainConfig(steps=10, learning_rate=0.03, warmup_steps=3, weight_decay=0.2, grad_clip=0.7, eps=1e-6)
F32 = dict(rtol=2e-5, atol=2e-7)  # float32 rounding of updates of size 0.03, in another order of operations


def normal(model: ModelConfig = MODEL, size=1.0, seed: int = 0):
    """NumPy arrays in the structure of the model's params, `[*size.shape, *weight.shape]`."""
    rng, size = np.random.default_rng(seed), np.asarray(size)

    def draw(weight: Weight) -> np.ndarray:
        x = rng.standard_normal((*size.shape, *weight.shape)) * size.reshape(*size.shape, *[1] * len(weight.shape))
        return x.astype(jnp.dtype(model.param_dtype))

    return map_weights(draw, transformer.weights(model))


def some_params(model: ModelConfig = MODEL):
    return normal(model, 0.3)


def some_gradients(steps: int, model: ModelConfig = MODEL):
    """Gradients `[steps, ...]` whose global norm is below and above the clipping norm."""
    return normal(model, np.logspace(-3, 0, steps), seed=1)


def run(make, params, gradients):
    """Parameters `[steps, ...]` after each update of `make()`, and the last state; one compiled program."""
    return jax.jit(partial(scan_updates, make))(params, gradients)


def scan_updates(make, params, gradients):

    def step(carry, grads):
        params, state = carry
        updates, state = make().update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    (_, state), history = jax.lax.scan(step, (params, make().init(params)), gradients)
    return history, state


def ours(model=MODEL, train=TRAIN, **changes):
    train = dataclasses.replace(train, **changes)
    return lambda hyper=None: make_optimizer(
        model, train.optimizer, train.schedule, hyperparameters(train) if hyper is None else hyper
    )


def roles(model=MODEL):
    return jax.tree.map(lambda weight: weight.role, transformer.weights(model))


def optax_adamw(train: TrainConfig) -> optax.GradientTransformation:
    decayed = jax.tree.map(lambda role: role in ("matrix", "head"), roles())
    rate = partial(learning_rate, train.schedule, hyper=hyperparameters(train))
    adamw = optax.adamw(rate, train.beta1, train.beta2, train.eps, weight_decay=train.weight_decay, mask=decayed)
    return optax.chain(optax.clip_by_global_norm(train.grad_clip), adamw) if train.grad_clip else adamw


def assert_close(a, b, **tolerance):
    jax.tree.map(partial(np.testing.assert_allclose, **tolerance), a, b)


@pytest.mark.parametrize("grad_clip", [0.7, 0.0])
def test_adamw_equals_optax_adamw_with_clipping_schedule_and_masked_decay(grad_clip):
    train = dataclasses.replace(TRAIN, grad_clip=grad_clip)
    params = some_params()
    gradients = some_gradients(8)
    expected, _ = run(lambda: optax_adamw(train), params, gradients)
    actual, state = run(ours(train=train), params, gradients)
    assert_close(actual, expected, **F32)
    assert state.step == 8


def test_clipping_brings_the_norm_to_the_limit_and_zero_turns_it_off():
    grads = {"a": jnp.full((3, 4), 2.0), "b": jnp.ones(4)}
    norm = np.sqrt(52.0)
    np.testing.assert_allclose(clip_factor(grads, 1.0), 1 / norm, rtol=1e-6)
    assert clip_factor(grads, norm + 1) == 1
    assert clip_factor(grads, 0.0) == 1
    assert clip_factor(jax.tree.map(jnp.zeros_like, grads), 1.0) == 1
    half = jax.tree.map(lambda g: g.astype(jnp.bfloat16), {"a": jnp.full(4096, 1.01)})
    np.testing.assert_allclose(clip_factor(half, 1.0), 1 / (64 * float(jnp.bfloat16(1.01))), rtol=1e-5)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("tied", [True, False])
def test_decay_shrinks_matrices_and_an_untied_head_and_nothing_else(kind, tied):
    model = dataclasses.replace(MODEL, tied_embeddings=tied)
    params = some_params(model)
    make = ours(model, optimizer=kind, schedule="constant", warmup_steps=0)
    updates, _ = jax.jit(make().update)(jax.tree.map(np.zeros_like, params), make().init(params), params)
    for role, update, param in zip(*map(jax.tree.leaves, (roles(model), updates, params)), strict=True):
        shrink = TRAIN.learning_rate * TRAIN.weight_decay if role in ("matrix", "head") else 0.0
        np.testing.assert_allclose(update, -shrink * param, rtol=1e-6)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_stacked_trials_under_vmap_equal_each_trial_alone(kind):
    trials = [
        dataclasses.replace(TRAIN, optimizer=kind, learning_rate=lr, weight_decay=wd, grad_clip=clip, beta1=b1, steps=n)
        for lr, wd, clip, b1, n in [(0.1, 0.0, 0.0, 0.9, 4), (0.01, 0.5, 0.2, 0.5, 40), (0.03, 0.1, 9.0, 0.0, 9)]
    ]
    params = some_params(PLAIN)
    gradients = some_gradients(4, PLAIN)
    stacked = jax.tree.map(lambda *xs: np.stack(xs), *[hyperparameters(t) for t in trials])
    together = jax.jit(
        jax.vmap(lambda hyper: scan_updates(lambda: ours(PLAIN, optimizer=kind)(hyper), params, gradients)[0])
    )(stacked)
    # One trial is compiled for all, with its hyper-parameters traced.
    one = jax.jit(lambda hyper: scan_updates(lambda: ours(PLAIN, optimizer=kind)(hyper), params, gradients)[0])
    for i, trial in enumerate(trials):
        alone = one(hyperparameters(trial))
        assert_close(jax.tree.map(lambda x, i=i: x[i], together), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_state_structure_and_bytes_follow_from_the_declarations_not_from_values(kind):
    params = some_params()
    shapes = [
        jax.eval_shape(ours(optimizer=kind, weight_decay=decay, grad_clip=clip)().init, params)
        for decay, clip in [(0.0, 0.0), (0.1, 1.0)]
    ]
    assert shapes[0] == shapes[1]
    moments = jax.tree.leaves((shapes[0].momentum, shapes[0].variance))
    assert sum(x.size * x.dtype.itemsize for x in moments) == counts.optimizer_bytes(MODEL, kind)
    _, after = jax.eval_shape(ours(optimizer=kind)().update, params, shapes[0], params)
    assert after == shapes[0]
    hidden = {path for path, weight in walk(transformer.weights(MODEL)) if weight.role == "matrix"}
    absent = flatten_dict(shapes[0].momentum).keys() - flatten_dict(shapes[0].variance).keys()
    assert absent == (hidden if kind == "muon" else set())


def test_moments_stay_float32_when_parameters_are_bfloat16():
    model = dataclasses.replace(MODEL, param_dtype="bfloat16")
    params = some_params(model)
    history, state = run(ours(model), params, some_gradients(3, model))
    assert {x.dtype for x in jax.tree.leaves((state.momentum, state.variance))} == {jnp.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(history)} == {jnp.dtype("bfloat16")}


def as_optax_muon(weight: Weight) -> list[tuple]:
    """(slice, dimension numbers) of each matrix in a weight, written out by name."""
    everything = (slice(None),) * len(weight.shape)
    layer = int(weight.axes[0] == "layers")
    if "qkv" in weight.axes:
        group = weight.shape[layer + 2]
        return [
            ((*everything[: layer + 2], i), MuonDimensionNumbers(layer, (layer + 1, layer + 2))) for i in range(group)
        ]
    if "gate" in weight.axes:
        return [((*everything[: layer + 1], i), MuonDimensionNumbers(layer, layer + 1)) for i in range(2)]
    inputs = tuple(range(layer, layer + weight.inputs))
    return [(everything, MuonDimensionNumbers(inputs, len(weight.shape) - 1))]


@partial(jax.jit, static_argnums=0)
def by_optax(dims: MuonDimensionNumbers, matrix):
    muon = scale_by_muon(beta=0.0, nesterov=False, weight_dimension_numbers=dims)
    return muon.update(matrix, muon.init(matrix))[0]


@pytest.mark.parametrize("scan_layers", [False, True])
def test_orthogonalising_the_stack_equals_optax_muon_on_each_matrix(scan_layers):
    model = dataclasses.replace(MODEL, n_layers=2, scan_layers=scan_layers)
    declared = {path: w for path, w in walk(transformer.weights(model)) if w.role == "matrix"}
    everything = flatten_dict(normal(model))
    updates = {path: everything[path] for path in declared}
    actual = jax.jit(lambda u: orthogonalize(u, declared, "float32"))(updates)
    for path, weight in declared.items():
        for index, dims in as_optax_muon(weight):
            matrix = updates[path][index]
            fan_in, fan_out = (math.prod(np.take(matrix.shape, dim, 0).ravel()) for dim in dims)
            expected = np.asarray(by_optax(dims, matrix)) * optimizer.MUON_RMS * math.sqrt(max(fan_in, fan_out))
            np.testing.assert_allclose(actual[path][index], expected, rtol=2e-3, atol=2e-4)


def test_newton_schulz_keeps_singular_vectors_and_brings_singular_values_near_one():
    x = jax.random.normal(jax.random.key(0), (3, 8, 20))
    done = newton_schulz(x)
    s = np.linalg.svd(done, compute_uv=False)
    assert ((s > 0.65) & (s < 1.25)).all()
    u, _, vt = np.linalg.svd(x)
    overlap = np.einsum("nij,nij->n", u @ vt[:, :8], done) / s.sum(-1)
    np.testing.assert_allclose(overlap, 1, atol=1e-4)
    assert not newton_schulz(jnp.zeros((3, 8, 20))).any()


def test_muon_updates_have_about_adams_size_and_use_nesterov_momentum():
    params = some_params()
    gradients = some_gradients(2)
    train = dataclasses.replace(
        TRAIN, optimizer="muon", weight_decay=0.0, schedule="constant", warmup_steps=0, grad_clip=0
    )
    first, second = (jax.tree.map(lambda g, i=i: g[i], gradients) for i in range(2))
    make = ours(train=train)
    update = jax.jit(make().update)
    _, state = update(first, make().init(params), params)
    updates, state = update(second, state, params)
    declared = {path: w for path, w in walk(transformer.weights(MODEL)) if w.role == "matrix"}
    g1, g2 = flatten_dict(first), flatten_dict(second)
    beta = train.momentum
    momentum = {path: (1 - beta) * (beta * g1[path] + g2[path]) for path in declared}
    nesterov = {path: beta * momentum[path] + (1 - beta) * g2[path] for path in declared}
    expected = jax.jit(lambda u: orthogonalize(u, declared, "float32"))(nesterov)
    for path in declared:
        np.testing.assert_allclose(flatten_dict(state.momentum)[path], momentum[path], rtol=1e-5, atol=1e-6)
        update = flatten_dict(updates)[path]
        np.testing.assert_allclose(update, -train.learning_rate * expected[path], rtol=1e-3, atol=1e-5)
        rms = float(jnp.sqrt(jnp.mean(jnp.square(update)))) / train.learning_rate
        assert 0.65 * optimizer.MUON_RMS < rms < 1.25 * optimizer.MUON_RMS


def test_muon_leaves_embeddings_gains_and_the_head_to_adamw():
    params = some_params(PLAIN)
    gradients = some_gradients(5, PLAIN)
    adamw, _ = run(ours(PLAIN), params, gradients)
    muon, _ = run(ours(PLAIN, optimizer="muon"), params, gradients)
    for role, a, b in zip(*map(jax.tree.leaves, (roles(PLAIN), adamw, muon)), strict=True):
        assert np.allclose(a, b, **F32) == (role != "matrix")


def compile_on_mesh(kind: str, mesh_config: MeshConfig):
    """(compiled update, its sharded (grads, params))."""
    model = dataclasses.replace(PLAIN, vocab_size=16, activation="gelu")
    grads, params = normal(model, seed=2), some_params(model)
    make = ours(model, optimizer=kind)

    def update(grads, params):
        return make().update(grads, make().init(params), params)[0]

    mesh = make_mesh(mesh_config)
    shardings = weight_shardings(transformer.weights(model), DEFAULT_RULES, mesh)
    with jax.set_mesh(mesh):
        arguments = [jax.device_put(x, shardings) for x in (grads, params)]
        return jax.jit(update, out_shardings=shardings).lower(*arguments).compile(), arguments


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_update_of_sharded_weights_equals_one_device(kind):
    compiled, arguments = compile_on_mesh(kind, MeshConfig(fsdp=4, tensor=2))
    alone, whole = compile_on_mesh(kind, MeshConfig(data=8))
    assert_close(compiled(*arguments), alone(*whole), rtol=1e-3, atol=1e-5)


def test_newton_schulz_rounds_need_no_communication(monkeypatch):
    def collectives() -> int:
        compiled, _ = compile_on_mesh("muon", MeshConfig(fsdp=4, tensor=2))
        return len(
            re.findall(r" (?:all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)\(", compiled.as_text())
        )

    five = collectives()
    monkeypatch.setattr(optimizer, "NEWTON_SCHULZ_ROUNDS", 1)
    assert collectives() == five > 0
