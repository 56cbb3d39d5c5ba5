"""The transformer equals a plain NumPy one, however it is scanned, rematerialised, packed or rounded."""

from __future__ import annotations

import cmath
import dataclasses
import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

from models import presets, transformer
from models.causal_attention import causal_attention
from models.config import ModelConfig, RopeScaling
from models.past import Past, keys_and_values
from models.positions import rotary_angles
from models.span import Span
from models.transformer import stack_layers, unstack_layers
from models.weight import Weight, map_weights, walk

GPT2 = presets.gpt2_style(16, 2, 4, seq_len=12, vocab_size=23)
LLAMA = dataclasses.replace(
    presets.llama_style(16, 2, 4, 2, 24, vocab_size=23), dtype="float32", scan_layers=False, qk_norm=True
)
GEMMA = ModelConfig(  # a layer of each kind
    vocab_size=23, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=6, d_ff=24, activation="geglu_exact",
    norm_plus_one=True, post_norms=True, scale_embeddings=True, qk_norm=True, query_pre_attn_scalar=5.0,
    sliding_window=3, layer_types=("sliding", "full"), rope_theta=50.0, rope_theta_local=7.0,
    rope_scaling=RopeScaling("linear", 2.0), partial_rotary_factor=0.7, attention_softcap=2.0, logit_softcap=3.0,
)  # fmt: skip
STYLES = {"gpt2": GPT2, "llama": LLAMA, "gemma": GEMMA}
BATCH, SEQ = 2, 10

apply = jax.jit(transformer.apply, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def loss_and_gradient(config, params, tokens):
    def mean_loss(params):
        total, count = transformer.loss(config, params, tokens)
        return total / count

    return jax.value_and_grad(mean_loss)(params)


def some_params(config: ModelConfig):
    """The declared spread, with noise on gains and biases so that they matter; in NumPy, as init is slow to compile."""
    rng = np.random.default_rng(0)

    def draw(weight: Weight) -> np.ndarray:
        mean, std = (weight.std or 0, 0.1) if weight.role == "vector" else (0, weight.std)
        return mean + std * rng.standard_normal(weight.shape, np.float32)

    return map_weights(draw, transformer.weights(config))


def some_tokens(config: ModelConfig, seq: int = SEQ, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.vocab_size, (BATCH, seq), np.int32)


def reference_logits(config: ModelConfig, params, tokens: np.ndarray) -> np.ndarray:
    """The same model in NumPy and float64, written head by head."""
    c, p = config.resolved(), jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    group = c.n_heads // c.n_kv_heads

    def norm(x, w):
        x = x - x.mean(-1, keepdims=True) if c.norm == "layernorm" else x
        gain = w["gain"] + c.norm_plus_one
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + c.norm_eps) * gain + w.get("bias", 0)

    def cap(x, limit):
        return x if limit is None else limit * np.tanh(x / limit)

    def rotate(x, local):  # [seq, head_dim]: of the dims that rotate, the first half is real, the second imaginary
        half = int(c.head_dim * c.partial_rotary_factor) // 2
        theta = (c.rope_theta_local if local else None) or c.rope_theta
        factor = 1 if c.rope_scaling is None or (local and c.rope_theta_local) else c.rope_scaling.factor
        turned = (x[:, :half] + 1j * x[:, half : 2 * half]) * np.exp(
            1j * np.arange(len(x))[:, None] * theta ** (-np.arange(half) / half) / factor
        )
        return np.concatenate([turned.real, turned.imag, x[:, 2 * half :]], -1)

    def head(x, w, i, local):  # head i's contribution to the residual stream
        kv, r = divmod(i, group)
        q, k, v = (x @ w["qkv"][:, kv, s] + w.get("qkv_bias", np.zeros((99, 99)))[kv, s] for s in (r, group, group + 1))
        if c.qk_norm:
            q, k = norm(q, w["q_norm"]), norm(k, w["k_norm"])
        if c.positions == "rope":
            q, k = rotate(q, local), rotate(k, local)
        scores = cap(q @ k.T / np.sqrt(c.query_pre_attn_scalar or c.head_dim), c.attention_softcap)
        seen = np.tri(len(x)) - (np.tri(len(x), k=-c.sliding_window) if local else 0)
        scores = np.where(seen, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True) @ v @ w["out"][kv, r]

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    def exact_gelu(x):
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))

    def feedforward(x, w):
        if not c.gated:
            return gelu(x @ w["up"] + w.get("up_bias", 0)) @ w["down"] + w.get("down_bias", 0)
        gate, up = (x @ w["gate_up"][:, i] for i in range(2))
        act = exact_gelu(gate) if c.activation == "geglu_exact" else gate / (1 + np.exp(-gate))
        return act * up @ w["down"]

    def one(row):
        x = p["tokens"][row] * (c.d_model**0.5 if c.scale_embeddings else 1)
        x = x + (p["positions"][: len(row)] if c.positions == "learned" else 0)
        for i in range(c.n_layers):
            w, local = p[f"block_{i}"], c.sliding[i]
            y = norm(x, w["attention_norm"])
            y = sum(head(y, w["attention"], h, local) for h in range(c.n_heads)) + w["attention"].get("out_bias", 0)
            x = x + (norm(y, w["post_attention_norm"]) if c.post_norms else y)
            y = feedforward(norm(x, w["feedforward_norm"]), w["feedforward"])
            x = x + (norm(y, w["post_feedforward_norm"]) if c.post_norms else y)
        return cap(norm(x, p["final_norm"]) @ (p["tokens"].T if c.tied_embeddings else p["head"]), c.logit_softcap)

    return np.stack([one(row) for row in tokens])


