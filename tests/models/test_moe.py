"""Both blocks of experts compute the sum over a token's experts; routing, its losses and its counts are exact."""

from __future__ import annotations

import dataclasses
import functools
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from models import counts, dispatch, routing, transformer
from models.channels.dense import Dense
from models.channels.experts import Experts
from models.config import ModelConfig
from models.errors import ConfigError
from models.routers import TopK
from models.routing import Assignment
from models.sharding import DEFAULT_RULES, MeshConfig, make_mesh
from tests.models.test_counts import flops_of, plain_kernels

BATCH, SEQ, D = 2, 12, 8
EXPERTS = Experts(experts=6, top_k=2, d_ff=5, capacity_factor=3.0)  # slots for every choice
TOKENS = np.zeros((BATCH, SEQ), np.int32)
CONFIG = ModelConfig(vocab_size=16, d_model=D, n_layers=2, n_heads=2, d_ff=12, moe=EXPERTS).resolved()


def changed(**fields: Any) -> ModelConfig:
    return dataclasses.replace(CONFIG, moe=dataclasses.replace(experts_of(CONFIG), **fields))


def experts_of(config: ModelConfig) -> Experts:
    assert config.moe
    return config.moe


def drawn(config: ModelConfig) -> dict[str, jax.Array]:
    """x and the weights of one block of experts."""
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.standard_normal(w.shape, np.float32) * (w.std or 1)
        for name, w in experts_of(config).weights(config.stream).items()
    }
    return arrays | {"x": rng.standard_normal((BATCH, SEQ, D), np.float32)}


def by_definition(config: ModelConfig, arrays: dict[str, jax.Array]) -> jax.Array:
    """Every token through every expert, weighted by what the router gives it: 0 for those it does not choose."""
    m, x = experts_of(config), arrays["x"]
    choice, _ = routing.choose(m, x @ arrays["router"])
    weight = (jax.nn.one_hot(choice.expert, m.experts) * choice.weight[..., None]).sum(2)  # [batch, seq, experts]
    hidden = jnp.einsum("bsd,edgf->bsegf", x, arrays["gate_up"])
    hidden = jax.nn.silu(hidden[..., 0, :]) * hidden[..., 1, :]
    return jnp.einsum("bsef,efd,bse->bsd", hidden, arrays["down"], weight)


@functools.cache
def initial(config: ModelConfig) -> Any:
    return jax.jit(partial(transformer.init, config))(jax.random.key(0))


def block(config: ModelConfig, arrays: dict[str, jax.Array]) -> jax.Array:
    w = {name: value for name, value in arrays.items() if name != "x"}
    return experts_of(config).apply(config.stream, w, arrays["x"], TOKENS)[0]


@pytest.mark.parametrize("dispatch", ["capacity", "dropless"])
@pytest.mark.parametrize("stretch", [SEQ, 4])
def test_output_and_gradient_are_those_of_the_definition(dispatch: str, stretch: int) -> None:
    config = changed(dispatch=dispatch, capacity_tokens=stretch)
    arrays = drawn(config)

    def loss(f: Any, arrays: Any) -> jax.Array:
        return jnp.square(f(config, arrays)).sum()

    got, got_gradient = jax.jit(jax.value_and_grad(partial(loss, block)))(arrays)
    want, gradient = jax.jit(jax.value_and_grad(partial(loss, by_definition)))(arrays)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    for name, expected in gradient.items():
        assert np.linalg.norm(got_gradient[name] - expected) <= 1e-5 * np.linalg.norm(expected), name


