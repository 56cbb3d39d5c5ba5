"""Later layers that read an earlier one's keys: the model's own layers, handed those keys, are the oracle."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from models import counts, early_keys, transformer
from models.causal_attention import reference_attention
from models.config import Layer, ModelConfig
from models.early_keys import EarlyKeys
from models.errors import ConfigError
from models.mixers import Attention
from models.past import Past
from models.positions import rotary_angles, rotate
from models.presets import LLAMA3_8B
from models.weight import walk
from tests.models.jaxprs import jaxpr_flops
from tests.models.test_parts import quick

CONFIG, EARLY, SEQ = ModelConfig(32, d_model=16, n_layers=4, n_heads=4, n_kv_heads=2, d_ff=24), EarlyKeys(1, group=2), 6
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 32, (2, SEQ))


def drawn(declared):
    return unflatten_dict({path: np.float32(0.4 * RNG.standard_normal(w.shape)) for path, w in walk(declared)})


MODEL, PARAMS = drawn(transformer.weights(CONFIG)), drawn(early_keys.weights(CONFIG, EARLY))


@quick
def read(tokens, memory):
    return early_keys.read(CONFIG, EARLY, MODEL, PARAMS, tokens, memory)


@quick
def prefilled(tokens, memory):
    return early_keys.read(CONFIG, EARLY, MODEL, PARAMS, tokens, memory, last=True)


@dataclasses.dataclass(frozen=True)
class Given(Past):
    """Its own keys and values in place of the layer's."""

    positions: jax.Array
    keys: dict

    def attend(self, q, new, span):
        return reference_attention(q, self.keys["k"], self.keys["v"], span), self


def handed(tokens):
    """Logits of the model's own layers, which are handed keys and values, with queries of their own."""
    at = jnp.arange(SEQ)[None]
    x = transformer.embed(CONFIG, MODEL, tokens, at)
    x, _ = transformer.run_layer(CONFIG, CONFIG.layers[0], MODEL["block_0"], x, at, None, tokens)
    normed = x / jnp.sqrt((x**2).mean(-1, keepdims=True) + CONFIG.norm_eps) * PARAMS["norm"]["gain"]
    for i in (1, 2, 3):
        both = jnp.einsum("bsd,dhfk->fbshk", normed, PARAMS["keys"][str((i - 1) // 2)])
        keys = {"k": rotate(both[0], *rotary_angles(at, 4, 1e4)), "v": both[1]}
        block = MODEL[f"block_{i}"]
        qkv = np.concatenate([PARAMS["query"][f"block_{i}"], block["attention"]["qkv"][:, :, -2:]], axis=2)
        block = block | {"attention": block["attention"] | {"qkv": qkv}}
        x, _, _ = CONFIG.wired.apply(CONFIG.stream, CONFIG.layers[i], block, x, Given(at, keys), tokens)
    return transformer.logits(CONFIG, *transformer.unembed(CONFIG, MODEL, x))


def test_later_layers_read_the_keys_of_their_group_with_queries_of_their_own():
    found = quick(partial(early_keys.apply, CONFIG, EARLY))(MODEL, PARAMS, TOKENS)
    np.testing.assert_allclose(found, quick(handed)(TOKENS), rtol=1e-4, atol=1e-4)


def test_a_prompt_whose_last_token_alone_runs_later_layers_is_scored_and_kept_as_whole():
    whole = quick(partial(early_keys.apply, CONFIG, EARLY))(MODEL, PARAMS, TOKENS)
    empty = early_keys.empty(CONFIG, EARLY, 2, SEQ)
    logits, memory = prefilled(TOKENS[:, :4], empty)
    np.testing.assert_allclose(logits[:, 0], whole[:, 3], rtol=1e-4, atol=1e-4)
    after, full = read(TOKENS[:, :4], empty)
    np.testing.assert_allclose(after, whole[:, :4], rtol=1e-4, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, memory, full)
    for at in (4, 5):
        logits, memory = prefilled(TOKENS[:, at : at + 1], memory)
        np.testing.assert_allclose(logits[:, 0], whole[:, at], rtol=1e-4, atol=1e-4)


def test_a_start_with_one_later_layer_is_the_model_itself():
    plus = dataclasses.replace(CONFIG, norm_plus_one=True)
    for config in (CONFIG, plus):
        early = EarlyKeys(3)

        @quick
        def both(model, config=config, early=early):
            start = early_keys.started(config, early, model)
            found = early_keys.apply(config, early, model, start, TOKENS)
            return found, transformer.apply(config, model, TOKENS), start

        found, want, start = both(MODEL)
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)
        declared = {path: w.shape for path, w in walk(early_keys.weights(config, early))}
        assert declared == {path: x.shape for path, x in walk_arrays(start)}


def walk_arrays(tree, prefix=()):
    for name, node in tree.items():
        yield from walk_arrays(node, (*prefix, name)) if isinstance(node, dict) else [((*prefix, name), node)]


def test_prefill_and_cache_are_counted_to_the_product_and_the_byte():
    def prompt(model, params, tokens, memory):
        return early_keys.read(CONFIG, EARLY, model, params, tokens, memory, last=True)

    for quantized in (False, True):
        memory = jax.eval_shape(partial(early_keys.empty, CONFIG, EARLY, 1, SEQ, quantized))
        held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(memory.stores))
        assert held == SEQ * early_keys.kept_bytes_per_token(CONFIG, EARLY, quantized)
    memory = early_keys.empty(CONFIG, EARLY, 1, SEQ)
    jaxpr = jax.make_jaxpr(prompt)(MODEL, PARAMS, TOKENS[:1], memory).jaxpr
    assert jaxpr_flops(jaxpr) == early_keys.prefill_flops(CONFIG, EARLY, SEQ, causal=False)


def test_at_the_published_shape_half_of_the_prefill_and_five_eighths_of_the_cache_are_spared():
    model = dataclasses.replace(LLAMA3_8B, scan_layers=False)
    early, whole = EarlyKeys(16, group=2), counts.kv_cache_bytes_per_token(model)
    spared = 1 - early_keys.prefill_flops(model, early, 8192) / counts.prefill_flops(model, 8192)
    assert 0.48 < spared < 0.5
    assert early_keys.kept_bytes_per_token(model, early) == 0.75 * whole
    scales = 24 * 2 * 8 * 4  # bytes: one for each vector of 128
    assert early_keys.kept_bytes_per_token(model, early, quantized=True) == 0.375 * whole + scales


def test_the_divergence_is_that_of_tempered_softmaxes():
    a, b = RNG.standard_normal((2, 3, 5))
    p, q = (np.exp(x / 2) / np.exp(x / 2).sum(-1, keepdims=True) for x in (a, b))
    np.testing.assert_allclose(early_keys.divergence(a, b), 4 * (p * np.log(p / q)).sum(-1).mean(), rtol=1e-5)


def test_layers_that_cannot_read_an_earlier_ones_keys_are_refused():
    fix = "use PreNorm, no biases or qk_norm, dense channels, and later layers of one Attention, not scanned"
    mixed = dataclasses.replace(CONFIG, pattern=(Layer(), Layer(Attention(window=4))))
    for config, early, told in (
        (CONFIG, EarlyKeys(4), "first: is 4 of 4 layers: name a layer from 0 to 3"),
        (mixed, EarlyKeys(1), f"model: has layers that cannot read an earlier one's keys: {fix}"),
        (dataclasses.replace(CONFIG, qk_norm=True), EarlyKeys(1),
         f"model: has layers that cannot read an earlier one's keys: {fix}"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as error:
            early_keys.weights(config, early)
        assert str(error.value) == told
