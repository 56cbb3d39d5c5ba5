"""Near-ties: how far, in nats of logits, each drawn token was from being another one.

Two programs that sum the same float32 numbers in different orders get logits that differ by some e. Every quantity here
is scaled so that a token can differ only where its gap is below 2 e.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from search.engine import sampling
from search.engine.sampling import SamplingRows


def gap_to_flip(
    keys: jax.Array,
    logits: jax.Array,
    rows: SamplingRows,
    history: jax.Array,
    forced: jax.Array,
    token: jax.Array,
) -> jax.Array:
    """Gap `[n]` float32 of the tokens `[n]` that `sampling.draw` drew from these arguments; inf where it was forced.

    Greedy: the distance of the two best scores. Sampled: a change e of the logits moves a cumulative probability F by
    at most 2 e F (1 - F) / temperature, so the distance d of the uniform number from the nearest cumulative probability
    counts as 4 d temperature. Filters count with the distance from their own thresholds; typical sampling as 0.
    """
    seen = history if rows.filters.repetition else None

    def one(
        key: jax.Array,
        logits: jax.Array,
        row: SamplingRows,
        seen: jax.Array | None,
        force: jax.Array,
        token: jax.Array,
    ) -> jax.Array:
        kept = sampling.keep(logits, row, seen)
        others = jnp.where(jnp.arange(kept.weight.size) == kept.best, 0.0, kept.weight.reshape(-1))
        greedy = -jnp.log(others.max())
        gap = jnp.minimum(_draw_gap(key, kept.weight, row), _filter_gap(logits, row, seen, kept.weight))
        gap = jnp.where(row.temperature == 0, greedy, gap)
        return jnp.where(force >= 0, jnp.inf, gap)

    return jax.vmap(one)(keys, logits.astype(jnp.float32), rows, seen, forced, token)


def _draw_gap(key: jax.Array, weight: jax.Array, row: SamplingRows) -> jax.Array:
    """Distance of both uniform numbers of the two-level draw from where they would choose differently."""
    u_block, u_inside = sampling.uniform_pair(key)
    blocks = sampling.per_block(weight, jnp.sum)
    inside, _ = sampling.block_at(weight, sampling.first_above(u_block, blocks), 0.0)
    distance = jnp.minimum(_to_edge(u_block, blocks), _to_edge(u_inside, inside))
    return 4 * distance * row.temperature


def _to_edge(u: jax.Array, weight: jax.Array) -> jax.Array:
    """|u - F| to the nearest cumulative share F of `weight` `[k]`, its last one, 1, left out."""
    share = jnp.cumsum(weight) / jnp.maximum(weight.sum(), 1e-30)
    last = jnp.cumsum(weight[::-1])[::-1] - weight <= 0  # nothing above: an edge that no draw can cross
    return jnp.where(last, jnp.inf, jnp.abs(u - share)).min()


def _filter_gap(logits: jax.Array, row: SamplingRows, seen: jax.Array | None, kept: jax.Array) -> jax.Array:
    """Distance from the nearest change of the set of tokens that top-k, top-p and min-p keep."""
    f = row.filters
    if not (f.top_k or f.top_p or f.min_p or f.typical):
        return jnp.float32(jnp.inf)
    free = dataclasses.replace(
        row, filters=dataclasses.replace(f, top_k=False, top_p=False, min_p=False, typical=False)
    )
    weight = sampling.keep(logits, free, seen).weight
    gap = jnp.float32(jnp.inf)
    scale = jnp.where(row.temperature == 0, 1.0, row.temperature)

    def between(before: jax.Array, after: jax.Array) -> jax.Array:
        dropped = jnp.where(after > 0, 0.0, before).max()
        lowest = jnp.where(after > 0, after, jnp.inf).min()
        return jnp.where(dropped > 0, scale * (jnp.log(lowest) - jnp.log(dropped)), jnp.inf)

    if f.top_k:
        after = sampling.keep_top_k(weight, row.top_k)
        gap, weight = jnp.minimum(gap, between(weight, after)), after
    if f.top_p:
        after = sampling.keep_top_p(weight, row.top_p)
        total, lowest = weight.sum(), jnp.where(after > 0, after, jnp.inf).min()
        share = after.sum() / total
        edge = jnp.minimum(jnp.abs(share - row.top_p), jnp.abs(row.top_p - (share - lowest / total)))
        edge = jnp.where(row.top_p >= 1, jnp.inf, jnp.minimum(4 * scale * edge, between(weight, after)))
        gap, weight = jnp.minimum(gap, edge), after
    if f.min_p:
        off = jnp.abs(jnp.log(jnp.maximum(weight, 1e-38)) - jnp.log(jnp.maximum(row.min_p, 1e-38)))
        gap = jnp.minimum(gap, jnp.where(row.min_p > 0, scale * jnp.where(weight > 0, off, jnp.inf).min(), jnp.inf))
    if f.typical:
        gap = jnp.where(row.typical_p < 1, 0.0, gap)
    return gap