def test_experts_stay_where_they_are_and_slots_travel() -> None:
    """What goes over `expert` for the gradient: slots there and back, in each direction once; no weights."""
    from launch.collectives import collectives

    config = changed(capacity_factor=1.0)
    arrays = drawn(config)
    _, slots = experts_of(config).capacity(SEQ)
    arrays["x"] = jnp.concatenate([arrays["x"]] * 2)
    mesh = make_mesh(MeshConfig(fsdp=2, expert=2), jax.devices()[:4])
    dims = {"x": ("batch",)} | {name: w.axes for name, w in experts_of(config).weights(config.stream).items()}
    shardings = {name: NamedSharding(mesh, DEFAULT_RULES.spec(axes)) for name, axes in dims.items()}
    gradient = jax.grad(lambda arrays: jnp.sum(block(config, arrays) ** 2))
    with jax.set_mesh(mesh):
        text = jax.jit(gradient, in_shardings=(shardings,), out_shardings=shardings).lower(arrays).compile().as_text()
    sent = 4 * EXPERTS.experts * slots * D  # bytes of one sequence; all experts' weights are 3.75 times as many
    found = [(c.kind, c.payload) for c in collectives(text, mesh.shape) if "expert" in c.axes and c.payload >= sent]
    assert found == [("all-to-all", sent)] * 4


def test_shared_experts_serve_every_token() -> None:
    config = changed(shared=2)
    arrays = drawn(config)
    routed = {name: value for name, value in arrays.items() if not name.startswith("shared")}

    @jax.jit
    def parts(arrays: Any) -> tuple[jax.Array, jax.Array]:
        hidden = jnp.einsum("bsd,dgf->bsgf", arrays["x"], arrays["shared_gate_up"])
        shared = (jax.nn.silu(hidden[..., 0, :]) * hidden[..., 1, :]) @ arrays["shared_down"]
        return block(config, arrays), by_definition(CONFIG, routed) + shared

    got, want = parts(arrays)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


# -- routing ------------------------------------------------------------------------------------------------------


def test_choices_are_the_best_scores_in_order_and_their_weights_sum_to_the_scale() -> None:
    logits = jax.random.normal(jax.random.key(0), (BATCH, SEQ, 6))
    for score, normalize in (("softmax", True), ("softmax", False), ("sigmoid", True)):
        config = dataclasses.replace(EXPERTS, score=score, normalize=normalize, scale=2.5)
        choice, scores = routing.choose(config, logits)
        order = jax.lax.top_k(logits, 2)[1]
        assert np.array_equal(choice.expert, order)
        raw = jax.nn.softmax(logits) if score == "softmax" else jax.nn.sigmoid(logits)
        expected = jnp.take_along_axis(raw, order, -1)
        if normalize:
            expected = expected / expected.sum(-1, keepdims=True)
            np.testing.assert_allclose(choice.weight.sum(-1), 2.5, rtol=1e-6)
        np.testing.assert_allclose(choice.weight, 2.5 * expected, rtol=1e-6)
        np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-6)


def test_a_token_stays_within_its_best_groups() -> None:
    config = Experts(experts=8, top_k=3, groups=4, top_groups=2)
    logits = np.asarray(jax.random.normal(jax.random.key(1), (1, 50, 8)))
    choice, _ = routing.choose(config, jnp.asarray(logits))
    groups = logits.reshape(50, 4, 2)
    best = np.argsort(-groups.max(-1), -1)[:, :2]
    for token in range(50):
        allowed = [2 * g + i for g in best[token] for i in range(2)]
        ranked = sorted(allowed, key=lambda e: -logits[0, token, e])
        assert list(choice.expert[0, token]) == ranked[:3]


def test_the_slots_go_to_first_choices_in_order_and_the_rest_is_dropped_and_counted() -> None:
    """Every token wants expert 0 first and expert 1 second; each has 4 slots for 12 tokens."""
    config = changed(capacity_factor=1.0)
    experts = experts_of(config)
    assert experts.capacity(SEQ) == (SEQ, 4)
    arrays = drawn(config)
    expert = jnp.broadcast_to(jnp.array([0, 1], jnp.int32), (BATCH, SEQ, 2))
    choice = Assignment(expert, jnp.full(expert.shape, 0.5))
    weights = dispatch.Products(arrays["gate_up"], arrays["down"])
    out, dropped = dispatch.capacity_block(experts, config.activation, arrays["x"], choice, weights)
    assert np.array_equal(dropped, np.full(BATCH, 1 - 4 / SEQ, np.float32))
    assert not np.any(out[:, 4:]) and np.all(np.any(out[:, :4], -1))
    swapped = Assignment(expert.at[:, 0].set(jnp.array([1, 0], jnp.int32)), choice.weight)
    out, _ = dispatch.capacity_block(experts, config.activation, arrays["x"], swapped, weights)
    assert np.any(out[:, 4]) and np.any(out[:, 0])  # token 4 has the slot of expert 0 that is only token 0's second


