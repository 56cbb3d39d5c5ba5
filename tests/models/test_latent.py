"""Latent attention equals its definition, in both of its forms; its counts are the published formulas; biases of
routers beside it follow the load."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import cache, counts, transformer
from models.channels.experts import Experts
from models.config import ModelConfig
from models.errors import ConfigError
from models.layer import Layer
from models.mixers import Attention, Mixer
from models.mixers.latent import Latent
from models.past import Arrays, Past, Read, keys_and_values
from models.rotary import Rotary
from models.span import Span
from models.weight import map_weights
from scaling.train.config import TrainConfig, hyperparameters
from scaling.train.optimizer import make_optimizer
from tests.models.jaxprs import jaxpr_flops

SEQ, THETA = 7, 100.0
# Everything here runs once or twice: LLVM's passes would take longer than they save.
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
MIXER = Latent(
    heads=3, rank=8, query_rank=6, key_dim=4, rotary_dim=6, value_dim=5, rotary=Rotary(THETA, interleaved=True),
    gain=1.3,
)  # fmt: skip
PLAIN = dataclasses.replace(MIXER, query_rank=None)
MODEL = ModelConfig(vocab_size=11, d_model=12, n_layers=1, n_heads=3, d_ff=8, pattern=(Layer(MIXER, None),))
STREAM = MODEL.stream


@dataclass(frozen=True)
class Plain(Past):
    """Whole sequences attended to by two products; `keeps` chooses the form of the mixer."""

    positions: jax.Array
    keeps: bool

    def attend(self, q: jax.Array, new: Arrays, span: Span, read: Read = keys_and_values) -> tuple[jax.Array, Past]:
        k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in read(new))
        scores = jnp.einsum("bqhk,bshk->bhqs", q, k) * span.scale
        p = jax.nn.softmax(jnp.where(jnp.tri(q.shape[1], dtype=bool), scores, -jnp.inf))
        return jnp.einsum("bhqs,bshv->bqhv", p, v), self


def drawn(weights: object, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return map_weights(lambda w: np.float32(0.5 * rng.standard_normal(w.shape)), weights)


def inputs() -> np.ndarray:
    return np.random.default_rng(9).standard_normal((1, SEQ, MODEL.d_model)).astype(np.float32)


def form(mixer: Latent, w: dict, x: jax.Array, absorbed: bool) -> jax.Array:
    return mixer.apply(STREAM, w, x, Plain(jnp.arange(SEQ)[None], absorbed))[0]


run = quick(form, static_argnums=(0, 3))


def turned(x: np.ndarray, at: int) -> np.ndarray:
    """Neighbouring pairs as complex numbers, times e^(i position theta^(-2 pair / dims))."""
    rate = THETA ** (-np.arange(0, len(x), 2) / len(x))
    z = (x[::2] + 1j * x[1::2]) * np.exp(1j * at * rate)
    return np.stack([z.real, z.imag], -1).reshape(-1)


def definition(mixer: Latent, w: dict, x: np.ndarray) -> np.ndarray:
    """Section 2.1 of DeepSeek-V2, token by token and head by head in float64: `[seq, d_model]`."""
    w, x = jax.tree.map(np.float64, w), np.float64(x)

    def norm(y: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return y / np.sqrt((y**2).mean() + STREAM.norm_eps) * gain

    out = np.zeros_like(x)
    latents = [norm(t @ w["kv_down"][:, : mixer.rank], w["kv_norm"]["gain"]) for t in x]
    shared = [turned(t @ w["kv_down"][:, mixer.rank :], i) for i, t in enumerate(x)]
    for i, t in enumerate(x):
        read, name = (t, "q") if mixer.query_rank is None else (norm(t @ w["q_down"], w["q_norm"]["gain"]), "q_up")
        for head in range(mixer.heads or 0):
            q, up = read @ w[name][:, head], w["kv_up"][:, head]
            q = np.concatenate([q[: mixer.key_dim], turned(q[mixer.key_dim :], i)])
            keys = [np.concatenate([c @ up[:, : mixer.key_dim], k]) for c, k in zip(latents, shared)]
            scores = np.array([q @ k for k in keys[: i + 1]]) * mixer.gain / np.sqrt(mixer.key_dim + mixer.rotary_dim)
            p = np.exp(scores - scores.max())
            values = sum(a * (c @ up[:, mixer.key_dim :]) for a, c in zip(p / p.sum(), latents))
            out[i] += values @ w["out"][head]
    return out


@pytest.mark.parametrize("absorbed", [False, True], ids=["expanded", "absorbed"])
@pytest.mark.parametrize("mixer", [MIXER, PLAIN], ids=["query_rank", "plain"])
def test_both_forms_are_the_definition(mixer: Latent, absorbed: bool) -> None:
    w, x = drawn(mixer.weights(STREAM)), inputs()
    found = run(mixer, w, x, absorbed)
    np.testing.assert_allclose(found[0], definition(mixer, w, x[0]), atol=1e-5)  # float32 sums of numbers of order 1


def test_absorbed_is_expanded_to_float32() -> None:
    w, x = drawn(MIXER.weights(STREAM)), inputs()
    np.testing.assert_allclose(run(MIXER, w, x, True), run(MIXER, w, x, False), atol=1e-5)


# -- counts -------------------------------------------------------------------------------------------------------


def published(mixer: Latent, d: int) -> int:
    """Parameters of the mixer by the formulas of the paper, gains of both norms included."""
    heads, key = mixer.heads or 0, mixer.key_dim + mixer.rotary_dim
    rank, query = mixer.rank, mixer.query_rank
    queries = d * heads * key if query is None else d * query + query + query * heads * key
    latents = d * (rank + mixer.rotary_dim) + rank + rank * heads * (mixer.key_dim + mixer.value_dim)
    return queries + latents + heads * mixer.value_dim * d


@pytest.mark.parametrize("mixer", [MIXER, PLAIN], ids=["query_rank", "plain"])
def test_parameters_are_those_of_the_published_formula(mixer: Latent) -> None:
    config = dataclasses.replace(MODEL, pattern=(Layer(mixer, None),))
    assert counts.params(config) == 11 * 12 + 12 + 12 + published(mixer, 12)  # the table and two norms


@pytest.mark.parametrize("absorbed", [False, True], ids=["expanded", "absorbed"])
def test_flops_of_both_forms_equal_their_jaxpr(absorbed: bool) -> None:
    """The absorbed form multiplies as many weights: those that make keys go into queries instead."""
    w = drawn(MIXER.weights(STREAM))
    found = jaxpr_flops(jax.make_jaxpr(lambda w, x: form(MIXER, w, x, absorbed))(w, inputs()).jaxpr)
    weights = SEQ * sum(x.flops_per_token for x in jax.tree.leaves(map_weights(lambda w: w, MIXER.weights(STREAM))))
    per_pair = 2 * MIXER.rank + MIXER.rotary_dim if absorbed else MIXER.key_dim + MIXER.rotary_dim + MIXER.value_dim
    assert found == weights + 2 * per_pair * 3 * SEQ**2
    if absorbed:  # one token after SEQ - 1 others
        assert MIXER.flops(STREAM, 1, SEQ - 1) == 2 * per_pair * 3 * SEQ
    else:
        assert MIXER.flops(STREAM, SEQ, causal=False) == 2 * per_pair * 3 * SEQ**2


def test_a_token_keeps_its_latent_and_one_rotated_key() -> None:
    numbers = MIXER.rank + MIXER.rotary_dim
    assert counts.kv_cache_bytes_per_token(MODEL) == 4 * numbers
    assert counts.kv_cache_bytes_per_token(dataclasses.replace(MODEL, dtype="bfloat16")) == 2 * numbers
    assert counts.kv_cache_bytes_per_token(MODEL, quantized=True) == numbers + 4  # a scale for both together
    blocks = jax.eval_shape(lambda: cache.empty(MODEL.resolved(), 1, 5))
    assert sum(x.size for x in jax.tree.leaves(blocks)) == 5 * numbers
    large = dataclasses.replace(MODEL, n_layers=61, dtype="bfloat16", pattern=(Layer(Latent(heads=128), None),))
    assert counts.kv_cache_bytes_per_token(large) == 61 * 2 * 576


def test_latents_are_fewer_bytes_than_the_keys_and_values_of_grouped_queries() -> None:
    """Table 1 of "Insights into DeepSeek-V3" (arXiv:2505.09343): 70.272, 327.680 and 516.096 KB per token in bfloat16,
    of DeepSeek-V3, Qwen2.5-72B and LLaMA-3.1-405B."""

    def bytes_of(n_layers: int, mixer: Mixer) -> int:
        config = ModelConfig(11, d_model=128, n_layers=n_layers, dtype="bfloat16", pattern=(Layer(mixer, None),))
        return counts.kv_cache_bytes_per_token(config)

    grouped = Attention(128, 8, 128)
    assert [bytes_of(61, Latent(heads=128)), bytes_of(80, grouped), bytes_of(126, grouped)] == [70272, 327680, 516096]


@pytest.mark.parametrize(
    ("mixer", "told"),
    [
        (Latent(rank=0), "model.pattern[0].mixer.rank: is 0: give a positive integer"),
        (Latent(rotary_dim=3), "model.pattern[0].mixer.rotary_dim: is 3, but pairs rotate: give an even one"),
        (Latent(gain=0), "model.pattern[0].mixer.gain: is 0: give a positive number"),
        (Latent(query_rank=0), "model.pattern[0].mixer.query_rank: is 0: give a positive integer or None"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(mixer: Latent, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        dataclasses.replace(MODEL, pattern=(Layer(mixer, None),))
    assert str(error.value) == told


# -- biases of the router -----------------------------------------------------------------------------------------

RATE = 1e-3


def moved(top_k: int, bias: np.ndarray) -> np.ndarray:
    """How far one step of the optimiser moves the biases of a router whose scores are all alike."""
    experts = Experts(4, top_k, 8, dispatch="dropless", score="sigmoid", bias_rate=RATE)
    config = dataclasses.replace(MODEL, pattern=(Layer(PLAIN, experts),))
    params = drawn(transformer.weights(config))
    channel = params["block_0"]["feedforward"]
    channel["router"], channel["router_bias"] = 0 * channel["router"], np.float32(bias)
    tokens = np.random.default_rng(1).integers(0, 11, (2, SEQ))

    def objective(params: dict) -> jax.Array:
        total, _, penalty, _ = transformer.routed_loss(config, params, tokens)
        return total + penalty

    # a rate of its own: neither the learning rate nor clipping changes it
    hyper = hyperparameters(TrainConfig(learning_rate=0.3, grad_clip=1e-3))
    optimizer = make_optimizer(config, "adamw", "constant", hyper)

    @quick
    def step(params: dict) -> jax.Array:
        updates = optimizer.update(jax.grad(objective)(params), optimizer.init(params), params)[0]
        return updates["block_0"]["feedforward"]["router_bias"]

    return np.asarray(step(params))


def test_biases_move_against_the_load_by_exactly_their_rate() -> None:
    """The two with the largest biases are all tokens' choice, so they are loaded above the mean, the others below."""
    rate = np.float32(RATE)
    np.testing.assert_array_equal(moved(2, np.array([0.1, 0.3, -0.2, 0.2])), [rate, -rate, rate, -rate])


def test_biases_rest_where_every_expert_has_its_even_share() -> None:
    np.testing.assert_array_equal(moved(4, np.array([0.1, 0.3, -0.2, 0.2])), np.zeros(4))
