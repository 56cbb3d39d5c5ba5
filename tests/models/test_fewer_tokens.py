"""Layers that drop and join tokens: a loop over lists of tokens is the oracle, and rates reach a target of FLOPs."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import unflatten_dict

from models import fewer_tokens, transformer
from models.config import ModelConfig
from models.errors import ConfigError
from models.fewer_tokens import Rates
from models.weight import walk
from tests.models.jaxprs import jaxpr_flops
from tests.models.test_parts import quick

N = 9
CONFIG = ModelConfig(32, d_model=16, n_layers=3, n_heads=4, n_kv_heads=2, d_ff=24, positions="learned", max_seq_len=N)
RNG = np.random.default_rng(0)
PARAMS = unflatten_dict(
    {path: np.float32(0.5 * RNG.standard_normal(w.shape)) for path, w in walk(transformer.weights(CONFIG))}
)
TOKENS = RNG.integers(0, 32, (2, N))
KEPT = [(8, 6), (6, 5), (4, 2)]


def normed(x, gain):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + CONFIG.norm_eps) * gain


def walked(tokens):
    """Logits of one image: tokens are a list of (stream, size), the class first, and leave it where they leave."""
    x = np.float64(PARAMS["tokens"][tokens] + PARAMS["positions"])
    held = [(x[-1], 1.0), *((one, 1.0) for one in x[:-1])]
    for i, (stay, after) in enumerate(KEPT):
        w = PARAMS[f"block_{i}"]
        x, size = np.stack([one for one, _ in held]), np.array([count for _, count in held])
        qkv = np.einsum("sd,dhfk->shfk", normed(x, w["attention_norm"]["gain"]), w["attention"]["qkv"])
        y, seen = np.zeros_like(x), np.zeros(len(x))
        for head in range(4):
            k, v = qkv[:, head // 2, 2], qkv[:, head // 2, 3]
            p = np.exp(qkv[:, head // 2, head % 2] @ k.T / 2) * size
            p /= p.sum(1, keepdims=True)
            y += p @ v @ w["attention"]["out"][head // 2, head % 2]
            seen += p[0]
        order = [0, *(1 + np.argsort(-seen[1:]))][:stay]
        held = [((x + y)[j], size[j]) for j in order]
        groups = [[one] for one in held[:after]]
        for one in held[after:]:
            cosine = [one[0] @ to / np.linalg.norm(one[0]) / np.linalg.norm(to) for to, _ in held[1:after]]
            groups[1 + int(np.argmax(cosine))].append(one)
        held = []
        for group in groups:
            count = sum(size for _, size in group)
            x = sum(size * one for one, size in group) / count
            gate, up = np.tensordot(normed(x, w["feedforward_norm"]["gain"]), w["feedforward"]["gate_up"], 1)
            held.append((x + (gate / (1 + np.exp(-gate)) * up) @ w["feedforward"]["down"], count))
    return normed(held[0][0], PARAMS["final_norm"]["gain"]) @ PARAMS["tokens"].T


def test_tokens_are_dropped_and_joined_as_in_a_loop_and_a_mask_says_the_same():
    dropping = quick(partial(fewer_tokens.apply, CONFIG, kept=KEPT))(PARAMS, TOKENS)
    masked = quick(partial(fewer_tokens.masked, CONFIG))(PARAMS, TOKENS, fewer_tokens.given(KEPT, N))
    want = [walked(tokens) for tokens in TOKENS]
    np.testing.assert_allclose(dropping, want, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(masked, want, rtol=1e-4, atol=1e-4)


def test_flops_are_those_of_the_products():
    jaxpr = jax.make_jaxpr(partial(fewer_tokens.apply, CONFIG, kept=KEPT))(PARAMS, TOKENS[:1]).jaxpr
    assert jaxpr_flops(jaxpr) == fewer_tokens.flops(CONFIG, N, KEPT)


def test_ranks_stay_with_the_probability_that_more_tokens_do_and_numbers_are_rounded_up():
    logits = (RNG.standard_normal((2, 3, N)) + 0.5 * np.arange(N)).astype(np.float32)
    weight, shares = RNG.standard_normal((3, 2, N)), np.arange(1, N + 1) / N
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    number, before, change = np.zeros((3, 2)), N, np.zeros((2, 3, N))
    for layer, part in np.ndindex(3, 2):
        one = p[part, layer]
        more = before * shares > np.arange(N)[:, None] + 1e-9  # rank i stays where this share is drawn
        change[part, layer] = weight[layer, part] @ (more * one - np.outer(more @ one, one))  # of a softmax
        before = number[layer, part] = max(2, np.ceil(before * (one @ shares)))

    @quick
    def found(logits):
        def weighed(logits):
            return (weight * fewer_tokens.left(Rates(*logits)).stays).sum()

        return fewer_tokens.left(Rates(*logits)), jax.grad(weighed)(logits)

    left, gradient = found(logits)
    np.testing.assert_array_equal(left.number, number)
    np.testing.assert_array_equal(left.stays, np.arange(N) < number[..., None])
    np.testing.assert_allclose(gradient, change, rtol=1e-3, atol=1e-5)
    assert fewer_tokens.numbers(Rates(*logits)) == [tuple(x) for x in number]
    assert len(np.unique(number)) > 3


def test_rates_reach_a_target_of_flops_by_its_gradient():
    n, adam = 33, optax.adam(optax.linear_schedule(0.1, 0.0, 200))
    whole = fewer_tokens.flops(CONFIG, n, [(n, n)] * 3)

    @quick
    def descend(rates):
        def missed(rates):
            return jnp.square(fewer_tokens.flops(CONFIG, n, fewer_tokens.left(rates).number) / whole - 0.6)

        def step(_, carry):
            rates, state = carry
            updates, state = adam.update(jax.grad(missed)(rates), state)
            return optax.apply_updates(rates, updates), state

        return jax.lax.fori_loop(0, 200, step, (rates, adam.init(rates)))[0]

    start = fewer_tokens.begun(CONFIG, n)
    assert fewer_tokens.flops(CONFIG, n, fewer_tokens.numbers(start)) > 0.9 * whole
    kept = fewer_tokens.numbers(descend(start))
    assert abs(fewer_tokens.flops(CONFIG, n, kept) / whole - 0.6) < 0.04  # one token more or less of 33 in a layer


def test_a_uniform_rate_removes_as_many_tokens_in_every_layer():
    assert fewer_tokens.uniform(3, 10, 2.0, 0.5) == [(9, 8), (7, 6), (5, 4)]
    assert fewer_tokens.uniform(3, 10, 1.5, 1.0) == [(9, 9), (7, 7), (6, 6)]
    assert fewer_tokens.uniform(2, 10, 6.0, 0.0) == [(10, 4), (4, 2)]


def test_layers_that_keep_their_tokens_are_refused():
    with pytest.raises(ConfigError) as error:
        fewer_tokens.checked(ModelConfig(n_layers=2))
    fix = "use Attention and Dense alone, learned positions, no biases, PreNorm, layers that are not scanned"
    assert str(error.value) == f"model: has layers that keep their tokens: {fix}"
