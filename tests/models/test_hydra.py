"""Product-key memory against a search of all values, and chunks of tokens that go to experts together."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import counts
from models.channels import Experts, ProductKeys
from models.config import Layer, ModelConfig
from models.errors import ConfigError
from models.mixers import ChunkExperts
from models.past import WholeSequence
from models.routers import Hashed

SEQ, CHUNK = 11, 4
BASE = ModelConfig(vocab_size=16, d_model=8, n_layers=1, n_heads=2, d_ff=12)
CHUNKS = ChunkExperts(Experts(4, 2, 6, dispatch="dropless"), chunk=CHUNK)


def drawn(part: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    w = {name: rng.normal(size=one.shape).astype(np.float32) for name, one in part.weights(BASE.stream).items()}
    return w, rng.normal(size=(2, SEQ, 8)).astype(np.float32)


def test_two_small_searches_find_the_best_of_all_values() -> None:
    part = ProductKeys(keys=5, top_k=3, heads=2, half=4)
    w, x = drawn(part)
    want = np.zeros_like(x)
    for at in np.ndindex(2, SEQ):
        for head in range(2):
            q = x[at] @ w["query"][:, head].reshape(8, -1)
            q = q.reshape(2, 4)
            q = q / np.sqrt(np.square(q).mean(-1, keepdims=True) + BASE.norm_eps) * w["query_gain"]
            scores = [q[0] @ w["keys"][head, 0, a] + q[1] @ w["keys"][head, 1, b] for a in range(5) for b in range(5)]
            best = np.argsort(scores)[-3:]
            share = np.exp(np.array(scores)[best] - max(scores))
            want[at] += share / share.sum() @ w["values"][best]
    found = part.apply(BASE.stream, w, jnp.asarray(x), jnp.zeros(x.shape[:2], jnp.int32))[0]
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)


def test_a_memory_grows_in_values_that_cost_no_products() -> None:
    small, large = (
        dataclasses.replace(BASE, pattern=(Layer(channel=ProductKeys(keys=n, top_k=3)),)) for n in (8, 16)
    )
    values, sub_keys = (16**2 - 8**2) * 8, 2 * 2 * (16 - 8) * 32
    assert counts.params(large) - counts.params(small) == values + sub_keys
    assert counts.params_active(large) - counts.params_active(small) == sub_keys
    assert counts.forward_flops(large, SEQ) - counts.forward_flops(small, SEQ) == SEQ * 2 * sub_keys


def test_a_chunk_goes_where_the_mean_of_the_chunk_before_it_sends_it() -> None:
    w, x = drawn(CHUNKS)
    segments = np.repeat([[0, 1]], [6, SEQ - 6], axis=1).repeat(2, 0)  # a second document begins inside of a chunk
    key = np.empty_like(x)
    for row, t in np.ndindex(2, SEQ):
        first = 0 if t < 6 else 6
        start = first + (t - first) // CHUNK * CHUNK
        key[row, t] = w["first"] if start == first else x[row, start - CHUNK : start].mean(0)
    want = CHUNKS.experts.apply(BASE.stream, w, jnp.asarray(x), jnp.zeros((2, SEQ), jnp.int32), jnp.asarray(key))[0]
    past = WholeSequence(jnp.arange(SEQ)[None], jnp.asarray(segments))
    found, _, routing = CHUNKS.apply(BASE.stream, w, jnp.asarray(x), past)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
    assert routing.peak.shape == (2,)


def test_experts_of_a_chunk_are_not_told_of_its_own_tokens() -> None:
    w, x = drawn(CHUNKS)
    past = WholeSequence(jnp.arange(SEQ)[None])

    def at(x: jax.Array) -> jax.Array:
        return CHUNKS.apply(BASE.stream, w, x, past)[0][0, CHUNK + 1].sum()

    read = np.abs(np.asarray(jax.grad(at)(jnp.asarray(x))))[0].max(-1) > 0
    assert read[:CHUNK].all() and read[CHUNK + 1]  # through the weights of the experts, and itself
    assert not read[CHUNK] and not read[CHUNK + 2 :].any()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: ProductKeys(keys=4, top_k=5), "top_k: is 5 of 4 keys"),
        (lambda: ChunkExperts(Experts()), "experts.dispatch: is capacity"),
        (lambda: ChunkExperts(Experts(dispatch="dropless", router=Hashed())), "experts.router: is Hashed"),
        (lambda: dataclasses.replace(BASE, bias="all", pattern=(Layer(channel=ProductKeys()),)),
         "model.bias: 'all' asks for biases that ProductKeys does not have"),
    ],
)  # fmt: skip
def test_parts_that_cannot_be_are_refused(make: Any, error: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make()
    assert str(raised.value).startswith(error)