@pytest.mark.parametrize("style", STYLES)
def test_logits_equal_a_plain_numpy_transformer(style):
    config = STYLES[style]
    params, tokens = some_params(config), some_tokens(config)
    logits = apply(config, params, tokens)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, reference_logits(config, params, tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("style", STYLES)
def test_loss_is_the_cross_entropy_of_the_logits_with_the_next_token(style):
    config = STYLES[style]
    params, tokens = some_params(config), some_tokens(config, SEQ + 1)
    scored = np.random.default_rng(1).random((BATCH, SEQ)).astype(np.float32)
    total, count = jax.jit(partial(transformer.loss, config))(params, tokens, loss_weights=scored)
    log_prob = jax.nn.log_softmax(apply(config, params, tokens[:, :-1]))
    expected = -(np.take_along_axis(np.asarray(log_prob), tokens[:, 1:, None], -1)[..., 0] * scored).sum()
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    np.testing.assert_allclose(count, scored.sum(), rtol=1e-6)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("scan_layers", [False, True])
def test_declarations_are_the_params_of_init_and_of_the_linen_module(style, scan_layers):
    config = dataclasses.replace(STYLES[style], scan_layers=scan_layers)
    declared = jax.tree.map(lambda w: w.shape, transformer.weights(config), is_leaf=lambda w: hasattr(w, "axes"))
    shapes = jax.tree.map(lambda x: x.shape, jax.eval_shape(partial(transformer.init, config), jax.random.key(0)))
    module = transformer.Transformer(config)
    linen = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 3), jnp.int32))["params"]
    assert declared == shapes == jax.tree.map(lambda x: x.shape, linen)
    assert all(len(w.axes) == len(w.shape) == len(set(w.axes)) for _, w in walk(transformer.weights(config)))


def test_initial_values_have_the_declared_spread_and_an_untrained_loss_near_uniform():
    config = dataclasses.replace(LLAMA, n_layers=1, d_model=64, d_ff=None, head_dim=None, vocab_size=200)
    params = transformer.init(config, jax.random.key(3))
    for path, weight in walk(transformer.weights(config)):
        value = params
        for name in path:
            value = value[name]
        expected = 0.0 if weight.role == "vector" else (weight.fan_in**-0.5 if weight.std is None else weight.std)
        np.testing.assert_allclose(jnp.std(value), expected, rtol=6 * weight.size**-0.5)
    total, count = jax.jit(transformer.loss, static_argnums=0)(config, params, some_tokens(config, SEQ + 1))
    loss = total / count
    assert np.log(200) - 0.5 < loss < np.log(200) + 1.5


