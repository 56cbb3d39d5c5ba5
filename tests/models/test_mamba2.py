"""Mamba-2: blocks equal the recurrence, documents never meet, counts are exact; test_parts.py has the rest."""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import cache, counts, transformer
from models.config import ModelConfig
from models.errors import ConfigError
from models.layer import Layer
from models.mixers.attention import Attention
from models.mixers.mamba2 import Mamba2
from models.past import WholeSequence, carry_blocks, reach, zeros
from models.recurrence import causal_convolution, gated_linear
from models.weight import map_weights, walk
from tests.models.test_counts import abstract, flops_of, plain_kernels

# float32 sums of some dozens of terms of order 1, whose decays are differences of sums as large as the block is long
CLOSE = 1e-5
MIXER = Mamba2(head_dim=4, state=6, groups=2, block=5)
PURE = ModelConfig(vocab_size=17, d_model=16, n_layers=2, positions="none", pattern=(Layer(MIXER, None),))
HYBRID = ModelConfig(
    vocab_size=17, d_model=16, n_layers=3, n_heads=2, d_ff=24,
    pattern=(Layer(MIXER), Layer(MIXER), Layer(Attention())),
)  # fmt: skip


def draw(rng: np.random.Generator, rows: int, seq: int, heads=4, groups=2, key=6, value=3):
    """q, k, v and log decays of a gated linear state, float64; some decays strong, some weak."""
    q, k = (rng.standard_normal((rows, seq, groups, key)) for _ in range(2))
    v = rng.standard_normal((rows, seq, heads, value))
    return q, k, v, -np.exp(rng.uniform(-6, 1.5, (rows, seq, heads)))


