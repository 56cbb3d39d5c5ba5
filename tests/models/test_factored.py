"""Factored attention equals its definition and counts what is published; pools of its model give the model's logits."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from models import counts, pools, transformer
from models.config import Layer, ModelConfig
from models.errors import ConfigError
from models.mixers import Attention, Factored, Latent
from models.weight import map_weights, walk
from models.wiring import Ladder
from tests.models.mixing import STREAM, through
from tests.models.test_parts import quick

MIXER = Factored(heads=4, head_dim=6, query_rank=5)


def drawn(weights):
    rng = np.random.default_rng(0)
    return map_weights(lambda w: np.float32(0.4 * rng.standard_normal(w.shape)), weights)


def definition(w, x):
    """One document x [seq, d_model] token by token and head by head in float64."""
    w, out = jax.tree.map(np.float64, w), np.zeros_like(x)
    for t, row in enumerate(x):
        latent = row @ w["q_down"]
        latent = latent / np.sqrt((latent**2).mean() + STREAM.norm_eps) * w["q_latent_norm"]["gain"]
        for head in range(4):
            scores = np.array([latent @ w["q_up"][:, 0, head] @ (y @ w["kv"][:, 0, 0]) for y in x[: t + 1]]) / 6**0.5
            p = np.exp(scores - scores.max())
            value = sum(a * (y @ w["kv"][:, 0, 1]) for a, y in zip(p / p.sum(), x))
            out[t] += value @ w["out"][0, head]
    return out


def test_it_is_the_definition():
    w, x = drawn(MIXER.weights(STREAM)), np.random.default_rng(1).standard_normal((1, 7, 16))
    np.testing.assert_allclose(through(MIXER, w, x)[0], definition(w, x[0]), atol=2e-5)  # float32 sums of some dozens


def test_weights_and_kept_bytes_are_the_published_ones():
    """Step-3's attention keeps 512 numbers of a token, DeepSeek-V3's 576."""
    step3 = Factored(heads=64, head_dim=256, query_rank=2048)
    model = ModelConfig(d_model=7168, n_layers=1, n_heads=64, pattern=(Layer(step3, None),), dtype="bfloat16")
    latent = dataclasses.replace(model, pattern=(Layer(Latent(heads=128), None),))
    assert [counts.kv_cache_bytes_per_token(m) for m in (model, latent)] == [2 * 512, 2 * 576]
    weights = sum(w.size for _, w in walk(step3.weights(model.stream)))
    assert weights == 7168 * 2048 + 2048 + 2048 * 64 * 256 + 2 * 7168 * 256 + 64 * 256 * 7168
    assert step3.flops(model.stream, 100) == Attention(heads=64, head_dim=256).flops(model.stream, 100)


def test_pools_of_attention_and_channels_give_the_models_logits_and_send_two_streams_a_layer():
    layers = (Layer(Factored(query_rank=5)), Layer(Factored(query_rank=5), None))
    config = ModelConfig(32, d_model=16, n_layers=3, n_heads=4, pattern=layers)
    rng = np.random.default_rng(2)
    params = unflatten_dict({
        path: np.float32(0.3 * rng.standard_normal(w.shape)) for path, w in walk(transformer.weights(config))
    })  # fmt: skip
    tokens = rng.integers(0, 32, (2, 9))
    divided = pools.pooled(config, params)
    held = [set(flatten_dict(p)) for p in divided]
    assert not held[0] & held[1] and held[0] | held[1] == set(flatten_dict(params))
    assert {path[1] for path in held[1]} == {"feedforward", "feedforward_norm"}
    found, sent = pools.apply(config, divided, tokens)
    want = quick(partial(transformer.apply, config))(params, tokens)
    np.testing.assert_allclose(found, want, rtol=2e-5, atol=2e-5)
    assert sent == 2 * 2 * tokens.size * 16 * 4  # two channels, both ways, float32


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Factored(query_rank=0).resolved(STREAM), "query_rank: is 0: give a positive integer"),
        (lambda: Factored(gated=True).resolved(STREAM), "gated: is set, but queries that are factored have no gates: "
         "leave it False"),
        (lambda: ModelConfig(pattern=(Layer(Factored()),), bias="qkv"), "model.bias: 'qkv' asks for biases that "
         "Factored does not have: use 'none'"),
        (lambda: pools.pooled(ModelConfig(wiring=Ladder()), {}), "model.wiring: is Ladder, whose layers pools do not "
         "divide: use PreNorm"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(make, told):
    with pytest.raises(ConfigError) as error:
        make()
    assert str(error.value) == told