def test_an_initial_value_depends_neither_on_other_weights_nor_on_scanning():
    other = dataclasses.replace(GPT2, tied_embeddings=False, bias="none", qk_norm=True)
    scanned = dataclasses.replace(GPT2, scan_layers=True)
    a, b, c = jax.jit(lambda key: [transformer.init(config, key) for config in (GPT2, other, scanned)])(
        jax.random.key(5)
    )
    for path in (("tokens",), ("positions",), ("block_1", "attention", "out"), ("block_0", "feedforward", "up")):
        x, y = a, b
        for name in path:
            x, y = x[name], y[name]
        np.testing.assert_array_equal(x, y)
    jax.tree.map(np.testing.assert_array_equal, c, stack_layers(a, scanned))
    jax.tree.map(np.testing.assert_array_equal, unstack_layers(c, scanned), a)


@pytest.mark.parametrize(
    ("style", "remat", "scan_layers"),
    [
        ("gpt2", "none", True),
        ("gpt2", "full", True),
        ("llama", "full", False),
        ("llama", "dots", True),
        ("gemma", "full", True),
    ],
)
def test_scanning_and_rematerialising_change_neither_loss_nor_gradient(style, remat, scan_layers):
    config = STYLES[style]
    params, tokens = some_params(config), some_tokens(config, SEQ + 1)
    loss, gradient = loss_and_gradient(config, params, tokens)
    changed = dataclasses.replace(config, remat=remat, scan_layers=scan_layers)
    got_loss, got = loss_and_gradient(changed, stack_layers(params, changed) if scan_layers else params, tokens)
    np.testing.assert_allclose(got_loss, loss, rtol=1e-6)
    got = unstack_layers(got, changed) if scan_layers else got
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), got, gradient)


@pytest.mark.parametrize("style", STYLES)
def test_bfloat16_stays_within_its_rounding_of_float32(style):
    config = STYLES[style]
    if style == "gemma":  # the published caps: tighter ones divide the gradient, not its rounding
        config = dataclasses.replace(config, attention_softcap=50.0, logit_softcap=30.0)
    half = dataclasses.replace(config, dtype="bfloat16")
    params, tokens = some_params(config), some_tokens(config, SEQ + 1)
    (loss, gradient), (half_loss, half_gradient) = (loss_and_gradient(c, params, tokens) for c in (config, half))
    assert half_loss.dtype == jnp.float32
    np.testing.assert_allclose(half_loss, loss, rtol=2**-7)
    assert {g.dtype for g in jax.tree.leaves(half_gradient)} == {jnp.dtype("float32")}
    exact, rounded = (np.concatenate([np.ravel(g) for g in jax.tree.leaves(x)]) for x in (gradient, half_gradient))
    # 2^-9 per rounding, a few dozen of them in sequence through two layers and back, adding as a random walk
    assert np.linalg.norm(rounded - exact) < 16 * 2**-9 * np.linalg.norm(exact)


def products(jaxpr: Jaxpr) -> list:
    """Every dot_general equation, nested ones included."""
    found = []
    for eqn in jaxpr.eqns:
        found += [eqn] if eqn.primitive.name == "dot_general" else []
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: isinstance(v, ClosedJaxpr | Jaxpr)):
            inner = value.jaxpr if isinstance(value, ClosedJaxpr) else value
            found += products(inner) if isinstance(inner, Jaxpr) else []
    return found


@pytest.mark.parametrize("style", STYLES)
def test_every_bfloat16_product_of_the_train_step_accumulates_in_float32(style):
    config = dataclasses.replace(STYLES[style], dtype="bfloat16")
    params = jax.eval_shape(partial(transformer.init, config), jax.random.key(0))
    jaxpr = jax.make_jaxpr(partial(loss_and_gradient, config))(params, some_tokens(config, SEQ + 1))
    dots = products(jaxpr.jaxpr)
    assert len(dots) > 20
    for dot in dots:
        assert dot.outvars[0].aval.dtype == jnp.float32, dot


