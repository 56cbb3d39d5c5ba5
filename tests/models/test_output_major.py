"""A matrix stored with its outputs in rows gives the same products, and the engine the same samples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import output_major, presets, transformer
from models.contraction import contract
from models.output_major import OutputMajor, arrange
from models.quantize import quantize
from search.engine.config import EngineConfig
from search.engine.engine import Engine
from search.engine.request import Request
from search.engine.sampling import Sampling

CONFIG = EngineConfig(slots=3, max_len=48, page_size=16, prefill_chunk=32, stage_tokens=8)


@pytest.mark.parametrize(("shape", "inputs"), [((24, 40), 1), ((24, 4, 3, 8), 1), ((4, 2, 8, 24), 3)])
def test_products_are_those_of_the_weight_as_declared(shape: tuple[int, ...], inputs: int) -> None:
    rng = np.random.default_rng(0)
    w = jnp.asarray(rng.normal(size=shape), jnp.float32)
    x = jnp.asarray(rng.normal(size=(2, 5, *shape[:inputs])), jnp.float32)
    other = output_major.output_major(w, inputs)
    assert other.ndim == w.ndim and other.values.shape[0] == np.prod(shape[inputs:])
    expected = contract(x, w, inputs)
    found = contract(x, other, inputs)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5)  # float32 sums of 64 numbers of order 1
    rounded = contract(x.astype(jnp.bfloat16), other.astype(jnp.bfloat16), inputs)
    assert rounded.dtype == jnp.bfloat16


def test_small_models_tables_vectors_and_quantised_weights_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    model = presets.MICRO.resolved()
    params = transformer.init(model, jax.random.key(0))
    assert arrange(params, transformer.weights(model)) is params
    monkeypatch.setattr(output_major, "CACHED_BYTES", 0)
    made = arrange(params, transformer.weights(model))
    assert isinstance(made["block_1"]["feedforward"]["down"], OutputMajor)
    assert made["tokens"] is params["tokens"] and made["block_0"]["feedforward"]["up_bias"].shape == (256,)
    assert params["block_1"]["feedforward"]["down"].shape == (256, 64)
    stored = arrange(quantize(params, model, "int8"), transformer.weights(model))
    assert not isinstance(stored["block_0"]["feedforward"]["up"], OutputMajor)


@pytest.mark.slow
def test_the_engine_draws_the_same_samples_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model = presets.MICRO.resolved()
    params = transformer.init(model, jax.random.key(0))
    work = [Request(p, tuple(range(1, 4 + 9 * p)), 2, 16, Sampling(temperature=float(p % 2))) for p in range(3)]
    plain = {(c.problem, c.sample): c for c in Engine(model, params, CONFIG).generate(work)}
    monkeypatch.setattr(output_major, "CACHED_BYTES", 0)
    engine = Engine(model, params, CONFIG)
    assert isinstance(engine.device.params["block_0"]["attention"]["qkv"], OutputMajor)
    for done in engine.generate(work):
        expected = plain[done.problem, done.sample]
        assert done.tokens == expected.tokens
        np.testing.assert_allclose(done.logprobs, expected.logprobs, atol=2e-5)