@pytest.mark.parametrize(
    ("seq", "limit", "tokens"), [(12, 1024, 12), (12, 5, 4), (12, 7, 6), (13, 5, 1), (2048, 1024, 1024)]
)
def test_a_long_sequence_is_cut_into_equal_stretches(seq: int, limit: int, tokens: int) -> None:
    assert dataclasses.replace(EXPERTS, capacity_tokens=limit).capacity(seq)[0] == tokens


def test_the_balance_loss_is_one_at_balance_and_the_number_of_experts_at_collapse() -> None:
    even = jnp.arange(8, dtype=jnp.int32).reshape(1, 8, 1) % 4
    uniform = jnp.full((1, 8, 4), 0.25)
    assert routing.load_balance(Assignment(even, even * 1.0), uniform) == pytest.approx(1)
    collapsed = jnp.zeros((1, 8, 4)).at[..., 2].set(1.0)
    assert routing.load_balance(Assignment(even * 0 + 2, even * 1.0), collapsed) == pytest.approx(4)
    assert routing.z_loss(jnp.zeros((1, 8, 4))) == pytest.approx(math.log(4) ** 2)


# -- in the model -------------------------------------------------------------------------------------------------


def some_tokens(batch: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, CONFIG.vocab_size, (batch, SEQ + 1), np.int32)


def test_objectives_of_micro_batches_add_up_to_that_of_the_batch() -> None:
    params = initial(CONFIG)
    tokens, weights = some_tokens(4), np.triu(np.ones((4, SEQ), np.float32))

    @jax.jit
    def sums(tokens: jax.Array, weights: jax.Array) -> tuple:
        loss, _ = transformer.loss(CONFIG, params, tokens, loss_weights=weights)
        return (*transformer.routed_loss(CONFIG, params, tokens, loss_weights=weights)[:3], loss)

    whole = sums(tokens, weights)
    parts = [sums(tokens[rows], weights[rows]) for rows in (slice(0, 2), slice(2, 4))]
    np.testing.assert_allclose(np.sum(parts, 0), whole, rtol=1e-5)
    assert whole[3] == pytest.approx(float(whole[0]), rel=1e-6)  # what is scored has no penalty
    assert whole[2] > 0


def test_scanned_and_unrolled_layers_route_alike() -> None:
    params = initial(CONFIG)
    scanned = dataclasses.replace(CONFIG, scan_layers=True)
    losses = jax.jit(transformer.routed_loss, static_argnums=0)
    want = losses(CONFIG, params, some_tokens(2))
    got = losses(scanned, transformer.stack_layers(params, scanned), some_tokens(2))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("dispatch", ["capacity", "dropless"])
@pytest.mark.parametrize("remat", ["none", "full", "dots"])
def test_flops_equal_the_jaxpr_of_the_loss_and_its_gradient(dispatch: str, remat: str) -> None:
    config = changed(dispatch=dispatch, shared=1, capacity_factor=2.0, capacity_tokens=6)
    config = dataclasses.replace(config, remat=remat)
    params = jax.eval_shape(lambda: transformer.init(config, jax.random.key(0)))
    tokens = jax.ShapeDtypeStruct((1, SEQ + 1), jnp.int32)

    def objective(params: Any, tokens: jax.Array) -> jax.Array:
        loss, _, penalty, _ = transformer.routed_loss(config, params, tokens)
        return loss + penalty

    with plain_kernels():
        walked = flops_of(jax.grad(objective), params, tokens)
    expected = counts.train_flops(config, SEQ, SEQ, causal=False) + counts.dispatch_flops(config, SEQ, SEQ)
    assert walked == expected + counts.remat_flops(config, SEQ, SEQ, causal=False)