def recurrence(q, k, v, g, state=None, segments=None):
    """Token by token in float64: y [rows, seq, heads, value] and the state [rows, heads, key, value] after the last."""
    (rows, seq, groups, key), (heads, value) = q.shape, v.shape[2:]
    q, k = (np.repeat(x, heads // groups, axis=2) for x in (q, k))
    s = np.zeros((rows, heads, key, value)) if state is None else state.astype(np.float64)
    y = np.zeros((rows, seq, heads, value))
    for r in range(rows):
        for t in range(seq):
            if segments is not None and t and segments[r, t] != segments[r, t - 1]:
                s[r] = 0
            s[r] = np.exp(g[r, t])[:, None, None] * s[r] + k[r, t][:, :, None] * v[r, t][:, None, :]
            y[r, t] = np.einsum("hkv,hk->hv", s[r], q[r, t])
    return y, s


@partial(jax.jit, static_argnums=1)
def carried(inputs, size, state, segments):
    def step(state, inputs, reach):
        y, after = gated_linear(state["s"], *inputs, reach)
        return y, {"s": after}

    y, state = carry_blocks(step, {"s": state}, inputs, size, segments)
    return y, state["s"]


def blocks(inputs, size, state=None, segments=None):
    """The same in blocks of `size`, float32."""
    (rows, seq, _, key), (heads, value) = inputs[0].shape, inputs[2].shape[2:]
    state = np.zeros((rows, heads, key, value)) if state is None else state
    segments = np.zeros((rows, seq), np.int32) if segments is None else segments
    found = carried(tuple(np.float32(x) for x in inputs), size, np.float32(state), np.int32(segments))
    return tuple(np.asarray(x) for x in found)


# -- the state ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 16, 64])
def test_blocks_of_any_size_equal_the_recurrence_in_float64(size):
    inputs = draw(np.random.default_rng(0), 2, 41)
    start = np.random.default_rng(1).standard_normal((2, 4, 6, 3))
    for state in (None, start):
        expected, after = recurrence(*inputs, state=state)
        y, got = blocks(inputs, size, state)
        np.testing.assert_allclose(y, expected, atol=CLOSE * np.abs(expected).max())
        np.testing.assert_allclose(got, after, atol=CLOSE * np.abs(after).max())


def test_a_sequence_may_be_cut_anywhere_and_its_state_carried_on():
    inputs = draw(np.random.default_rng(2), 1, 23)
    whole, after = blocks(inputs, 8)
    for cut in (1, 7, 16):
        first, state = blocks([x[:, :cut] for x in inputs], 8)
        rest, state = blocks([x[:, cut:] for x in inputs], 8, state)
        np.testing.assert_allclose(np.concatenate([first, rest], 1), whole, atol=CLOSE * np.abs(whole).max())
        np.testing.assert_allclose(state, after, atol=CLOSE * np.abs(after).max())


def test_documents_side_by_side_start_from_nothing():
    inputs = draw(np.random.default_rng(3), 2, 19)
    segments = np.array([[0] * 3 + [1] + [2] * 15, [7] * 8 + [9] * 11])
    expected, after = recurrence(*inputs, segments=segments)
    for size in (1, 4, 64):
        y, state = blocks(inputs, size, segments=segments)
        np.testing.assert_allclose(y, expected, atol=CLOSE * np.abs(expected).max())
        np.testing.assert_allclose(state, after, atol=CLOSE * np.abs(after).max())


def test_without_decay_it_is_plain_linear_attention_and_with_full_decay_every_token_alone():
    q, k, v, g = draw(np.random.default_rng(4), 1, 13, heads=2)
    pairs = np.einsum("bigk,bjgk->bgij", q, k)
    linear = np.einsum("bgij,bjgv->bigv", np.tril(pairs), v)
    np.testing.assert_allclose(blocks((q, k, v, 0 * g), 4)[0], linear, atol=CLOSE * np.abs(linear).max())
    alone = np.einsum("bigk,bigk->big", q, k)[..., None] * v
    np.testing.assert_allclose(blocks((q, k, v, 0 * g - 1e4), 4)[0], alone, atol=CLOSE * np.abs(alone).max())


@pytest.mark.parametrize("size", [1, 3])
def test_tokens_that_only_fill_a_block_leave_the_state_bit_for_bit(size):
    rng = np.random.default_rng(5)
    layer = dataclasses.replace(MIXER, block=size)
    w = params_of(layer, PURE)
    kept = layer.kept(PURE.stream)
    state = {name: np.float32(rng.standard_normal((2, *k.shape))) for name, k in kept.items()}
    inputs = mixer_inputs(rng, layer, 2, size)
    valid = np.array([[True] * size, [False] * size])

    @jax.jit
    def run(state, inputs):
        nothing = jnp.zeros((2, size), jnp.int32)
        return layer._step(w, state, inputs, reach(nothing, jnp.asarray(valid), nothing[:, 0])[0])

    _, after = run(state, inputs)
    for name in state:
        np.testing.assert_array_equal(after[name][1], state[name][1])
        assert (np.asarray(after[name][0]) != np.asarray(state[name][0])).any()


@pytest.mark.parametrize("size", [1, 2, 7])
def test_the_convolution_is_that_of_numpy_over_each_document(size):
    rng = np.random.default_rng(6)
    x, weight, bias = (rng.standard_normal(s) for s in ((2, 17, 3), (4, 3), 3))
    segments = np.array([[0] * 17, [1] * 5 + [2] * 2 + [3] + [4] * 9])

    def step(state, x, reach):
        y, tail = causal_convolution(x, state["tail"], *map(jnp.float32, (weight, bias)), reach)
        return y, {"tail": tail}

    run = jax.jit(lambda x, tail: carry_blocks(step, {"tail": tail}, x, size, jnp.asarray(segments)))
    y, after = run(np.float32(x), np.zeros((2, 3, 3), np.float32))
    for r in range(2):
        for d in np.unique(segments[r]):
            own = segments[r] == d
            padded = np.concatenate([np.zeros((3, 3)), x[r, own]])
            expected = sum(padded[i : i + own.sum()] * weight[i] for i in range(4)) + bias
            np.testing.assert_allclose(y[r, own], expected, atol=CLOSE)
        np.testing.assert_allclose(after["tail"][r], padded[-3:], atol=CLOSE)  # of the last document


# -- the mixer ----------------------------------------------------------------------------------------------------


def params_of(mixer: Mamba2, config: ModelConfig, seed=0):
    """The weights of one mixer, all of them away from zero."""
    rng = np.random.default_rng(seed)
    return {name: np.float32(0.3 * rng.standard_normal(w.shape)) for name, w in mixer.weights(config.stream).items()}


def mixer_inputs(rng, mixer: Mamba2, rows, seq):
    heads, s = mixer.heads(PURE.stream), mixer
    shapes = {"x": (heads, s.head_dim), "bc": (2, s.groups, s.state), "dt": (heads,)}
    return {name: np.float32(rng.standard_normal((rows, seq, *shape))) for name, shape in shapes.items()}


def silu(a):
    return a / (1 + np.exp(-a))


def naive(mixer: Mamba2, w, x, eps):
    """One document x [seq, d_model] through the mixer as its docstring says, float64, token by token."""
    w = {name: np.asarray(value, np.float64) for name, value in w.items()}
    zx, bc = np.einsum("td,dghp->tghp", x, w["zx"]), np.einsum("td,dgmn->tgmn", x, w["bc"])

    def conv(u, weight, bias):
        padded = np.concatenate([np.zeros((mixer.width - 1, *u.shape[1:])), u])
        return silu(sum(padded[i : i + len(u)] * weight[i] for i in range(mixer.width)) + bias)

    z, u = zx[:, 0], conv(zx[:, 1], w["conv_x"], w["conv_x_bias"])
    bc = conv(bc, w["conv_bc"], w["conv_bc_bias"])
    dt = np.log1p(np.exp(x @ w["dt"] + w["dt_bias"]))
    y, _ = recurrence(*(a[None] for a in (bc[:, 1], bc[:, 0], u * dt[..., None], -np.exp(w["decay"]) * dt)))
    y = (y[0] + w["skip"][:, None] * u) * silu(z)
    grouped = y.reshape(len(x), mixer.groups, -1)
    normed = grouped / np.sqrt((grouped**2).mean(-1, keepdims=True) + eps)
    return np.einsum("thp,hpd->td", normed.reshape(y.shape) * w["gain"], w["out"])


def through(mixer: Mamba2, w, x):
    """x [batch, seq, d_model] through the mixer alone."""
    past = WholeSequence(np.arange(x.shape[1])[None])
    return np.asarray(jax.jit(lambda w, x: mixer.apply(PURE.stream, w, x, past)[0])(w, np.float32(x)))


@pytest.mark.parametrize("groups", [1, 2])
def test_the_mixer_equals_its_definition_token_by_token(groups):
    mixer = dataclasses.replace(MIXER, groups=groups)
    w, x = params_of(mixer, PURE), np.random.default_rng(7).standard_normal((2, 13, 16))
    expected = np.stack([naive(mixer, w, row, PURE.norm_eps) for row in x])
    np.testing.assert_allclose(through(mixer, w, x), expected, atol=CLOSE * np.abs(expected).max())


def test_steps_are_clipped_where_a_limit_is_given():
    w, x = params_of(MIXER, PURE), np.random.default_rng(7).standard_normal((1, 5, 16))
    w["dt_bias"] = w["dt_bias"] + 10  # steps of about 10
    always = {**w, "dt": 0 * w["dt"], "dt_bias": 0 * w["dt_bias"] + np.float32(np.log(np.expm1(0.01)))}
    held = through(dataclasses.replace(MIXER, dt_limit=0.01), w, x)
    np.testing.assert_allclose(held, through(MIXER, always, x), atol=CLOSE * np.abs(held).max())


def test_initial_values_are_those_of_the_paper():
    mixer, stream = Mamba2(), dataclasses.replace(PURE, d_model=4096).stream
    draw = {name: np.asarray(w.initial(jax.random.key(3))) for name, w in mixer.weights(stream).items() if w.size < 1e5}
    rates, steps = np.exp(draw["decay"]), np.log1p(np.exp(draw["dt_bias"].astype(np.float64)))
    assert rates.shape == (128,) and 1 <= rates.min() < 2 and 15 < rates.max() <= 16
    assert 0.001 * (1 - 1e-3) < steps.min() < 0.002 and 0.05 < steps.max() < 0.1 * (1 + 1e-3)
    assert abs(np.median(np.log(steps)) - np.log(0.01)) < 0.5  # of 128 draws that are uniform in the logarithm
    assert (draw["skip"] == 1).all() and (draw["gain"] == 1).all()
    assert 0.49 < np.abs(draw["conv_x"]).max() <= 0.5 and abs(draw["conv_x"].mean()) < 0.01
    small = dataclasses.replace(mixer, dt_least=1e-7, dt_most=1e-6).weights(stream)
    floor = small["dt_bias"].initial(jax.random.key(0))
    np.testing.assert_allclose(np.log1p(np.exp(np.float64(floor))), 1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"head_dim": 5},
            "model.pattern[0].mixer.head_dim: 5 does not divide 2 x d_model 16: use a divisor of expand x d_model",
        ),
        ({"groups": 3}, "model.pattern[0].mixer.groups: 3 groups do not divide 8 heads: use one of [1, 2, 4, 8]"),
        ({"width": 1}, "width: is 1, which leaves no token before its own: give at least 2"),
        ({"dt_most": 1e-5}, "dt_most: is 1e-05, below dt_least 0.001: give a larger one"),
        ({"state": 0}, "state: is 0: give a positive integer"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(fields, told):
    with pytest.raises(ConfigError) as error:
        dataclasses.replace(PURE, pattern=(Layer(dataclasses.replace(MIXER, **fields), None),))
    assert str(error.value) == told


# -- counts -------------------------------------------------------------------------------------------------------


def mixer_weights(config: ModelConfig):
    return [w for path, w in walk(transformer.weights(config)) if "mamba" in path]


@pytest.mark.parametrize("seq", [1, 12])
@pytest.mark.parametrize("config", [PURE, HYBRID], ids=["pure", "hybrid"])
def test_flops_equal_the_jaxpr_of_the_loss_and_its_gradient(config, seq):
    """Convolutions are sums of shifted inputs, no products of matrices: declared, but not in the walk. The backward
    pass of a block repeats what its own gradient needs: the scores, and what was read from the state."""
    params, tokens = abstract(config, 2, seq)

    def mean_loss(params, tokens):
        total, weight = transformer.loss(config, params, tokens)
        return total / weight

    with plain_kernels():
        forward, train = flops_of(mean_loss, params, tokens), flops_of(jax.grad(mean_loss), params, tokens)
    recurrent = [layer.mixer for layer in config.layers if isinstance(layer.mixer, Mamba2)]
    conv = 2 * seq * sum(w.flops_per_token for w in mixer_weights(config) if w.role == "conv")
    counted = 2 * counts.forward_flops(config, seq, causal=False) - conv
    assert forward == counted
    repeated = 0
    for mixer in recurrent:
        heads, size = mixer.heads(config.stream), min(mixer.block, seq)
        tokens_read = 2 * size * math.ceil(seq / size)
        read = 2 * tokens_read * mixer.state * mixer.head_dim * heads
        repeated += read + (2 * tokens_read * size * mixer.state * mixer.groups if seq > 1 else 0)
    assert train == 3 * counted + repeated


def test_flops_per_token_are_those_of_the_published_formulas():
    mixer, stream = Mamba2(groups=2, block=64), dataclasses.replace(PURE, d_model=256).stream
    heads, n, p, chunk = 8, 128, 64, 64
    executed = mixer.flops(stream, 4 * chunk, causal=False)
    assert executed == 4 * chunk * heads * (4 * n * p + 2 * chunk * (n * 2 // heads + p))
    assert mixer.flops(stream, 1, before=10**6) == heads * 4 * n * p
    causal = mixer.flops(stream, 4 * chunk) - 4 * chunk * heads * 4 * n * p
    assert causal * 2 * chunk == (executed - 4 * chunk * heads * 4 * n * p) * (chunk + 1)  # pairs j <= i of all


def test_params_and_bytes_are_exact():
    mixer, config = Mamba2(), ModelConfig(256, 768, 24, pattern=(Layer(Mamba2(), None),), positions="none")
    d, inner, heads, n = 768, 1536, 24, 128
    each = d * (2 * inner + 2 * n + heads) + 5 * (inner + 2 * n) + 3 * heads + inner + inner * d
    assert sum(w.size for w in mixer.weights(config.stream).values()) == each
    assert counts.params(config) == 256 * d + d + 24 * (each + d)
    state, tails = heads * n * 64, 3 * (inner + 2 * n)
    assert counts.kv_cache_bytes_per_token(config) == 0
    assert counts.state_bytes_per_row(config) == 24 * 4 * (state + tails)
    half = dataclasses.replace(config, dtype="bfloat16")
    assert counts.state_bytes_per_row(half) == 24 * (4 * state + 2 * tails)
    arrays = jax.eval_shape(lambda: cache.empty_states(half.resolved(), 3))
    assert sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(arrays)) == 3 * counts.state_bytes_per_row(half)
    assert counts.decode_flops(config, 10) == counts.decode_flops(config, 10**6)


# -- training -----------------------------------------------------------------------------------------------------


@pytest.mark.slow  # compiles a gradient through blocks
def test_steps_along_the_gradient_learn_a_sequence_in_which_every_token_follows_from_the_one_before():
    config = dataclasses.replace(PURE, n_layers=1)
    rng = np.random.default_rng(0)
    params = map_weights(lambda w: np.float32(0.3 * rng.standard_normal(w.shape)), transformer.weights(config))
    tokens = np.arange(48, dtype=np.int32).reshape(4, 12) % 17
    slope = jax.jit(jax.value_and_grad(lambda params: transformer.loss(config, params, tokens)[0]))
    first = loss = float(slope(params)[0])
    for _ in range(40):
        loss, gradient = slope(params)
        params = jax.tree.map(lambda w, g: w - 0.02 * np.clip(g, -1, 1), params, gradient)
    assert first > 100 and loss < first / 2


def test_gates_and_the_state_are_float32_whatever_else_is():
    half = dataclasses.replace(PURE, dtype="bfloat16", param_dtype="bfloat16")
    shapes = jax.eval_shape(lambda: transformer.init(half, jax.random.key(0)))["block_0"]["mamba"]
    assert {shapes[name].dtype.name for name in ("decay", "dt_bias", "skip")} == {"float32"}
    assert {x.dtype.name for name, x in shapes.items() if name not in ("decay", "dt_bias", "skip")} == {"bfloat16"}
    kept = {name: x.dtype.name for name, x in zeros(MIXER.kept(half.stream), 1, "bfloat16").items()}
    assert kept == {"state": "float32", "x": "bfloat16", "bc": "bfloat16"}