@pytest.mark.parametrize("style", STYLES)
def test_the_future_changes_no_logit_in_any_bit(style):
    config = STYLES[style]
    params, tokens = some_params(config), some_tokens(config)
    changed = tokens.copy()
    changed[:, 6:] = (changed[:, 6:] + 1) % config.vocab_size
    before, after = apply(config, params, tokens), apply(config, params, changed)
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert (before[:, 6] != after[:, 6]).any(-1).all()


@pytest.mark.parametrize("style", STYLES)
def test_a_documents_logits_do_not_depend_on_its_neighbours_in_any_bit(style):
    config = STYLES[style]
    params, tokens = some_params(config), some_tokens(config)
    segments = np.repeat(np.array([[0, 1, 2]], np.int32), [3, 4, 3], axis=1).repeat(BATCH, 0)
    changed = np.where(segments == 1, tokens, (tokens + 5) % config.vocab_size).astype(np.int32)
    before = apply(config, params, tokens, segments=segments)
    after = apply(config, params, changed, segments=segments)
    np.testing.assert_array_equal(before[:, 3:7], after[:, 3:7])
    assert not np.allclose(before[:, 7:], after[:, 7:])


@pytest.mark.parametrize("style", STYLES)
def test_a_packed_document_at_its_own_positions_equals_the_document_alone(style):
    config = STYLES[style]
    params, tokens = some_params(config), some_tokens(config)
    segments = np.repeat(np.array([[0, 1]], np.int32), [4, 6], axis=1).repeat(BATCH, 0)
    positions = np.concatenate([np.arange(4), np.arange(6)])[None]
    packed = apply(config, params, tokens, segments=segments, positions=positions)
    alone = np.concatenate([apply(config, params, tokens[:, :4]), apply(config, params, tokens[:, 4:])], axis=1)
    np.testing.assert_allclose(packed, alone, rtol=1e-4, atol=1e-5)


def test_targets_across_a_document_boundary_are_not_scored():
    config = LLAMA
    params, tokens = some_params(config), some_tokens(config, SEQ + 1)
    segments = np.repeat(np.array([[0, 1, 2]], np.int32), [3, 4, 4], axis=1).repeat(BATCH, 0)
    loss = jax.jit(partial(transformer.loss, config))
    total, count = loss(params, tokens, segments=segments)
    alone = [loss(params, part) for part in np.split(tokens, [3, 7], axis=1)]
    assert count == BATCH * (SEQ - 2) == sum(n for _, n in alone)
    np.testing.assert_allclose(total, sum(t for t, _ in alone), rtol=1e-5)  # rotary positions are relative


def test_grouped_queries_equal_full_attention_with_repeated_keys_and_values():
    grouped = dataclasses.replace(LLAMA, qk_norm=False)
    full = dataclasses.replace(grouped, n_kv_heads=4)
    params = some_params(grouped)

    def ungroup(block):
        qkv, out = block["attention"]["qkv"], block["attention"]["out"]  # [16, 2, 2 + 2, 4], [2, 2, 4, 16]
        q = qkv[:, :, :2].reshape(16, 4, 1, 4)
        kv = jnp.repeat(qkv[:, :, 2:], 2, axis=1)
        return block | {"attention": {"qkv": jnp.concatenate([q, kv], 2), "out": out.reshape(4, 1, 4, 16)}}

    ungrouped = {name: ungroup(x) if name.startswith("block_") else x for name, x in params.items()}
    tokens = some_tokens(grouped)
    np.testing.assert_allclose(apply(grouped, params, tokens), apply(full, ungrouped, tokens), rtol=1e-4, atol=1e-5)


def test_mup_at_its_base_width_is_the_standard_parametrisation_in_every_bit():
    base = dataclasses.replace(LLAMA, mup_base_width=16, mup_base_head_dim=4)
    assert transformer.weights(base) == transformer.weights(LLAMA)
    params = some_params(LLAMA)
    tokens = some_tokens(LLAMA)
    np.testing.assert_array_equal(apply(LLAMA, params, tokens), apply(base, params, tokens))


