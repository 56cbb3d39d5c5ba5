"""Votes: what a search's candidates answer together, on the device by codes of answers, on the host by any answer.

An answer that cannot be read, and a particle that wrote no end, never vote (as in sc-genrm-scaling; search-and-learn
lets the empty answer win). Of equal totals the answer that was given first wins.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from search.strategies.strategy import Answer, Strategy, View

UNREAD = -1  # the code of an answer that cannot be read
ROUNDING = 1e-6  # totals of float32 weights that differ by less, relatively, are equal: a sum depends on its order

# (tokens [max_tokens] int32, -1 after the end; length [] int32) -> the answer's code [] int32, UNREAD for none
AnswerOf = Callable[[jax.Array, jax.Array], jax.Array]


def whole(tokens: jax.Array, length: jax.Array) -> jax.Array:
    """The whole text is the answer; its code is a hash of 31 bits."""
    place = jnp.arange(tokens.shape[0])
    return hashed(tokens, place, place < length)


def hashed(tokens: jax.Array, place: jax.Array, inside: jax.Array) -> jax.Array:
    """A sum of well mixed words (the finaliser of MurmurHash3), one for every token and its place, as 31 bits."""
    word = (tokens.astype(jnp.uint32) + 1) * jnp.uint32(0x9E3779B1) + place.astype(jnp.uint32) * jnp.uint32(0x85EBCA77)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        word = (word ^ (word >> shift)) * jnp.uint32(factor)
    word = word ^ (word >> 16)
    return (jnp.where(inside, word, 0).sum(dtype=jnp.uint32) >> 1).astype(jnp.int32)


def codes(answer_of: AnswerOf, view: View) -> jax.Array:
    """The answer of every particle `[store]` int32; UNREAD for one that is not complete."""
    return jnp.where(view.complete, jax.vmap(answer_of)(view.tokens, view.length), UNREAD)


def totals(codes: jax.Array, weights: jax.Array) -> jax.Array:
    """What the answer of every particle got in all `[n]` float32; 0 for UNREAD. codes `[n]` int32, weights `[n]`."""
    same = (codes[:, None] == codes) & (codes != UNREAD)
    return jnp.where(same, weights, 0.0).sum(-1)


def winners(codes: jax.Array, weights: jax.Array) -> jax.Array:
    """The particles `[n]` bool with an answer that got most, all tied answers included."""
    got = totals(codes, weights)
    return (codes != UNREAD) & (weights > 0) & (got >= got.max() * (1 - ROUNDING))


def leader(codes: jax.Array, weights: jax.Array) -> jax.Array:
    """The first particle `[]` int32 with the winning answer, -1 when nobody voted."""
    won = winners(codes, weights)
    return jnp.where(won.any(), jnp.argmax(won), -1)


def by_vote(strategy: Strategy, answer_of: AnswerOf, weighted: bool = False) -> Strategy:
    """The same search, answered by a vote of its complete particles: one each, or the strategy's own weights."""

    def answer(state: Any, view: View) -> Answer:
        found = codes(answer_of, view)
        own = strategy.answer(state, view).weight
        weight = jnp.where(found == UNREAD, 0.0, own if weighted else (own > 0).astype(jnp.float32))
        return Answer(weight, leader(found, weight))

    name = f"{strategy.name}_{'weighted_vote' if weighted else 'majority'}"
    return dataclasses.replace(strategy, name=name, answer=answer)


class Elected(NamedTuple):
    """The winning answer, its share of all votes that could be read, and the first candidate that gave it."""

    answer: Hashable
    share: float
    candidate: int


def elect(answers: Sequence[Hashable], weights: Sequence[float] | None = None) -> Elected | None:
    """Majority of answers, or weighted vote; None and the empty text are no answers. None when nobody voted."""
    got: dict[Hashable, float] = {}
    first: dict[Hashable, int] = {}
    for place, answer in enumerate(answers):
        weight = 1.0 if weights is None else float(weights[place])
        if answer is not None and answer != "" and weight > 0:
            got[answer] = got.get(answer, 0.0) + weight
            first.setdefault(answer, place)
    if not got:
        return None
    most = max(got.values())
    best = next(answer for answer, total in got.items() if total >= most * (1 - ROUNDING))
    return Elected(best, got[best] / float(np.sum(list(got.values()))), first[best])
