"""ParScale: one stream is the model itself, several are the loop over them, and they part by their prefixes alone."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import counts, transformer
from models.channels import Experts
from models.config import Layer, ModelConfig
from models.errors import ConfigError
from models.mixers import Streamed
from models.positions import rotary_angles, rotate
from models.wiring import PreNorm, Streams
from tests.models.test_parts import quick

P, N = 2, 4
BASE = ModelConfig(vocab_size=32, d_model=16, n_layers=1, n_heads=4, n_kv_heads=2, d_ff=24, tied_embeddings=False)
ROWS, SEQ = 2, 6


def streams(count: int, prefix: int) -> ModelConfig:
    pattern = (Layer(Streamed(streams=count, prefix=prefix)),)
    return dataclasses.replace(BASE, pattern=pattern, wiring=Streams(count)).resolved()


def by_hand(config: ModelConfig, params: Any, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(logits, the normed streams `[streams, rows, seq, d_model]`), stream by stream and head by head."""
    base, seq = BASE.resolved(), tokens.shape[1]
    count = config.wired.copies
    angles = rotary_angles(jnp.arange(seq)[None], 4, base.rope_theta, None)

    def normed(x: jax.Array, gain: jax.Array) -> jax.Array:
        return x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + base.norm_eps) * gain

    def attention(w: Any, x: jax.Array, p: int) -> jax.Array:
        qkv = jnp.einsum("bsd,dkgh->bskgh", x, w["qkv"])
        q, k, v = qkv[..., :2, :].reshape(ROWS, seq, 4, 4), qkv[..., 2, :], qkv[..., 3, :]
        unturned = q
        q, k = (rotate(y, *angles) for y in (q, k))
        found = []
        for head in range(4):
            kv = head // 2
            keys, values = k[:, :, kv], v[:, :, kv]
            visible = jnp.tril(jnp.ones((seq, seq), bool))
            scores = jnp.where(visible, jnp.einsum("bsh,bth->bst", q[:, :, head], keys) / 2, -jnp.inf)
            first, before = w["prefix_k"][:, p, kv], w["prefix_v"][:, p, kv]
            scores = jnp.concatenate([jnp.einsum("bsh,th->bst", unturned[:, :, head], first) / 2, scores], -1)
            values = jnp.concatenate([jnp.broadcast_to(before, (ROWS, N, 4)), values], 1)
            found.append(jnp.einsum("bst,bth->bsh", jax.nn.softmax(scores), values))
        y = jnp.stack(found, 2).reshape(ROWS, seq, 2, 2, 4)
        return jnp.einsum("bskgh,kghd->bsd", y, w["out"])

    ends = []
    for p in range(count):
        x = params["tokens"][tokens]
        w = params["block_0"]
        x = x + attention(w["attention"], normed(x, w["attention_norm"]["gain"]), p)
        hidden = jnp.einsum("bsd,dgf->bsgf", normed(x, w["feedforward_norm"]["gain"]), w["feedforward"]["gate_up"])
        x = x + (jax.nn.silu(hidden[..., 0, :]) * hidden[..., 1, :]) @ w["feedforward"]["down"]
        ends.append(normed(x, params["final_norm"]["gain"]))
    w = params["wiring"]
    joined = jax.nn.silu(sum(end @ w["join_up"][p] for p, end in enumerate(ends))) @ w["join_down"]
    share = jax.nn.softmax(joined) * 0.99 + 0.01 / count
    return sum(share[..., p, None] * end for p, end in enumerate(ends)) @ params["head"], jnp.stack(ends)


def test_streams_are_the_loop_over_them_and_part_by_their_prefixes_alone() -> None:
    tokens = jax.random.randint(jax.random.key(1), (ROWS, SEQ), 0, 32)
    config = streams(P, N)

    params = quick(partial(transformer.init, config))(jax.random.key(0))
    block = params["block_0"]["attention"]
    first = {name: jnp.broadcast_to(block[name][:, :1], block[name].shape) for name in ("prefix_k", "prefix_v")}
    alike = params | {"block_0": params["block_0"] | {"attention": block | first}}

    @quick
    def both(params: Any) -> tuple:
        return transformer.apply(config, params, tokens), *by_hand(config, params, tokens)

    found, want, ends = map(np.asarray, both(params))
    np.testing.assert_allclose(found, want, rtol=2e-5, atol=2e-5)
    assert np.abs(ends[0] - ends[1]).max() > 1e-3
    found, want, ends = map(np.asarray, both(alike))
    np.testing.assert_allclose(found, want, rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_allclose(found, ends[0] @ np.asarray(params["head"]), rtol=2e-5, atol=2e-5)  # shares sum to one


def test_one_stream_without_a_prefix_is_the_model_itself_bit_for_bit() -> None:
    tokens = jax.random.randint(jax.random.key(1), (ROWS, SEQ), 0, 32)
    one, base = streams(1, 0), dataclasses.replace(BASE, wiring=PreNorm())
    params = quick(partial(transformer.init, base))(jax.random.key(0))
    assert counts.params(one) == counts.params(base)
    assert counts.forward_flops(one, SEQ) == counts.forward_flops(base, SEQ)
    want = quick(partial(transformer.apply, base))(params, tokens)
    np.testing.assert_array_equal(quick(partial(transformer.apply, one))(params, tokens), want)


def test_parameters_flops_and_caches_grow_as_published() -> None:
    base, many = BASE.resolved(), streams(P, N)
    prefixes, joining = 2 * P * N * 2 * 4, P * 16 * 16 + P * 16
    assert counts.params(many) - counts.params(base) == prefixes + joining
    assert counts.kv_cache_bytes_per_token(many) == P * counts.kv_cache_bytes_per_token(base)
    head, seen = 2 * 16 * 32, 4 * 4 * 4 * N  # scores and values of the prefix
    grown = P * (counts.decode_flops(base, 9) - head + seen) + head + 2 * joining
    assert counts.decode_flops(many, 9) == grown


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"wiring": Streams(2)}, "model.wiring.streams: hands on 2 of a token, but Attention mixes 1"),
        ({"pattern": (Layer(Streamed(streams=2)),)},
         "model.wiring.streams: hands on 1 of a token, but Streamed mixes 2"),
        ({"pattern": (Layer(Streamed(streams=3)),), "wiring": Streams(2)},
         "model.wiring.streams: hands on 2 of a token, but Streamed mixes 3"),
        ({"pattern": (Layer(Streamed(streams=2), Experts(4, 2, 8)),), "wiring": Streams(2)},
         "model.wiring.streams: has streams, which Experts does not take"),
        ({"pattern": (Layer(Streamed(streams=2, window=4)),), "wiring": Streams(2)},
         "model.pattern[0].mixer.window: is set, which would hide the prefix"),
    ],
)  # fmt: skip
def test_parts_that_a_wiring_forbids_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        dataclasses.replace(BASE, **fields)
    assert str(error.value).startswith(message)
