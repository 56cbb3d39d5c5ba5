"""Attention over caches equals attention over whole sequences, and bits do not depend on what lies around a row."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import cache
from models.cache import Groups, Partial, Tiles
from models.span import Span

KV, GROUP, HEAD_DIM, PAGE = 2, 2, 8, 4
HEADS = KV * GROUP
SPANS = [Span(0.3), Span(0.3, window=5), Span(0.3, softcap=2.0), Span(0.3, 3, 1.5)]


def stored(k: np.ndarray | jax.Array, v: np.ndarray | jax.Array) -> dict[str, jax.Array]:
    """What a layer keeps."""
    return {"k": jnp.asarray(k), "v": jnp.asarray(v)}


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def reference(q: np.ndarray, k: np.ndarray, v: np.ndarray, visible: np.ndarray, span: Span) -> np.ndarray:
    """softmax attention in float64: q `[n, heads, d]`, k, v `[length, kv, d]`, visible `[n, length]`."""
    q, k, v = (x.astype(np.float64) for x in (q, np.repeat(k, GROUP, 1), np.repeat(v, GROUP, 1)))
    scores = span.scale * np.einsum("nhd,lhd->hnl", q, k)
    if span.softcap:
        scores = span.softcap * np.tanh(scores / span.softcap)
    weights = np.where(visible, np.exp(scores - scores.max()), 0)
    return np.einsum("hnl,lhd->nhd", weights / weights.sum(-1, keepdims=True), v)


def in_window(query: np.ndarray, key: np.ndarray, span: Span) -> np.ndarray:
    seen = key <= query
    return seen & (key > query - span.window) if span.window else seen


def as_pages(x: np.ndarray, places: list[int], pool: int) -> np.ndarray:
    """x `[length, kv, d]` in pages of a pool full of garbage."""
    pages = normal(9, pool, KV, PAGE, HEAD_DIM) * 10
    for i, place in enumerate(places):
        part = x[i * PAGE : (i + 1) * PAGE].swapaxes(0, 1)
        pages[place, :, : part.shape[1]] = part
    return pages


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("n", [1, 3])
def test_prefix_and_own_blocks_together_are_attention_over_the_whole_sequence(span: Span, n: int) -> None:
    prefix, own = 10, np.array([7, 2, 0])  # tokens cached before the n new ones, per row
    rows, blocks = len(own), (4, 4, 8)
    k, v = normal(0, rows, prefix + 20, KV, HEAD_DIM), normal(1, rows, prefix + 20, KV, HEAD_DIM)
    k[:, :prefix], v[:, :prefix] = k[0, :prefix], v[0, :prefix]
    q = normal(2, rows, n, HEADS, HEAD_DIM)
    pages = stored(*(as_pages(x[0, :prefix], [3, 0, 4], 6) for x in (k, v)))
    groups = Groups(*map(jnp.asarray, (np.array([[0, 1, 2, 3]]), np.array([[3, 0, 4, 1]]), [3], [prefix], 1)))
    at = own[:, None] + np.arange(n)
    queries = cache.split_queries(jnp.asarray(q), KV)
    positions = jnp.tile(jnp.asarray(prefix + at), (1, GROUP))
    part = cache.shared_prefix(queries, positions, pages, groups, span, cache.nothing(queries, HEAD_DIM))
    first = 0
    for size in blocks:
        block = [normal(3, rows, KV, size, HEAD_DIM) for _ in range(2)]
        for r in range(rows):
            held = min(size, max(0, own[r] + n - first))
            for whole, new in zip(block, (k, v)):
                whole[r, :, :held] = new[r, prefix + first : prefix + first + held].swapaxes(0, 1)
        index = first + np.arange(size)
        visible = in_window(at[..., None], index, span)
        visible = jnp.tile(jnp.asarray(visible), (1, GROUP, 1))
        part = cache.merge(part, cache.own_block(queries, stored(*block), visible, span))
        first += size
    y = cache.join_queries(cache.finish(part), n)
    for r in range(rows):
        seen = in_window((prefix + at[r])[:, None], np.arange(prefix + 20), span)
        np.testing.assert_allclose(y[r], reference(q[r], k[r], v[r], seen, span), atol=2e-6)


@pytest.mark.parametrize("span", SPANS)
def test_a_packed_chunk_attends_as_its_sequences_do_one_by_one(span: Span) -> None:
    starts, stops = [5, 0, 0], [9, 6, 1]  # the first sequence has 5 tokens in its pages already
    places = [[2, 7, 0], [1, 5], [6]]
    k, v = normal(0, 3, 12, KV, HEAD_DIM), normal(1, 3, 12, KV, HEAD_DIM)
    q = normal(2, 3, 12, HEADS, HEAD_DIM)
    pages = [normal(9, 8, KV, PAGE, HEAD_DIM) for _ in range(2)]
    tiles, packed, positions, segments = [], [], [], []
    for i, (start, stop) in enumerate(zip(starts, stops)):
        for whole, x in zip(pages, (k, v)):
            for j, place in enumerate(places[i]):
                part = x[i, j * PAGE : min((j + 1) * PAGE, stop)].swapaxes(0, 1)
                whole[place, :, : part.shape[1]] = part
        tiles += [(place, i, j * PAGE, min(PAGE, stop - j * PAGE)) for j, place in enumerate(places[i])]
        packed.append(q[i, start:stop])
        positions += range(start, stop)
        segments += [i] * (stop - start)
    tiles = [*tiles[2:], *tiles[:2]]  # only the order inside of a sequence matters
    tiles = [tiles[-2], tiles[-1], *tiles[:-2]]
    columns = [jnp.asarray(column, jnp.int32) for column in zip(*tiles)]
    y = cache.paged_chunk(
        jnp.asarray(np.concatenate(packed)), jnp.asarray(positions), jnp.asarray(segments),
        stored(*pages), Tiles(*columns, jnp.int32(len(tiles))), span,
    )  # fmt: skip
    at = 0
    for i, (start, stop) in enumerate(zip(starts, stops)):
        seen = in_window(np.arange(start, stop)[:, None], np.arange(12), span)
        expected = reference(q[i, start:stop], k[i], v[i], seen, span)
        np.testing.assert_allclose(y[at : at + stop - start], expected, atol=2e-6)
        at += stop - start


def test_int8_entries_are_off_by_at_most_half_a_step() -> None:
    x = normal(0, 2, KV, 5, HEAD_DIM)
    x[0, 0, 0], x[1, 1, 2, 3] = 0, 100.0
    kept = cache.quantize_cache(jnp.asarray(x))
    back = np.asarray(cache.dequantize_cache(kept), np.float64)
    assert (np.abs(back - x) <= np.abs(x).max(-1, keepdims=True) / 254 * (1 + 1e-5)).all()
    assert kept.nbytes == x.size + 4 * x.size // HEAD_DIM
    new, at = normal(1, 2, 2, KV, HEAD_DIM), jnp.asarray([[1, 9], [-1, 4]])
    written = np.asarray(cache.dequantize_cache(cache.write_block(kept, jnp.asarray(new), at)))
    rounded = np.asarray(cache.dequantize_cache(cache.quantize_cache(jnp.asarray(new))))
    assert (written[0, :, 1] == rounded[0, 0]).all() and (written[1, :, 4] == rounded[1, 1]).all()
    assert (np.delete(written[0], 1, 1) == np.delete(back[0], 1, 1)).all()
    assert (written[1, :, :4] == back[1, :, :4]).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("m", [1, 3])
def test_attention_over_int8_is_attention_over_what_it_stands_for(m: int, dtype: str) -> None:
    rows, span = 3, Span(0.3, softcap=2.0)
    q = jnp.asarray(normal(0, rows, KV, m, HEAD_DIM), dtype)
    kept = {n: cache.quantize_cache(jnp.asarray(normal(i, rows, KV, PAGE, HEAD_DIM) * 3)) for n, i in zip("kv", (1, 2))}
    exact = {name: cache.dequantize_cache(x) for name, x in kept.items()}
    seen = jnp.asarray(np.random.default_rng(3).random((rows, m, PAGE)) < 0.7)
    groups = Groups(*map(jnp.asarray, (np.array([[0, 2, 1]]), np.array([[2, 0]]), [2], [2 * PAGE - 1], 1)))
    tiles = Tiles(*(jnp.asarray(x, jnp.int32) for x in ([1, 2], [0, 0], [0, PAGE], [PAGE, 2], 2)))
    packed, at = jnp.asarray(normal(4, 6, HEADS, HEAD_DIM), dtype), jnp.arange(6)
    atol = 2e-6 if dtype == "float32" else 0.05  # weights are rounded to 8 bits before they meet the values
    for found, expected in (
        (cache.own_block(q, kept, seen, span), cache.own_block(q.astype("float32"), exact, seen, span)),
        (
            cache.shared_prefix(q, at[:m] + jnp.zeros((rows, 1), int), kept, groups, span, cache.nothing(q, HEAD_DIM)),
            cache.shared_prefix(
                q.astype("float32"), at[:m] + jnp.zeros((rows, 1), int), exact, groups, span, cache.nothing(q, HEAD_DIM)
            ),
        ),
    ):
        np.testing.assert_allclose(cache.finish(found), cache.finish(expected), atol=atol)
    found = cache.paged_chunk(packed, at, at * 0, kept, tiles, span)
    np.testing.assert_allclose(
        found, cache.paged_chunk(packed.astype("float32"), at, at * 0, exact, tiles, span), atol=atol
    )


def test_merging_is_the_softmax_over_both_and_nothing_is_neutral_to_the_bit() -> None:
    q = jnp.asarray(normal(0, 3, KV, 2, HEAD_DIM))
    k, v = (jnp.asarray(normal(i, 3, KV, 8, HEAD_DIM)) for i in (1, 2))
    seen = jnp.ones((3, 2, 8), bool)
    whole = cache.own_block(q, stored(k, v), seen, Span(1.0))
    halves = [
        cache.own_block(q, stored(k[:, :, s], v[:, :, s]), seen[..., s], Span(1.0)) for s in (slice(4), slice(4, 8))
    ]
    np.testing.assert_allclose(cache.finish(cache.merge(*halves)), cache.finish(whole), atol=1e-6)
    hidden = cache.own_block(q, stored(k, v), ~seen, Span(1.0))
    for empty in (cache.nothing(q, HEAD_DIM), hidden):
        for merged in (cache.merge(whole, empty), cache.merge(empty, whole)):
            assert all(np.array_equal(a, b) for a, b in zip(merged, whole))
    assert not np.asarray(cache.finish(hidden)).any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("m", [1, 2])
def test_a_rows_bits_do_not_depend_on_its_place_or_on_the_other_rows(dtype: str, m: int) -> None:
    rows = 8
    q, k, v = (jnp.asarray(normal(i, rows, KV, n, HEAD_DIM)).astype(dtype) for i, n in enumerate((m, 16, 16)))
    held = np.random.default_rng(3).integers(1, 16, rows)
    visible = jnp.broadcast_to((np.arange(16) < held[:, None])[:, None], (rows, m, 16))
    run = jax.jit(lambda q, k, v, seen: cache.own_block(q, stored(k, v), seen, Span(0.3)))
    before: Partial = run(q, k, v, visible)
    order = np.random.default_rng(4).permutation(rows)
    after: Partial = run(q[order], k[order], v[order], visible[order])
    assert all(np.array_equal(a[order], b) for a, b in zip(before, after))


def test_writes_outside_of_a_block_or_of_the_pool_change_nothing() -> None:
    block = jnp.asarray(normal(0, 3, KV, 4, HEAD_DIM))
    new = jnp.ones((3, 2, KV, HEAD_DIM))
    written = cache.write_block(block, new, jnp.asarray([[-1, 0], [3, 4], [7, -9]]))
    expected = np.array(block)
    expected[0, :, 0] = expected[1, :, 3] = 1
    assert np.array_equal(written, expected)
    pages = cache.write_pages(block, new[:, 0], jnp.asarray([1, 3, 2]), jnp.asarray([2, 0, 1]))
    expected = np.array(block)
    expected[1, :, 2] = expected[2, :, 1] = 1
    assert np.array_equal(pages, expected)
