"""Drafts: trees of guessed tokens, from an n-gram table of sibling samples, from the text so far, or from a model.

A drafter says for a node of the tree which tokens may follow and with which probability; `grow` decides which of them
become nodes. It is DySpec's rule (Xiong et al. 2024): every place where a node can be put has an estimate of the
probability that verification gets there, the best place is taken, and it leaves two new ones, below the new node and
beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from search.engine import sampling, stop

MULTIPLIER = 0x9E3779B1  # 2^32 / golden ratio: Knuth's multiplicative hash
MIX = 0x85EBCA6B  # from MurmurHash3


class Tree(NamedTuple):
    """Guessed continuations of n rows; node 0 is the token they follow, which is not a guess.

    token, parent, depth `[n, nodes]` int32: a parent comes before its children, siblings stand in the order in which
    they were drawn, and a node that is not in use has parent -1, as the root has.
    path `[n, nodes, nodes]` bool: path[i, j] says that j is i or above it.
    candidates, draft `[n, nodes, k]` int32 and float32: what the drafter said would follow each node. The
    probabilities sum to one, or to zero where it had no guess.
    """

    token: jax.Array
    parent: jax.Array
    depth: jax.Array
    path: jax.Array
    candidates: jax.Array
    draft: jax.Array

    @property
    def drafted(self) -> jax.Array:
        """How many guesses each row has, `[n]` int32."""
        return (self.parent >= 0).sum(-1)


class Node(NamedTuple):
    """One node of every row: its place in the tree `[]`, token and depth `[n]`, path `[n, nodes]` and the last tokens
    `window` `[n, width]` up to and with its own (-1: before the beginning)."""

    place: jax.Array
    token: jax.Array
    depth: jax.Array
    path: jax.Array
    window: jax.Array


class Guess(NamedTuple):
    """What may follow a node: candidates `[n, k]` int32, probability `[n, k]` float32 (sum one, or zero for no guess).

    trust `[n]` float32: the share of the guesses that verification will accept, as far as the drafter knows.
    first `[n]` int32: the candidate to try first when nothing is drawn at random; -1 for the most probable.
    """

    candidates: jax.Array
    probability: jax.Array
    trust: jax.Array
    first: jax.Array

    def padded(self, k: int) -> Guess:
        """The same with k columns."""
        more = ((0, 0), (0, k - self.candidates.shape[1]))
        return self._replace(candidates=jnp.pad(self.candidates, more), probability=jnp.pad(self.probability, more))


Expand = Callable[[Any, Node], tuple[Any, Guess]]  # (state, node) -> (state, what may follow it)


def grow(
    expand: Expand,
    state: Any,
    root: jax.Array,
    window: jax.Array,
    nodes: int,
    *,
    branch: bool = True,
    keys: jax.Array | None = None,
) -> tuple[Tree, Any]:
    """A tree of up to `nodes` nodes, the root among them, and the drafter's state after it.

    root `[n]` int32, window `[n, width]` as in Node, the root included. branch: a tree, else a chain. keys `[n, 2]`
    uint32: draw children from the drafter's probabilities without replacement, as the rejection rule needs; None:
    take the most probable.
    """
    n, width = window.shape
    zeros = jnp.zeros(n, jnp.int32)
    only_root = jnp.zeros((n, nodes), bool).at[:, 0].set(True)
    state, guess = expand(state, Node(jnp.int32(0), root, zeros, only_root, window))
    k = guess.candidates.shape[1]

    def put(whole: jax.Array, i: jax.Array | int, new: jax.Array) -> jax.Array:
        return whole.at[:, i].set(new.astype(whole.dtype))

    tree = Tree(
        token=put(jnp.zeros((n, nodes), jnp.int32), 0, root),
        parent=jnp.full((n, nodes), -1, jnp.int32),
        depth=jnp.zeros((n, nodes), jnp.int32),
        path=jnp.zeros((n, nodes, nodes), bool).at[:, 0].set(only_root),
        candidates=put(jnp.zeros((n, nodes, k), jnp.int32), 0, guess.candidates),
        draft=put(jnp.zeros((n, nodes, k)), 0, guess.probability),
    )
    worth = put(jnp.zeros((n, nodes)), 0, jnp.where(guess.probability.sum(-1) > 0, guess.trust, 0.0))
    windows = put(jnp.zeros((n, nodes, width), jnp.int32), 0, window)
    first = put(jnp.full((n, nodes), -1, jnp.int32), 0, guess.first)
    each = jnp.arange(n)

    def add(i: jax.Array, carry: tuple) -> tuple:
        state, tree, left, worth, windows, first = carry
        above = jnp.argmax(worth, axis=-1)
        value, open_to = worth[each, above], left[each, above]
        which = _choose(open_to, first[each, above], keys, i)
        token = tree.candidates[each, above, which]
        share = open_to[each, which] / jnp.maximum(open_to.sum(-1), 1e-30)
        exists = value > 0
        path = tree.path[each, above] | (jnp.arange(nodes) == i)
        depth = tree.depth[each, above] + 1
        window = stop.push(windows[each, above], token)
        state, guess = expand(state, Node(i, token, depth, path, window))
        probability = jnp.where(exists[:, None], guess.probability, 0.0)
        tree = Tree(
            put(tree.token, i, token), put(tree.parent, i, jnp.where(exists, above, -1)), put(tree.depth, i, depth),
            put(tree.path, i, path), put(tree.candidates, i, guess.candidates), put(tree.draft, i, probability),
        )  # fmt: skip
        left = put(left.at[each, above, which].set(0.0), i, probability)
        beside = jnp.where(left[each, above].sum(-1) > 0, value * (1 - share), 0.0) if branch else jnp.zeros(n)
        below = jnp.where(probability.sum(-1) > 0, value * share * guess.trust, 0.0)
        worth = put(worth.at[each, above].set(beside), i, below)
        return state, tree, left, worth, put(windows, i, window), put(first.at[each, above].set(-1), i, guess.first)

    carry = (state, tree, tree.draft, worth, windows, first)
    state, tree, *_ = jax.lax.fori_loop(1, nodes, add, carry)
    return tree, state


def _choose(open_to: jax.Array, first: jax.Array, keys: jax.Array | None, i: jax.Array) -> jax.Array:
    """Which of the candidates `[n, k]` that are left to take, `[n]`."""
    if keys is None:
        return jnp.where(first >= 0, first, jnp.argmax(open_to, axis=-1))
    drawn = sampling.step_keys(keys, jnp.broadcast_to(i, keys.shape[:1]))
    uniform = jax.vmap(lambda key: sampling.uniform_pair(key)[0])(drawn)
    return jax.vmap(sampling.first_above)(uniform, open_to)


# -- the n-gram table -----------------------------------------------------------------------------------------------


class Table(NamedTuple):
    """Mean next-token probabilities after the n-grams seen so far (STAND, Song et al. 2025), in a hash table.

    mark `[size]` uint32: which n-gram of which problem is here (0: none); seen `[size]` float32: how often it was
    seen; tokens, probability `[size, k]` int32 and float32: the k most probable next tokens.
    """

    mark: jax.Array
    seen: jax.Array
    tokens: jax.Array
    probability: jax.Array


def empty_table(size: int, k: int) -> Table:
    """A table for `size` n-grams with `k` next tokens each."""
    return Table(jnp.zeros(size, jnp.uint32), jnp.zeros(size), jnp.zeros((size, k), jnp.int32), jnp.zeros((size, k)))


def look_up(table: Table, stream: jax.Array, window: jax.Array) -> Guess:
    """The next tokens after the longest n-gram that the table knows.

    stream `[n, 2]` uint32: seed and problem, whose samples share what they learn; window `[n, width]` int32.
    """
    n, width = window.shape
    found = jnp.zeros(n, bool)
    place = jnp.zeros(n, jnp.int32)
    for order in range(width, 0, -1):
        at, mark, whole = _place(table, stream, window, order)
        hit = whole & (table.mark[at] == mark) & ~found
        place, found = jnp.where(hit, at, place), found | hit
    probability = jnp.where(found[:, None], table.probability[place], 0.0)
    total = probability.sum(-1, keepdims=True)
    probability = jnp.where(total > 0, probability / jnp.maximum(total, 1e-30), 0.0)
    count = table.seen[place]
    return Guess(table.tokens[place], probability, count / (count + 1), jnp.full(n, -1, jnp.int32))


def learn(table: Table, stream: jax.Array, window: jax.Array, probability: jax.Array, live: jax.Array) -> Table:
    """The table after m observations: probabilities `[m, vocab]` of what follows the windows `[m, width]`.

    stream `[m, 2]`; live `[m]` bool leaves out the others. Where several observations of one call fall on the same
    place the first one counts, so that the result does not depend on the order of a scatter.
    """
    m, width = window.shape
    new_probability, new_tokens = jax.lax.top_k(probability, table.tokens.shape[1])
    for order in range(1, width + 1):
        at, mark, whole = _place(table, stream, window, order)
        use = live & whole
        size = table.mark.shape[0]
        first = (
            jnp.full(size, m, jnp.int32).at[jnp.where(use, at, size)].min(jnp.arange(m, dtype=jnp.int32), mode="drop")
        )
        use = use & (first[at] == jnp.arange(m))
        same = table.mark[at] == mark
        count = jnp.where(same, table.seen[at], 0.0)
        tokens, mean = _merged(table.tokens[at], table.probability[at], new_tokens, new_probability, count)
        target = jnp.where(use, at, size)
        table = Table(
            table.mark.at[target].set(mark, mode="drop"),
            table.seen.at[target].set(count + 1, mode="drop"),
            table.tokens.at[target].set(tokens, mode="drop"),
            table.probability.at[target].set(mean, mode="drop"),
        )
    return table


def _merged(
    tokens: jax.Array, mean: jax.Array, new_tokens: jax.Array, new: jax.Array, count: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The k most probable tokens `[m, k]` of the running mean of `count` observations and one more."""
    mean, new = mean * (count / (count + 1))[:, None], new / (count + 1)[:, None]
    same = (tokens[:, :, None] == new_tokens[:, None, :]) & (mean > 0)[:, :, None] & (new > 0)[:, None, :]
    mean = mean + (same * new[:, None, :]).sum(-1)
    fresh = jnp.where(same.any(1), 0.0, new)
    most, which = jax.lax.top_k(jnp.concatenate([mean, fresh], axis=1), tokens.shape[1])
    return jnp.take_along_axis(jnp.concatenate([tokens, new_tokens], axis=1), which, axis=1), most


