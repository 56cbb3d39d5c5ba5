"""Few queries that attend, and lengths that halve: loops over queries and positions are the oracle."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from models import few_queries
from models.causal_attention import reference_attention
from models.config import Layer, ModelConfig
from models.errors import ConfigError
from models.mixers import Attention
from models.span import Span
from models.weight import walk
from tests.models.jaxprs import jaxpr_flops
from tests.models.test_parts import quick

CONFIG = ModelConfig(d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=24, positions="learned")
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
Q, K, V = (RNG.standard_normal((2, 11, heads, 4)).astype(np.float32) for heads in (4, 2, 2))


def looped(q, k, v, drawn, u, scale, causal):
    """One head `[length, head_dim]` each, float64: every query by itself."""
    q, k, v = (np.float64(x) for x in (q, k, v))
    n = len(q)
    measure = [max(q[i] @ k[j] for j in drawn[i]) - sum(q[i] @ k[j] for j in drawn[i]) / n for i in range(n)]
    y = []
    for i in range(n):
        stop = i + 1 if causal else n
        weights = np.exp(scale * k[:stop] @ q[i]) if i in np.argsort(measure)[n - u :] else np.ones(stop)
        y.append(weights @ v[:stop] / weights.sum())
    return np.array(y)


def many(q, k, v, drawn, u, scale, causal):
    """All rows and heads of `looped`."""
    y = [[looped(q[b, :, h], k[b, :, h // 2], v[b, :, h // 2], drawn, u, scale, causal) for h in range(4)]
         for b in range(len(q))]  # fmt: skip
    return np.array(y).swapaxes(1, 2)


@pytest.mark.parametrize("causal", [False, True])
def test_the_queries_of_the_largest_measure_attend_and_the_others_get_the_mean_of_what_they_see(causal):
    drawn = few_queries.draw(KEY, 11, 3, causal)
    assert drawn.shape == (11, 3)
    assert ((drawn >= 0) & (drawn <= (np.arange(11)[:, None] if causal else 10))).all()
    found = quick(partial(few_queries.attention, u=3, scale=0.5, causal=causal))(Q, K, V, drawn)
    np.testing.assert_allclose(found, many(Q, K, V, np.asarray(drawn), 3, 0.5, causal), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_where_all_queries_attend_it_is_attention_in_values_and_gradients(causal):
    drawn, weight = few_queries.draw(KEY, 11, 2, causal), RNG.standard_normal(Q.shape).astype(np.float32)
    sparse = partial(few_queries.attention, drawn=drawn, u=11, scale=0.5, causal=causal)
    full = partial(reference_attention, span=Span(0.5, causal=causal))

    @quick
    def both(*qkv):
        return [jax.value_and_grad(lambda x, f=f: (f(*x) * weight).sum())(qkv) for f in (sparse, full)]

    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), *both(Q, K, V))


def halved(w, x):
    """One sequence `[length, d_model]`, float64, every other position by itself."""
    n = len(x)
    y = [sum(x[(t + tap - 1) % n] @ np.float64(w["taps"][tap]) for tap in range(3)) + w["bias"] for t in range(n)]
    y = [np.where(one > 0, one, np.expm1(one)) for one in y]
    return np.array([np.max(y[max(0, t - 1) : t + 2], axis=0) for t in range(0, n, 2)])


@pytest.mark.parametrize("length", [6, 7])
def test_positions_halve_to_maxima_of_what_a_circular_convolution_gives(length):
    w = {"taps": RNG.standard_normal((3, 5, 5)).astype(np.float32), "bias": np.float32([0.1, -0.2, 0.3, 0, 1])}
    x = RNG.standard_normal((1, length, 5)).astype(np.float32)
    np.testing.assert_allclose(quick(few_queries.distilled)(w, x)[0], halved(w, x[0]), rtol=1e-4, atol=1e-5)


def normed(x, gain):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + CONFIG.norm_eps) * gain


def test_an_encoder_is_its_layers_one_after_another_and_costs_its_products():
    declared = walk(few_queries.weights(CONFIG))
    params = unflatten_dict({path: np.float32(0.3 * RNG.standard_normal(w.shape)) for path, w in declared})
    x = RNG.standard_normal((1, 13, 16)).astype(np.float32)
    run = partial(few_queries.apply, CONFIG, factor=1, key=KEY)
    shapes = (13, 3), (7, 2)  # length and ceil(ln length)

    @quick
    def everything(params, x):
        return run(params, x), [few_queries.draw(jax.random.fold_in(KEY, i), *one) for i, one in enumerate(shapes)]

    found, draws = everything(params, x)
    want = np.float64(x)
    for i, ((length, u), drawn) in enumerate(zip(shapes, draws)):
        w = params[f"block_{i}"]
        qkv = np.einsum("bsd,dhfk->bshfk", normed(want, w["attention_norm"]["gain"]), w["attention"]["qkv"])
        q = qkv[:, :, :, :2].reshape(1, length, 4, 4)
        y = many(q, qkv[:, :, :, 2], qkv[:, :, :, 3], np.asarray(drawn), u, 0.5, False)
        want = want + np.einsum("bshrk,hrkd->bsd", y.reshape(1, length, 2, 2, 4), w["attention"]["out"])
        z = normed(want, w["feedforward_norm"]["gain"])
        gate, up = np.moveaxis(np.tensordot(z, w["feedforward"]["gate_up"], 1), 2, 0)
        want = want + (gate / (1 + np.exp(-gate)) * up) @ w["feedforward"]["down"]
        if i == 0:
            want = halved(params["distil_0"], want[0])[None]
    np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-3)
    assert jaxpr_flops(jax.make_jaxpr(run)(params, x).jaxpr) == few_queries.flops(CONFIG, 13, 1)


def test_attention_costs_length_times_its_logarithm():
    for length in (20, 400, 8000):
        u = 5 * int(np.ceil(np.log(length)))
        assert few_queries.attention_flops(4, 8, length, 5) == 6 * 8 * 4 * length * min(u, length)
    whole, layers = few_queries.flops(CONFIG, 8192, 5), few_queries.flops(CONFIG, 4096, 5)
    assert 2 < whole / layers < 2.3


def test_what_cannot_be_encoded_is_refused_by_name():
    with pytest.raises(ConfigError, match="factor: is 0"):
        few_queries.attending(0, 10)
    windowed = dataclasses.replace(CONFIG, pattern=(Layer(Attention(window=3)),))
    with pytest.raises(ConfigError, match="model: has layers that keep their tokens"):
        few_queries.weights(windowed)