def rotary_loop(kind: str, position: int, dim: int, theta: float, s: RopeScaling, longest: int) -> list[complex]:
    """cos + i sin of each pair of dims, in the words of the papers."""
    turned = []
    for i in range(dim // 2):
        if kind == "dynamic":
            base = theta * (s.factor * longest / s.original_max_seq_len - (s.factor - 1)) ** (dim / (dim - 2))
            theta_now = base if longest > s.original_max_seq_len else theta
        else:
            theta_now = theta
        frequency, gain = theta_now ** (-2 * i / dim), 1.0
        if kind == "linear":
            frequency /= s.factor
        if kind == "llama3":
            wavelength = 2 * math.pi / frequency
            if wavelength > s.original_max_seq_len / s.low_freq_factor:
                frequency /= s.factor
            elif wavelength > s.original_max_seq_len / s.high_freq_factor:
                smooth = (s.original_max_seq_len / wavelength - s.low_freq_factor) / (
                    s.high_freq_factor - s.low_freq_factor
                )
                frequency = (1 - smooth) * frequency / s.factor + smooth * frequency
        if kind == "yarn":
            low, high = (
                dim * math.log(s.original_max_seq_len / (beta * 2 * math.pi)) / (2 * math.log(theta))
                for beta in (s.beta_fast, s.beta_slow)
            )
            low, high = max(math.floor(low), 0), min(math.ceil(high), dim - 1)
            ramp = min(max((i - low) / (high - low), 0), 1)
            frequency = frequency / s.factor * ramp + frequency * (1 - ramp)
            gain = 0.1 * math.log(s.factor) + 1
        turned.append(gain * cmath.exp(1j * position * frequency))
    return turned


@pytest.mark.parametrize("kind", ["linear", "dynamic", "llama3", "yarn"])
def test_scaled_rotary_angles_equal_the_formulas_of_their_papers(kind):
    scaling = RopeScaling(kind, 4.0, original_max_seq_len=None if kind == "linear" else 256, beta_fast=8.0)
    positions = np.array([[0, 1, 17, 300], [5, 6, 7, 200]])
    cos, sin = rotary_angles(jnp.asarray(positions), 32, 1000.0, scaling)
    assert cos.shape == (2, 4, 1, 16)
    expected = [[rotary_loop(kind, x, 32, 1000.0, scaling, max(row) + 1) for x in row] for row in positions.tolist()]
    # an angle of 300 is a float32 with a rounding of 1.5e-5
    np.testing.assert_allclose(np.asarray(cos + 1j * sin)[:, :, 0], expected, atol=5e-5)


@dataclass(frozen=True)
class Noted(Past):
    """Whole sequences, and what each layer asked for."""

    positions: jax.Array
    asked: tuple = ()

    def attend(self, q, new, span, read=keys_and_values):
        return causal_attention(q, *read(new), span), dataclasses.replace(self, asked=(*self.asked, (span, set(new))))


@pytest.mark.parametrize(
    ("config", "spans"),
    [(GEMMA, [Span(5**-0.5, 3, 2.0), Span(5**-0.5, None, 2.0)]), (LLAMA, [Span(4**-0.5), Span(4**-0.5)])],
)
def test_a_past_of_the_callers_gets_the_layers_span_and_comes_back_with_the_new_tokens(config, spans):
    params, tokens = some_params(config), some_tokens(config)
    given = [Noted(jnp.arange(SEQ)[None]) for _ in spans]
    output = transformer.forward(config, params, tokens, pasts=given)
    assert [past.asked for past in output.pasts] == [((span, {"k", "v"}),) for span in spans]
    assert all(past.asked == () for past in given)
    got = transformer.logits(config, output.hidden, output.head)
    np.testing.assert_allclose(got, apply(config, params, tokens), rtol=1e-4, atol=1e-5)
