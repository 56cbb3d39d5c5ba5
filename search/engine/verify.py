"""Verification: which guesses of a tree stand, and which token follows the last that does.

Both rules leave the distribution of the output exactly as it is without guesses.

rejection  Siblings in order: token y, drawn from q, is accepted with probability min(1, p(y) / q(y)); else p becomes
           the normalised positive part of p - q, and q loses y (Leviathan et al. 2023; Miao et al. 2024 for trees;
           without replacement as in DySpec, Xiong et al. 2024). Accepts most, but which tokens come out depends on
           what was guessed, so on the other samples of the batch.
seeded     The target draws at every node with the key that it would use there without guesses, and guesses stand as
           long as they are what it drew (Daliri et al. 2025 call it drafter-invariant). The tokens are those of plain
           decoding, one by one.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from search.engine import sampling
from search.engine.drafters import Tree


class Verdict(NamedTuple):
    """What comes out of one tree.

    accepted `[n]` int32: guesses that stand. path `[n, nodes]` int32: the nodes on the way, the root first; entries
    after `accepted` are 0. token `[n]` int32: what follows the last of them (-1 where the target had no token).
    """

    accepted: jax.Array
    path: jax.Array
    token: jax.Array

    def emitted(self, tree: Tree) -> jax.Array:
        """The new tokens `[n, nodes]` int32 of each row, of which the first `accepted + 1` count."""
        after = jnp.pad(self.path[:, 1:], ((0, 0), (0, 1)))
        guesses = jnp.take_along_axis(tree.token, after, axis=1)
        last = jnp.arange(self.path.shape[1]) == self.accepted[:, None]
        return jnp.where(last, self.token[:, None], guesses)


def verify_seeded(drawn: jax.Array, tree: Tree) -> Verdict:
    """Follow what the target drew at every node: `drawn` `[n, nodes]` int32."""
    n, nodes = tree.token.shape

    def visit(i: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        at, accepted, path = carry
        expected = jnp.take_along_axis(drawn, at[:, None], axis=1)[:, 0]
        moves = (tree.parent[:, i] == at) & (tree.token[:, i] == expected)
        return _move(moves, i, accepted, path, at)

    zeros = jnp.zeros(n, jnp.int32)
    at, accepted, path = jax.lax.fori_loop(1, nodes, visit, (zeros, zeros, jnp.zeros((n, nodes), jnp.int32)))
    return Verdict(accepted, path, jnp.take_along_axis(drawn, at[:, None], axis=1)[:, 0])


def verify_rejection(keys: jax.Array, target: jax.Array, tree: Tree) -> Verdict:
    """Accept or reject siblings in order; keys `[n, 2]` uint32, target `[n, nodes, vocab]` float32 probabilities."""
    n, nodes = tree.token.shape
    each = jnp.arange(n)

    def visit(i: jax.Array, carry: tuple) -> tuple:
        at, accepted, path, p, q = carry
        token = tree.token[:, i]
        tested = tree.parent[:, i] == at
        candidates = tree.candidates[each, at]
        own = (candidates == token[:, None]) & (q > 0)
        drafted = jnp.where(own, q, 0.0).sum(-1)
        uniform = _uniform(keys, i)
        moves = tested & (uniform * drafted < p[each, token])
        at, accepted, path = _move(moves, i, accepted, path, at)

        def after_rejection() -> tuple[jax.Array, jax.Array]:
            rest = jnp.maximum(p.at[each[:, None], candidates].add(-q), 0.0)
            total = rest.sum(-1, keepdims=True)
            rest = jnp.where(total > 0, rest / jnp.maximum(total, 1e-30), p)  # nothing left: rounding rejected it
            others = jnp.where(own, 0.0, q)
            others = others / jnp.maximum(others.sum(-1, keepdims=True), 1e-30)
            rejected = (tested & ~moves)[:, None]
            return jnp.where(rejected, rest, p), jnp.where(rejected, others, q)

        p, q = jax.lax.cond((tested & ~moves).any(), after_rejection, lambda: (p, q))
        p = jnp.where(moves[:, None], target[:, i], p)
        q = jnp.where(moves[:, None], tree.draft[:, i], q)
        return at, accepted, path, p, q

    zeros = jnp.zeros(n, jnp.int32)
    start = (zeros, zeros, jnp.zeros((n, nodes), jnp.int32), target[:, 0], tree.draft[:, 0])
    _, accepted, path, p, _ = jax.lax.fori_loop(1, nodes, visit, start)
    token = jax.vmap(sampling.invert)(sampling.step_keys(keys, jnp.zeros(n, jnp.int32)), p)
    return Verdict(accepted, path, jnp.where(p.sum(-1) > 0, token, -1))


def _move(
    moves: jax.Array, i: jax.Array, accepted: jax.Array, path: jax.Array, at: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    accepted = accepted + moves
    here = moves[:, None] & (jnp.arange(path.shape[1]) == accepted[:, None])
    return jnp.where(moves, i, at), accepted, jnp.where(here, i, path)


def _uniform(keys: jax.Array, i: jax.Array) -> jax.Array:
    drawn = sampling.step_keys(keys, jnp.broadcast_to(i, keys.shape[:1]))
    return jax.vmap(lambda key: sampling.uniform_pair(key)[0])(drawn)
