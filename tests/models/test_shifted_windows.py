"""Windows side by side, shifted in half of the heads: masks drawn by hand are the oracle."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from models import cache, counts
from models.cache import Groups
from models.errors import ConfigError
from models.mixers import Attention, ShiftedWindows
from models.span import Span
from search.engine.decode import SlotPast
from search.engine.tree_pass import TreePast, chain_path
from tests.models.mixing import STREAM, alone, drawn, through
from tests.models.test_parts import quick

MIXER = ShiftedWindows(heads=4, kv_heads=2, window=4)
REGULAR = """
x.........
xx........
xxx.......
xxxx......
....x.....
....xx....
....xxx...
....xxxx..
........x.
........xx
"""
SHIFTED = """
x.........
xx........
..x.......
..xx......
..xxx.....
..xxxx....
......x...
......xx..
......xxx.
......xxxx
"""
MASKS = [np.array([[mark == "x" for mark in line] for line in mask.split()]) for mask in (REGULAR, SHIFTED)]


def seen_through(w, x):
    """One document x `[up to 10, d_model]`, float64: of four heads the first two see REGULAR, the others SHIFTED."""
    qkv, y = np.einsum("td,dgfh->tgfh", x, np.float64(w["qkv"])), 0
    for kv, query in np.ndindex(2, 2):
        q, k, v = qkv[:, kv, query], qkv[:, kv, 2], qkv[:, kv, 3]
        p = np.exp(q @ k.T / np.sqrt(q.shape[1])) * MASKS[kv][: len(x), : len(x)]
        y = y + p @ v / p.sum(1, keepdims=True) @ w["out"][kv, query]
    return y


def test_each_half_of_the_heads_sees_what_the_masks_show_and_windows_begin_with_a_document():
    w, x = drawn(MIXER), np.random.default_rng(1).standard_normal((2, 10, 16))
    np.testing.assert_allclose(through(MIXER, w, x), [seen_through(w, one) for one in x], rtol=1e-4, atol=1e-5)
    packed = np.concatenate([seen_through(w, x[0, :3]), seen_through(w, x[0, 3:])])
    found = through(MIXER, w, x[:1], np.array([[0] * 3 + [1] * 7]))[0]
    np.testing.assert_allclose(found, packed, rtol=1e-4, atol=1e-5)


def test_two_layers_reach_over_every_edge_where_windows_of_one_kind_never_do():
    regular, shifted = (mask.astype(int) for mask in MASKS)
    back = np.arange(10)[:, None] - np.arange(10)
    np.testing.assert_array_equal(np.linalg.matrix_power(regular, 5) > 0, regular > 0)
    both = np.linalg.matrix_power(regular + shifted, 5) > 0
    np.testing.assert_array_equal(both, back >= 0)


@pytest.mark.parametrize(("window", "shift"), [(4, 0), (4, 2), (5, 3), (12, 6)])
def test_visible_keys_and_counted_pairs_are_those_of_a_loop(window, shift):
    begins = [-shift + window * i for i in range(9)]
    span, at = Span(1.0, window, shift=shift), np.arange(16)
    seen = [[key <= query and not any(key < b <= query for b in begins) for key in at] for query in at]
    np.testing.assert_array_equal(span.visible(at[:, None], at), seen)
    for before in range(16):
        for seq in range(1, 17 - before):
            assert span.pairs(seq, before) == np.sum(seen[before : before + seq])


def test_windows_count_from_the_prompt_wherever_a_rows_own_tokens_and_guesses_are_kept():
    """Three tokens in a page, three of the row's own, and four new ones, which are read at once or guessed."""
    rng, four = np.random.default_rng(2), np.arange(4)
    q, k, v = rng.standard_normal((3, 10, 1, 4)).astype(np.float32)
    span = Span(0.5, 4, shift=2)
    p = np.exp(0.5 * q[:, 0] @ k[:, 0].T) * MASKS[1]
    want = (p @ v[:, 0] / p.sum(1, keepdims=True))[6:]

    def stored(start, stop, room):
        return {name: jnp.zeros((1, 1, room, 4)).at[0, 0, : stop - start].set(x[start:stop, 0])
                for name, x in (("k", k), ("v", v))}  # fmt: skip

    one = np.ones(1, np.int32)
    shared = Groups(*map(jnp.asarray, (np.zeros((1, 1), int), np.zeros((1, 1), int), one, 3 * one, 1)))
    new = {"k": jnp.asarray(k[None, 6:]), "v": jnp.asarray(v[None, 6:])}
    positions, pages, own = jnp.asarray(6 + four)[None], stored(0, 3, 4), (stored(3, 6, 8),)
    read = SlotPast(positions, pages, own, {}, (shared,), jnp.asarray(3 + four)[None], one > 0)
    depth, path = chain_path(1, 4)
    guessed = TreePast(positions, pages, (shared,), own, stored(0, 0, 4), 3 * one, 3 * one, depth, depth, path, 0)
    found = quick(lambda q: [past.attend(q, new, span)[0] for past in (read, guessed)])(q[None, 6:])
    for y in found:
        np.testing.assert_allclose(y[0, :, 0], want, rtol=1e-5, atol=1e-6)


def test_costs_are_of_the_pairs_that_the_masks_show_and_all_keys_are_kept():
    assert MIXER.flops(STREAM, 10) == sum(2 * 4 * 4 * mask.sum() for mask in MASKS)  # two heads of four features each
    kept = {name: (k.shape, k.window) for name, k in MIXER.kept(STREAM).items()}
    assert kept == {"k0": ((1, 4), 4), "v0": ((1, 4), 4), "k2": ((1, 4), 4), "v2": ((1, 4), 4)}
    config = alone(MIXER)
    assert cache.windowed(config)
    assert counts.kv_cache_bytes_per_token(config) == counts.kv_cache_bytes_per_token(alone(Attention(4, 2)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window": 5}, r"window: is 5, of which half is the shift: give an even number"),
        ({}, r"window: is None, of which half is the shift: give an even number"),
        ({"window": 4, "heads": 3, "kv_heads": 3}, r"kv_heads: is 3, of which half is shifted: give an even number"),
    ],
)
def test_windows_and_heads_without_halves_are_refused_by_name(fields, message):
    with pytest.raises(ConfigError, match=message):
        ShiftedWindows(**fields).resolved(STREAM)