def test_k_of_many_small_experts_cost_what_one_block_k_times_as_wide_does_and_can_be_it() -> None:
    wide, stream = Dense(12), CONFIG.stream
    small = Experts(8, 4, 12 // 4, dispatch="dropless", score="sigmoid", normalize=False, router=TopK(offset=True))
    arrays = drawn(dataclasses.replace(CONFIG, moe=small))
    x, chosen = arrays.pop("x"), [1, 3, 4, 6]
    arrays |= {"router": 0 * arrays["router"], "router_offset": np.full(8, -1e4, np.float32)}
    arrays["router_offset"][chosen] = 1e4  # their scores are 1, and the others' 0
    block = {"gate_up": np.concatenate(arrays["gate_up"][chosen], -1), "down": np.concatenate(arrays["down"][chosen])}
    mixture = jax.jit(lambda w, x: small.apply(stream, w, x, TOKENS)[0])
    one = jax.jit(lambda w, x: wide.apply(stream, w, x, TOKENS)[0])
    np.testing.assert_allclose(mixture(arrays, x), one(block, x), rtol=1e-5, atol=1e-5)
    router = 2 * BATCH * SEQ * D * 8
    assert flops_of(mixture, arrays, x) - router == flops_of(one, block, x) == BATCH * SEQ * 2 * 3 * D * 12
    small_model, wide_model = (dataclasses.replace(CONFIG, moe=moe) for moe in (small, None))
    more = counts.forward_flops(small_model, SEQ) - counts.forward_flops(wide_model, SEQ)
    assert more == 2 * router // BATCH  # two layers


def test_active_parameters_leave_out_the_experts_that_a_token_is_not_sent_to() -> None:
    config = changed(shared=1)
    expert = D * 2 * 5 + 5 * D
    total, active = counts.params(config), counts.params_active(config)
    assert total - active == CONFIG.n_layers * (6 - 2) * expert
    sizes = [x.size for x in jax.tree.leaves(jax.eval_shape(lambda: transformer.init(config, jax.random.key(0))))]
    assert total == sum(sizes)
    scanned = dataclasses.replace(config, scan_layers=True)
    assert (counts.params(scanned), counts.params_active(scanned)) == (total, active)
    assert counts.dispatch_flops(changed(dispatch="dropless"), SEQ, SEQ) == 0


def test_experts_start_as_wide_matrices_do() -> None:
    config = dataclasses.replace(CONFIG, d_model=64, moe=dataclasses.replace(EXPERTS, d_ff=48))
    block = initial(config)["block_0"]["feedforward"]
    assert np.std(block["gate_up"]) == pytest.approx(64**-0.5, rel=0.05)
    assert np.std(block["down"]) == pytest.approx(48**-0.5 / 2, rel=0.05)  # 2 layers: divided by sqrt(2 x 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"top_k": 9}, "top_k: is 9, but a token reaches 8 experts: use at most 8"),
        ({"groups": 3}, "groups: 3 groups do not divide 8 experts: use one of [1, 2, 4, 8]"),
        ({"groups": 2, "top_groups": 3}, "top_groups: is 3 of 2 groups: use at most 2"),
        ({"groups": 4, "top_k": 3}, "top_k: is 3, but a token reaches 2 experts: use at most 2"),
        ({"experts": 0}, "experts: is 0: give a positive integer"),
        ({"capacity_factor": 0.0}, "capacity_factor: is 0.0: give a positive number"),
        ({"z_coefficient": -1.0}, "z_coefficient: is -1.0: give a factor, or 0 to leave this out"),
    ],
)
def test_experts_that_cannot_work_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Experts(**fields)
    assert str(error.value) == message


def test_shared_experts_with_biases_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.bias: 'all' asks for biases that shared experts do not have"):
        ModelConfig(bias="all", moe=dataclasses.replace(EXPERTS, shared=1))
