"""Attention over divided positions equals attention over whole sequences, forwards and backwards."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from models import context
from models.causal_attention import causal_attention, reference_attention
from models.context import SPLIT, divided_attention, merge
from models.past import WholeSequence
from models.sharding import MeshConfig, make_mesh
from models.span import Span

BATCH, SEQ, HEADS, KV_HEADS, HEAD_DIM = 2, 16, 4, 2, 4


def drawn(seq: int = SEQ) -> list[np.ndarray]:
    """q, k, v and a cotangent of the result."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((BATCH, seq, h, HEAD_DIM), np.float32) for h in (HEADS, KV_HEADS, KV_HEADS, HEADS)]


def attention_and_gradient(f: Any) -> Any:
    def run(q: jax.Array, k: jax.Array, v: jax.Array, d: jax.Array) -> tuple:
        out, vjp = jax.vjp(f, q, k, v)
        return out, *vjp(d)

    return run


def on_four_devices(f: Any, arrays: list[np.ndarray]) -> Any:
    mesh = make_mesh(MeshConfig(context=4), jax.devices()[:4])
    with jax.set_mesh(mesh):
        return jax.jit(f)(*(jax.device_put(x, NamedSharding(mesh, SPLIT)) for x in arrays))


SEGMENTS = np.array([[0] * 5 + [1] * 11, [0] * 16], np.int32)  # a document that ends within a stretch of four


@pytest.mark.parametrize(
    "form",
    [
        {"span": Span(0.5)},
        {"span": Span(0.5), "segments": SEGMENTS},
        {"span": Span(0.5, 6)},
        {"span": Span(0.5, 3, 2.0)},
    ],
    ids=["plain", "documents", "window", "softcap"],
)
@pytest.mark.parametrize("kind", ["gather", "ring"])
def test_every_kind_equals_attention_over_the_whole_sequence(kind: Any, form: dict[str, Any]) -> None:
    arrays = drawn()
    want = jax.jit(attention_and_gradient(partial(reference_attention, **form)))(*arrays)
    divided = partial(divided_attention, kind, **form)
    got = on_four_devices(attention_and_gradient(divided), arrays)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["gather", "ring"])
def test_blocks_of_queries_change_nothing(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "SCORES", 2 * BATCH * HEADS * (SEQ if kind == "gather" else 4))  # two queries each
    arrays = drawn()
    form: dict[str, Any] = {"span": Span(0.5, window=6), "segments": SEGMENTS}
    want = jax.jit(attention_and_gradient(partial(reference_attention, **form)))(*arrays)
    got = on_four_devices(attention_and_gradient(partial(divided_attention, kind, **form)), arrays)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_the_longest_block_that_fits_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    q = jnp.zeros((BATCH, 12, HEADS, HEAD_DIM))
    for queries, length in ((100, 12), (12, 12), (11, 6), (5, 4), (1, 1), (0, 1)):
        monkeypatch.setattr(context, "SCORES", queries * BATCH * HEADS * 7)
        assert context.block_length(q, keys=7) == length


def test_bfloat16_keeps_its_type_and_its_accuracy() -> None:
    arrays = [x.astype(jnp.bfloat16) for x in drawn()]
    exact = [x.astype(jnp.float32) for x in arrays]
    want = jax.jit(attention_and_gradient(partial(reference_attention, span=Span(0.5))))(*exact)
    got = on_four_devices(attention_and_gradient(partial(divided_attention, "ring", span=Span(0.5))), arrays)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == jnp.bfloat16
        assert np.linalg.norm(a.astype(jnp.float32) - b) <= 0.02 * np.linalg.norm(b)  # 8 bits, summed in float32


def test_the_ring_holds_no_whole_sequence_of_keys() -> None:
    """Nothing in the compiled program but its arguments is as long as the sequence, nor are keys gathered."""
    arrays = drawn()
    mesh = make_mesh(MeshConfig(context=4), jax.devices()[:4])
    with jax.set_mesh(mesh):
        placed = [jax.device_put(x, NamedSharding(mesh, SPLIT)) for x in arrays]
        run = jax.jit(attention_and_gradient(partial(divided_attention, "ring", span=Span(0.5))))
        text = run.lower(*placed).compile().as_text()
    assert "collective-permute" in text and "all-gather" not in text


def test_a_length_that_devices_do_not_divide_is_attended_to_whole() -> None:
    arrays = drawn(seq=6)[:3]
    mesh = make_mesh(MeshConfig(context=4), jax.devices()[:4])
    with jax.set_mesh(mesh):
        past = WholeSequence(jnp.arange(6)[None], context="ring")
        got = jax.jit(lambda q, k, v: past.attend(q, {"k": k, "v": v}, Span(0.5))[0])(*arrays)
    np.testing.assert_allclose(got, causal_attention(*arrays, span=Span(0.5)), rtol=1e-5, atol=1e-6)


def test_merging_gives_no_weight_to_keys_that_nobody_sees() -> None:
    seen, unseen = jnp.ones((1, 2, 1, 3)), jnp.full((1, 2, 1, 3), 7.0)
    output, total = merge(seen, jnp.zeros((1, 1, 2)), unseen, jnp.full((1, 1, 2), -1e30))
    assert np.array_equal(output, seen) and not np.any(total)