def _place(table: Table, stream: jax.Array, window: jax.Array, order: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(place, mark, whether the n-gram is whole) of the last `order` tokens of each window, `[n]` each."""
    gram = window[:, window.shape[1] - order :]
    value = jnp.full(len(window), order, jnp.uint32)
    for part in (*stream.T, *gram.T):
        value = (value ^ part.astype(jnp.uint32)) * jnp.uint32(MULTIPLIER)
        value = value ^ (value >> 15)
    other = (value * jnp.uint32(MIX)) ^ (value >> 13)
    return (other % jnp.uint32(len(table.mark))).astype(jnp.int32), value | 1, (gram >= 0).all(-1)


# -- the text so far ------------------------------------------------------------------------------------------------


def find(history: jax.Array, length: jax.Array, window: jax.Array) -> Guess:
    """What followed the latest occurrence of the longest end of the window in the text itself (Saxena 2023).

    history `[n, max_len]` int32, of which the first `length` `[n]` tokens count; window `[n, width]`.
    """
    index = jnp.arange(history.shape[1])
    longest = jnp.zeros(history.shape, jnp.int32)
    matching = index < (length - 1)[:, None]  # something must follow
    for back in range(window.shape[1]):
        token = window[:, -1 - back : window.shape[1] - back]
        shifted = jnp.pad(history, ((0, 0), (back, 0)), constant_values=-2)[:, : history.shape[1]]
        matching = matching & (shifted == token) & (token >= 0)
        longest = longest + matching
    score = jnp.where(longest > 0, longest * history.shape[1] + index, -1)
    best = jnp.argmax(score, axis=-1)
    found = jnp.take_along_axis(score, best[:, None], axis=1) >= 0
    follows = jnp.minimum(best + 1, history.shape[1] - 1)[:, None]
    token = jnp.take_along_axis(history, follows, axis=1)
    length_found = jnp.take_along_axis(longest, best[:, None], axis=1)[:, 0]
    trust = length_found / (length_found + 1.0)  # a longer match is right more often
    return Guess(jnp.where(found, token, 0), found.astype(jnp.float32), trust, jnp.full(len(history), -1, jnp.int32))


def either(preferred: Guess, other: Guess) -> Guess:
    """The preferred guess where there is one, else the other."""
    k = max(preferred.candidates.shape[1], other.candidates.shape[1])
    a, b = preferred.padded(k), other.padded(k)
    has = a.probability.sum(-1) > 0

    def pick(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.where(has.reshape(-1, *[1] * (x.ndim - 1)), x, y)

    return Guess(*map(pick, a, b))


def most_probable(probability: jax.Array, k: int, first: jax.Array | None = None) -> Guess:
    """The k most probable tokens of a distribution `[n, vocab]`, or all of a small vocabulary, as a guess.

    first `[n]` int32: the token to try first, ignored where it is not among them.
    """
    n, vocab = probability.shape
    if vocab <= k:
        candidates, kept = jnp.broadcast_to(jnp.arange(vocab, dtype=jnp.int32), (n, vocab)), probability
    else:
        kept, candidates = jax.lax.top_k(probability, k)
    kept = kept / jnp.maximum(kept.sum(-1, keepdims=True), 1e-30)
    which = jnp.full(n, -1, jnp.int32)
    if first is not None:
        hits = (candidates == first[:, None]) & (kept > 0)
        which = jnp.where(hits.any(-1), jnp.argmax(hits, axis=-1), -1).astype(jnp.int32)
    return Guess(candidates, kept, jnp.ones(n), which)
