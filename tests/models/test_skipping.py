"""Layers left out: which, and that the rest is the loop over those that remain."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import counts, transformer
from models.channels import Dense
from models.config import Layer, ModelConfig
from models.errors import ConfigError
from models.mixers import Attention
from models.skipping import evenly_spaced, with_layers
from tests.models.test_parts import quick

CONFIG = ModelConfig(
    vocab_size=32, d_model=16, n_layers=5, n_heads=4, prologue=(Layer(channel=Dense(8)),),
    pattern=(Layer(Attention(window=3)), Layer()),
).resolved()  # fmt: skip


def test_layers_that_remain_are_evenly_spaced_with_the_first_and_the_last() -> None:
    assert evenly_spaced(8, 4 / 3) == (0, 1, 3, 4, 6, 7)
    assert evenly_spaced(8, 2) == (0, 2, 5, 7)
    for n, speedup in ((12, 1), (32, 1.25), (32, 2.1), (7, 3.5), (5, 1.1)):
        layers = evenly_spaced(n, speedup)
        assert len(layers) == round(n / speedup) and layers[0] == 0 and layers[-1] == n - 1
        gaps = np.diff(layers)
        assert gaps.min() >= 1 and gaps.max() - gaps.min() <= 1


def test_a_model_without_some_layers_is_the_loop_over_the_others() -> None:
    config = dataclasses.replace(CONFIG, scan_layers=True)
    tokens = jax.random.randint(jax.random.key(1), (2, 8), 0, 32)
    kept = (0, 1, 3, 4)

    @quick
    def both() -> tuple[jax.Array, jax.Array]:
        params = transformer.init(config, jax.random.key(0))
        small, left = with_layers(config, params, kept)
        flat, at = transformer.unstack_layers(params, config), jnp.arange(8)[None]
        x: Any = transformer.embed(config, params, tokens, at)
        for i in kept:
            x, _ = transformer.run_layer(config, config.layers[i], flat[f"block_{i}"], x, at, None, tokens)
        return transformer.apply(small, left, tokens), transformer.logits(config, *transformer.unembed(config, flat, x))

    np.testing.assert_allclose(*both(), rtol=2e-5, atol=2e-5)


def test_what_remains_is_counted_exactly_and_keeps_less() -> None:
    config = dataclasses.replace(CONFIG, prologue=(), pattern=(Layer(),), n_layers=8).resolved()
    params = jax.eval_shape(partial(transformer.init, config), jax.random.key(0))
    small, left = with_layers(config, params, evenly_spaced(8, 2))
    assert counts.params(small) == sum(x.size for x in jax.tree.leaves(left))
    assert 2 * counts.kv_cache_bytes_per_token(small) == counts.kv_cache_bytes_per_token(config)
    head = 2 * 16 * 32
    assert 2 * (counts.decode_flops(small, 9) - head) == counts.decode_flops(config, 9) - head


def test_impossible_skips_are_refused() -> None:
    with pytest.raises(ConfigError, match="speedup: is 0.5: give a factor of at least 1"):
        evenly_spaced(8, 0.5)
    with pytest.raises(ConfigError, match="speedup: is 8, which leaves 1 of 8 layers: use at most 4"):
        evenly_spaced(8, 8)
    with pytest.raises(ConfigError, match=r"layers: are \[0, 5\] of 5: name layers of the model in ascending order"):
        with_layers(CONFIG, {}, (0, 5))
