"""Layers that read what earlier ones read: memory units, cross-attention, and what a decoder of them need not do."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import cache, counts, transformer
from models.config import Layer, ModelConfig
from models.errors import ConfigError
from models.lent import Lent
from models.mixers import Attention, Cross, GatedMemory, Mamba2
from models.past import WholeSequence
from models.wiring import Shared
from search.engine import decode

SEQ, WINDOW = 12, 4
MAMBA = Mamba2(head_dim=8, state=4, block=8)
SELF = (Layer(MAMBA, None), Layer(Attention(window=WINDOW), None), Layer(MAMBA, None), Layer(Attention(), None))
BASE = ModelConfig(
    vocab_size=16, d_model=16, n_layers=6, n_heads=4, n_kv_heads=2, positions="none", wiring=Shared(),
    pattern=(*SELF, Layer(GatedMemory(), None), Layer(Cross())),
)  # fmt: skip
ONLY_CROSS = dataclasses.replace(BASE, pattern=(*SELF, Layer(Cross(), None), Layer(Cross())))


def drawn(mixer: Any) -> tuple[dict[str, np.ndarray], np.random.Generator]:
    """Weights of every kind off their initial values."""
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=w.shape).astype(np.float32) for name, w in mixer.weights(BASE.stream).items()}, rng


def lent(given: dict[str, np.ndarray]) -> Lent:
    past = WholeSequence(jnp.arange(SEQ)[None])
    return Lent(past.positions, past, {name: jnp.asarray(x) for name, x in given.items()}, past, past.keeps)


def test_a_memory_unit_gates_what_it_is_handed() -> None:
    w, rng = drawn(GatedMemory())
    x, m = (rng.normal(size=(1, SEQ, size)).astype(np.float32) for size in (16, 32))
    gate = x @ w["gate"]
    y = gate / (1 + np.exp(-gate)) * m
    y = y / np.sqrt(np.square(y).mean(-1, keepdims=True) + BASE.norm_eps) * w["gain"]
    found = GatedMemory().apply(BASE.stream, w, jnp.asarray(x), lent({"memory": m}))[0]
    np.testing.assert_allclose(found, y @ w["out"], rtol=1e-4, atol=1e-4)


def test_cross_attention_reads_the_keys_and_values_that_it_is_handed() -> None:
    w, rng = drawn(Cross())
    x = rng.normal(size=(1, SEQ, 16)).astype(np.float32)
    k, v = rng.normal(size=(2, 1, SEQ, 8)).astype(np.float32)
    want = np.zeros((SEQ, 16))
    for head in range(4):
        kv = head // 2
        keys, values = (y[0].reshape(SEQ, 2, 4)[:, kv] for y in (k, v))
        q = x[0] @ w["q"][:, kv, head % 2]
        scores = np.where(np.tril(np.ones((SEQ, SEQ), bool)), q @ keys.T / 2, -np.inf)
        share = np.exp(scores - scores.max(-1, keepdims=True))
        want += share / share.sum(-1, keepdims=True) @ values @ w["out"][kv, head % 2]
    found = Cross().apply(BASE.stream, w, jnp.asarray(x), lent({"k": k, "v": v}))[0]
    np.testing.assert_allclose(found[0], want, rtol=1e-4, atol=1e-4)


def test_a_prompt_needs_the_later_layers_at_its_last_token_alone() -> None:
    """The first layers read all tokens but the last, the whole model the last one: the logits of the whole sequence."""
    params = jax.jit(functools.partial(transformer.init, BASE))(jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (1, SEQ), 0, BASE.vocab_size)
    first = dataclasses.replace(BASE, n_layers=len(SELF), pattern=SELF)
    zero, live, rest = jnp.zeros(1, jnp.int32), jnp.ones(1, bool), len(BASE.layers) - len(SELF)

    @jax.jit
    def last(params: Any) -> jax.Array:
        blocks, states, pool = (cache.empty(first, 1, SEQ),), cache.empty_states(first, 1), cache.empty_pool(BASE, 1, 4)
        few = decode.forward(first, params, pool, blocks, states, (), tokens[:, :-1], zero, zero, live)
        blocks, states = ((*few[1][0], *({},) * rest),), (*few[2], *({},) * rest)
        at = zero + SEQ - 1
        return decode.forward(BASE, params, pool, blocks, states, (), tokens[:, -1:], zero, at, live)[0][0, 0]

    want = jax.jit(functools.partial(transformer.apply, BASE))(params, tokens)[0, -1]
    np.testing.assert_allclose(last(params), want, rtol=2e-5, atol=2e-5)


def test_a_decoded_token_reads_the_shared_cache_once_for_each_layer_that_attends_to_it() -> None:
    context, per_token = 1000, 2 * 2 * 4 * 4  # k and v of two heads of 4, in float32
    states = 2 * (4 * 4 * 4 * 8 + 3 * 4 * 8 * 4 + 3 * 2 * 4 * 4)  # heads x state x head_dim, three inputs of x, b, c
    assert counts.kv_cache_bytes_per_token(BASE) == counts.kv_cache_bytes_per_token(ONLY_CROSS) == 2 * per_token
    assert counts.state_bytes_per_row(BASE) == states
    window = WINDOW * per_token
    assert counts.decode_read_bytes(BASE, context) == states + window + 2 * context * per_token
    assert counts.decode_read_bytes(ONLY_CROSS, context) == states + window + 3 * context * per_token


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"wiring": None}, "model.wiring: hands on the stream alone, but GatedMemory reads what other layers read"),
        ({"pattern": (Layer(), Layer(GatedMemory()))}, "model.wiring: has no layer before layer 1 that gives"),
        ({"pattern": (Layer(MAMBA), Layer(Cross()))}, "model.wiring: has no layer before layer 1 that gives Cross"),
        ({"pattern": (Layer(MAMBA), Layer(GatedMemory(expand=3)))}, "model.wiring: hands 32 features of memory"),
        ({"pattern": (Layer(), Layer(Cross(kv_heads=4)))}, "model.wiring: hands 8 features of k to Cross of layer 1"),
        ({"bias": "qkv"}, "model.bias: 'qkv' asks for biases that Cross does not have"),
    ],
)  # fmt: skip
def test_what_no_layer_hands_on_is_refused(changed: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError) as raised:
        dataclasses.replace(BASE, **changed)
    assert str(raised.value).startswith(error)
