"""Every router does what its definition says, in NumPy loops; equal loads, and bytes that are sent, are exact."""

from __future__ import annotations

import dataclasses
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from launch.collectives import collectives
from models import counts, transformer
from models.channels import Experts
from models.channels.free import Free
from models.config import Layer, ModelConfig
from models.errors import ConfigError
from models.huggingface.config import write_config
from models.routers import ExpertChoice, Grouped, Hashed, Soft
from models.routing import Assignment, Plan, Slots
from models.serialize import from_json
from models.sharding import DEFAULT_RULES, MeshConfig, make_mesh
from search.engine.precision import running_config
from tests.models.test_counts import flops_of, plain_kernels
from tests.models.test_parts import quick
from tests.models.test_parts_tpu import mesh_of, needs_libtpu

BATCH, SEQ, D, K = 2, 12, 8, 2
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # float32: sums of some tens of terms of order 1
CONFIG = ModelConfig(vocab_size=64, d_model=D, n_layers=1, n_heads=2, d_ff=12).resolved()
EVERY = {
    "grouped": Experts(6, 4, 5, dispatch="dropless", router=Grouped(2)),
    "hashed": Experts(6, K, 5, dispatch="dropless", router=Hashed(3)),
    "expert_choice": Experts(6, K, 5, capacity_factor=1.0, capacity_tokens=6, router=ExpertChoice()),
    "soft": Experts(6, K, 5, router=Soft(2)),
    "free": Experts(4, K, 5, capacity_factor=3.0, free=Free(1, 1, 2)),
    "narrow": Experts(4, K, 5, dispatch="dropless", bottleneck=3),
}  # fmt: skip
RNG = np.random.default_rng(0)
X, TOKENS = RNG.standard_normal((BATCH, SEQ, D), np.float32), RNG.integers(0, 64, (BATCH, SEQ), np.int32)


def drawn(m: Experts) -> dict[str, np.ndarray]:
    rng, declared = np.random.default_rng(1), m.weights(CONFIG.stream)
    return {name: rng.standard_normal(w.shape, np.float32) * (w.std or 1) for name, w in declared.items()}


@cache
def run() -> dict[str, tuple[Any, Plan, Any]]:
    """Of every router (output, plan, routing), by one program."""

    def all_of(weights: Any, x: jax.Array, ids: jax.Array) -> Any:
        found = {}
        for name, m in EVERY.items():
            y, routing = m.apply(CONFIG.stream, weights[name], x, ids)
            found[name] = y, m.routing.route(m, weights[name], x, ids), routing
        return found

    return jax.tree.map(np.asarray, quick(all_of)({name: drawn(m) for name, m in EVERY.items()}, X, TOKENS))


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def expert(w: dict[str, np.ndarray], e: int, x: np.ndarray) -> np.ndarray:
    hidden = np.einsum("...d,dgf->...gf", x, w["gate_up"][e])
    return (silu(hidden[..., 0, :]) * hidden[..., 1, :]) @ w["down"][e]


def softmax(x: np.ndarray, axis: Any = -1) -> np.ndarray:
    x = np.exp(x - x.max(axis, keepdims=True))
    return x / x.sum(axis, keepdims=True)


def by_choices(name: str, sent: np.ndarray = X) -> np.ndarray:
    """The sum over a plan's choices, token by token."""
    m, w, choice = EVERY[name], drawn(EVERY[name]), run()[name][1].choice
    assert isinstance(choice, Assignment)
    out = np.zeros(sent.shape)
    for b, t, k in np.ndindex(choice.expert.shape):
        if choice.expert[b, t, k] < m.experts:
            out[b, t] += choice.weight[b, t, k] * expert(w, choice.expert[b, t, k], sent[b, t])
    return out


