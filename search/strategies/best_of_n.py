"""Independent samples: best-of-N, and greedy decoding as its special case."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from search.strategies.strategy import WHOLE, Answer, Choice, Strategy, View, aggregate


def best_of_n(samples: int, agg: str = "last", scored: bool = True) -> Strategy:
    """`samples` independent generations; the answer is the complete one of the highest score, the first of equals.

    scored: False leaves the scorer out; the answer is then the first complete one, for votes to choose from.
    """

    def select(key: jax.Array, state: Any, view: View) -> tuple[Choice, Any]:
        return strategy.choice(jnp.arange(samples), ~view.ended, steps=WHOLE, done=view.round > 0), state

    def answer(state: Any, view: View) -> Answer:
        weight = jnp.where(view.complete, aggregate(view, agg), 0.0)
        ranked = jnp.where(view.complete, weight, -1.0)
        return Answer(weight, jnp.where(view.complete.any(), jnp.argmax(ranked), -1))

    strategy = Strategy("best_of_n", samples, samples, lambda: (), select, answer, scored=scored)
    return strategy


def greedy() -> Strategy:
    """The most likely token at every step, once."""

    def select(key: jax.Array, state: Any, view: View) -> tuple[Choice, Any]:
        return strategy.choice(jnp.zeros(1), ~view.ended, steps=WHOLE, temperature=0.0, done=view.round > 0), state

    strategy = Strategy("greedy", 1, 1, lambda: (), select, scored=False, tempers=True)
    return strategy