def test_grouped_experts_are_the_best_of_every_group_with_learned_factors_on_their_scores() -> None:
    w, (y, plan, routing) = drawn(EVERY["grouped"]), run()["grouped"]
    scores = softmax(X @ w["router"])
    for b, t in np.ndindex(BATCH, SEQ):
        want = {3 * g + i for g in range(2) for i in np.argsort(-scores[b, t, 3 * g : 3 * g + 3])[:2]}
        assert set(plan.choice.expert[b, t]) == want
    np.testing.assert_allclose(
        plan.choice.weight, np.take_along_axis(scores * w["router_scale"], plan.choice.expert, -1), **CLOSE
    )
    np.testing.assert_allclose(y, by_choices("grouped"), **CLOSE)
    # every group, and so the device that has it, gets the same number of choices of every token
    assert np.all(np.stack([(plan.choice.expert // 3 == g).sum(-1) for g in range(2)]) == 2)
    assert np.all(routing.computed == 1)


def test_hashed_experts_follow_from_the_id_and_are_spread_evenly() -> None:
    y, plan, routing = run()["hashed"]
    np.testing.assert_allclose(y, by_choices("hashed"), **CLOSE)
    assert np.all(plan.choice.expert[..., 0] != plan.choice.expert[..., 1])
    same = TOKENS.reshape(-1)[:, None] == TOKENS.reshape(-1)
    chosen = plan.choice.expert.reshape(-1, K)
    assert same.sum() > same.shape[0] and np.all((chosen[:, None] == chosen).all(-1)[same])
    assert np.all(plan.penalty == 0) and "router" not in drawn(EVERY["hashed"])
    m = Experts(8, K, router=Hashed(0))
    ids = np.arange(4096, dtype=np.int32)[None]
    expert = np.asarray(m.routing.route(m, {}, np.zeros((1, 4096, 1), np.float32), ids).choice.expert)
    load = np.bincount(expert.reshape(-1), minlength=8) / (4096 * K / 8)
    assert np.abs(load - 1).max() < 5 * (8 / (4096 * K)) ** 0.5  # five standard deviations of a binomial
    other = dataclasses.replace(m, router=Hashed(1))
    again = other.routing.route(other, {}, np.zeros((1, 4096, 1), np.float32), ids).choice.expert
    assert np.mean(np.asarray(again) == expert) < 0.2
    share = np.stack([(plan.choice.expert == e).mean((1, 2)) for e in range(6)], -1)
    np.testing.assert_allclose(routing.peak, 6 * share.max(-1), rtol=1e-6)


def test_every_expert_takes_its_best_tokens_of_every_stretch() -> None:
    m, w = EVERY["expert_choice"], drawn(EVERY["expert_choice"])
    y, plan, routing = run()["expert_choice"]
    scores, want = softmax(X @ w["router"]), np.zeros(X.shape)
    taken = np.zeros((BATCH, SEQ), int)
    for b, start, e in np.ndindex(BATCH, 2, m.experts):
        for t in 6 * start + np.argsort(-scores[b, 6 * start : 6 * start + 6, e])[:2]:  # 2 x 6 / 6 slots
            want[b, t] += scores[b, t, e] * expert(w, e, X[b, t])
            taken[b, t] += 1
    np.testing.assert_allclose(y, want, **CLOSE)
    np.testing.assert_allclose(routing.dropped, (taken == 0).mean(1))
    assert np.all(plan.peak == 1) and isinstance(plan.choice, Slots)


def test_soft_slots_are_means_of_tokens_and_tokens_get_means_of_slots() -> None:
    m, w = EVERY["soft"], drawn(EVERY["soft"])
    logits = np.einsum("btd,dep->btep", X, w["router"])
    read = np.einsum("btep,btd->bepd", softmax(logits, 1), X)
    served = np.stack([expert(w, e, read[:, e]) for e in range(m.experts)], 1)
    want = np.einsum("btep,bepd->btd", softmax(logits.reshape(BATCH, SEQ, -1)).reshape(logits.shape), served)
    np.testing.assert_allclose(run()["soft"][0], want, **CLOSE)


def test_free_experts_add_nothing_the_token_or_a_learned_mixture_and_zero_leaves_its_weight_to_the_other() -> None:
    m, w = EVERY["free"], drawn(EVERY["free"])
    y, plan, routing = run()["free"]
    scores, want = softmax(X @ w["router"]), by_choices("free")
    assert w["router"].shape == (D, 8)
    np.testing.assert_array_equal(plan.choice.expert, np.argsort(-scores, -1)[..., :K])
    for b, t in np.ndindex(BATCH, SEQ):
        chosen = plan.choice.expert[b, t]
        kept = np.where(chosen == m.experts, 0, scores[b, t, chosen])
        np.testing.assert_allclose(plan.choice.weight[b, t], kept / kept.sum(), **CLOSE)
        for e, g in zip(chosen, plan.choice.weight[b, t], strict=True):
            if e == 5:
                want[b, t] += g * X[b, t]
            if e > 5:
                a, c = softmax(X[b, t] @ w["constant_mix"][:, e - 6])
                want[b, t] += g * (a * X[b, t] + c * w["constant"][e - 6])
    assert {4, 5, 6} < set(plan.choice.expert.reshape(-1))
    np.testing.assert_allclose(y, want, **CLOSE)
    np.testing.assert_allclose(routing.computed, (plan.choice.expert < 4).mean((1, 2)), rtol=1e-6)
    share = np.stack([(plan.choice.expert == e).mean((1, 2)) for e in range(8)], -1)
    counted = np.where(np.arange(8) < 4, 1, 0.75)
    z = np.square(np.log(np.exp(X @ w["router"]).sum(-1))).mean(1)
    penalty = 0.01 * 8 * (counted * share * scores.mean(1)).sum(-1) + 0.001 * z
    np.testing.assert_allclose(plan.penalty, penalty, rtol=1e-5)


def test_narrow_experts_read_lowered_tokens_and_what_they_write_is_raised() -> None:
    w = drawn(EVERY["narrow"])
    want = by_choices("narrow", X @ w["lowered"]) @ w["raised"]
    np.testing.assert_allclose(run()["narrow"][0], want, **CLOSE)
    assert w["gate_up"].shape == (4, 3, 2, 5) and w["down"].shape == (4, 5, 3)


@pytest.mark.parametrize("name", ["expert_choice", "soft", "free", "narrow", "grouped"])
def test_flops_equal_the_jaxpr_of_the_loss_and_its_gradient(name: str) -> None:
    config = dataclasses.replace(CONFIG, moe=EVERY[name])
    params = jax.eval_shape(partial(transformer.init, config), jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((1, SEQ + 1), jnp.int32)

    def objective(params: Any, tokens: jax.Array) -> jax.Array:
        loss, _, penalty, _ = transformer.routed_loss(config, params, tokens)
        return loss + penalty

    with plain_kernels():
        walked = flops_of(jax.grad(objective), params, tokens)
    expected = counts.train_flops(config, SEQ, SEQ, causal=False) + counts.dispatch_flops(config, SEQ, SEQ)
    mask = 2 * SEQ * D * 12 if name == "soft" else 0  # its slots have a gradient in what they read of each token
    assert walked == expected + mask


def sent(narrow: int | None, mesh: Any, lower: Any) -> list[int]:
    """Bytes of every all-to-all in the compiled gradient of one block of experts, divided over `expert`."""
    m = Experts(4, K, 128, capacity_factor=1.0, bottleneck=narrow)
    stream = dataclasses.replace(CONFIG, d_model=256).stream
    weights = m.weights(stream)

    def of(shape: tuple[int, ...], dims: tuple[str, ...]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, DEFAULT_RULES.spec(dims)))

    def loss(w: Any, x: jax.Array) -> jax.Array:
        return jnp.square(m.apply(stream, w, x, jnp.zeros(x.shape[:2], jnp.int32))[0]).sum()

    args = {name: of(w.shape, w.axes) for name, w in weights.items()}, of((4, 64, 256), ("batch", "length", "residual"))
    with jax.set_mesh(mesh):
        text = lower(jax.jit(jax.grad(loss, (0, 1))), args).compile().as_text()
    return [c.payload for c in collectives(text, mesh.shape) if c.kind == "all-to-all" and c.axes == ("expert",)]


def test_experts_behind_a_bottleneck_are_sent_so_many_bytes_less() -> None:
    """Over two devices of experts: bottleneck / d_model of the bytes of plain ones."""
    mesh = make_mesh(MeshConfig(expert=2), jax.devices()[:2])
    plain, narrow = (sent(n, mesh, lambda f, args: f.lower(*args)) for n in (None, 64))
    assert len(plain) == len(narrow) == 4
    assert [4 * n for n in narrow] == plain


@needs_libtpu
@pytest.mark.slow  # two programs of the TPU compiler
def test_a_tpu_sends_experts_behind_a_bottleneck_so_many_bytes_less() -> None:
    mesh = mesh_of(expert=2)
    plain, narrow = (
        sum(sent(n, mesh, lambda f, args: f.trace(*args).lower(lowering_platforms=("tpu",)))) for n in (None, 64)
    )
    assert 0 < 4 * narrow == plain


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"router": Grouped(3)}, "router.groups: is 3, which does not divide experts 8: use one of [1, 2, 4, 8]"),
        ({"router": Grouped(4)}, "router.groups: is 4, which does not divide top_k 2: use one of [1, 2]"),
        ({"router": Grouped(2), "bias_rate": 0.1},
         "bias_rate: is 0.1, which grouped experts do not read: leave it out, or use the router TopK"),
        ({"router": ExpertChoice(), "dispatch": "dropless"},
         "dispatch: is dropless, but this router fills slots: use capacity"),
        ({"router": Soft(0)}, "router.slots_each: is 0: give a positive integer"),
        ({"router": Hashed(-1)}, "router.seed: is -1: give an integer in [0, 2^31)"),
        ({"free": Free(), "groups": 2, "top_k": 1}, "free: is set beside groups: leave one of them out"),
        ({"bottleneck": 0}, "bottleneck: is 0: give a positive integer or None"),
    ],
)  # fmt: skip
def test_routers_and_experts_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Experts(**fields)
    assert str(error.value) == message


@pytest.mark.parametrize("router", [ExpertChoice(), Soft()])
def test_a_model_whose_router_reads_later_tokens_does_not_decode(router: Any) -> None:
    config = dataclasses.replace(CONFIG, pattern=(Layer(channel=Experts(4, 2, 5, router=router)),))
    with pytest.raises(ConfigError, match=r"model\.channel\.router: is \w+, which reads tokens that a model has yet"):
        running_config(config, "float32")


@pytest.mark.parametrize("fields", [{"router": Hashed()}, {"router": Soft()}, {"free": Free()}, {"bottleneck": 4}])
def test_experts_that_no_published_family_has_are_not_written_as_one(fields: dict[str, Any]) -> None:
    config = dataclasses.replace(CONFIG, tied_embeddings=False, moe=Experts(4, 2, 8))
    assert write_config(config)[1]["model_type"] == "mixtral"
    with pytest.raises(ConfigError, match=r"model\.moe: .* cannot be expressed by mixtral"):
        write_config(dataclasses.replace(config, moe=Experts(4, 2, 8, **fields)))


def test_an_unknown_part_is_refused_with_the_near_name() -> None:
    for field, name, guess in (("mixer", "Atention", "Attention"), ("channel", "Expert", "Experts")):
        with pytest.raises(ConfigError) as error:
            from_json(ModelConfig, {"pattern": [{field: {"type": name}}]})
        assert str(error.value).startswith(f"pattern[0].{field}.type: is '{name}': did you mean {guess}? give one of")
    with pytest.raises(ConfigError, match="did you mean Ladder"):
        from_json(ModelConfig, {"wiring": {"type": "Lader"}})
    with pytest.raises(ConfigError, match="did you mean Hashed"):
        from_json(ModelConfig, {"moe": {"router": {"type": "Hash"}}})
