"""Sampling that stops early: windows until one is unanimous (ESC), or samples until the leader is settled.

The rules are those of `search.metrics.stopping`, which replays them on recorded samples with any answers; here they
run on the device, so that samples that are not needed are never drawn, and answers are codes (`AnswerOf`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.errors import require
from search.strategies.setting import Setting, StrategyConfig, answer_of
from search.strategies.strategy import WHOLE, Answer, Choice, Strategy, View
from search.strategies.survey import Tags
from search.strategies.votes import UNREAD, AnswerOf, codes, leader

# (codes [store] of the samples drawn so far, UNREAD elsewhere; how many; round) -> the samples that vote when it stops
# now [store] bool, and whether it does [] bool
Stop = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def early_stopping(answer_of: AnswerOf, window: int = 5, most: int = 40) -> Strategy:
    """Windows of `window` samples; the first unanimous one answers, else the majority of all (Li et al. 2024).

    A window with an answer that cannot be read is not unanimous. The last window is smaller where `window` does not
    divide `most`, and then never stops it early.
    """
    require(1 <= window <= most, "window", f"is {window} of at most {most} samples", "use 1 <= window <= most")
    place = jnp.arange(most)

    def stop(found: jax.Array, drawn: jax.Array, rounds: jax.Array) -> tuple[jax.Array, jax.Array]:
        start = (rounds - 1) * window
        inside = (place >= start) & (place < start + window)
        first = found[jnp.clip(start, 0, most - 1)]
        agreed = (rounds > 0) & (start + window <= most) & (first != UNREAD)
        agreed = agreed & jnp.where(inside, found == first, True).all()
        return jnp.where(agreed, inside, place < drawn), agreed

    return _stopping("early_stopping", answer_of, window, most, stop)


def adaptive_consistency(
    answer_of: AnswerOf, criterion: str = "beta", threshold: float | None = None, most: int = 40, batch: int = 1
) -> Strategy:
    """Samples until the leading answer is settled, at most `most`; answer the majority (Aggarwal et al. 2023).

    criterion: as in `search.metrics.adaptive_consistency`. batch: samples drawn side by side between two looks.
    """
    from search.metrics.stopping import settling  # metrics and laws are a second of import that no other strategy needs

    require(1 <= batch <= most, "batch", f"is {batch} of at most {most} samples", "use 1 <= batch <= most")
    certainty, bar, fewest = settling(criterion, threshold)
    # Settled at [leader, second] (share: [leader, all others]), in float64, ahead.
    ahead = [[certainty(a, b, np.array([a, b])) >= bar for b in range(most + 1)] for a in range(1, most + 1)]
    table, place = jnp.asarray([[False] * (most + 1), *ahead]), jnp.arange(most)

    def settled(counts: jax.Array, voters: jax.Array) -> jax.Array:
        top, second = jax.lax.top_k(counts, 2)[0] if most > 1 else (counts[0], jnp.int32(0))
        if criterion == "beta":
            return table[top, second]
        if criterion == "share":
            return table[top, voters - top]
        share = counts / jnp.maximum(voters, 1)
        kinds = (counts > 0).sum()
        entropy = -jnp.where(counts > 0, share * jnp.log(jnp.maximum(share, 1e-30)), 0.0).sum()
        # one lonely answer is set against one more
        lonely, n = kinds == 1, voters.astype(jnp.float32)
        against = -(n / (n + 1) * jnp.log(n / (n + 1)) + jnp.log(1 / (n + 1)) / (n + 1))
        relative = jnp.where(lonely, against / np.log(2), entropy / jnp.log(jnp.maximum(kinds, 2)))
        return 1 - relative >= jnp.float32(bar - 1e-6)

    def stop(found: jax.Array, drawn: jax.Array, rounds: jax.Array) -> tuple[jax.Array, jax.Array]:
        valid = found != UNREAD
        same = (found[:, None] == found) & valid
        first = valid & (jnp.argmax(same, axis=-1) == place)
        voters = valid.sum()
        # An unread sample changes nothing, so the rule is only asked when somebody voted.
        done = (voters >= fewest) & settled(jnp.where(first, same.sum(-1), 0), voters)
        return place < drawn, done

    return _stopping("adaptive_consistency", answer_of, batch, most, stop)


def _stopping(name: str, answer_of: AnswerOf, width: int, most: int, stop: Stop) -> Strategy:
    """`width` new samples a round into `most` places until `stop` says so."""
    place = jnp.arange(most)

    def looked(view: View) -> tuple[jax.Array, jax.Array, jax.Array]:
        drawn = jnp.minimum(view.round * width, most)
        found = codes(answer_of, view)
        return found, *stop(found, drawn, view.round)

    def select(key: jax.Array, state: Any, view: View) -> tuple[Choice, Any]:
        _, _, done = looked(view)
        targets = view.round * width + jnp.arange(width)
        empty = jnp.minimum(targets, most - 1)  # places that were never written hold the prompt alone
        done = (done & (view.round > 0)) | (view.round * width >= most)
        return strategy.choice(empty, targets < most, targets=targets, steps=WHOLE, done=done), state

    def answer(state: Any, view: View) -> Answer:
        found, voters, _ = looked(view)
        weight = (voters & (found != UNREAD) & (place < most)).astype(jnp.float32)
        return Answer(weight, leader(found, weight))

    def report(state: Any, view: View) -> dict[str, jax.Array]:
        return {"samples": (view.length > 0).sum()}

    strategy = Strategy(name, width, most, lambda: (), select, answer, replaces=False, scored=False, report=report)
    return strategy


@dataclass(frozen=True)
class EarlyStopping(StrategyConfig):
    """Windows of samples until one is unanimous."""

    window: int = 5
    most: int = 40  # samples
    answer: str | None = None  # how an answer is read, such as number:####; None: as the search says

    name = "early_stopping"
    tags = Tags("parallel", ("aggregation",), "answers", ("accuracy", "efficiency"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `early_stopping`."""
        return early_stopping(answer_of(self.answer, setting), self.window, self.most)


@dataclass(frozen=True)
class AdaptiveConsistency(StrategyConfig):
    """Samples until the leading answer is settled."""

    criterion: str = "beta"
    threshold: float | None = None  # of the criterion; None: its usual one
    most: int = 40  # samples
    batch: int = 1  # samples drawn side by side between two looks
    answer: str | None = None  # how an answer is read, such as number:####; None: as the search says

    name = "adaptive_consistency"
    tags = Tags("parallel", ("aggregation",), "answers", ("accuracy", "efficiency"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `adaptive_consistency`."""
        read = answer_of(self.answer, setting)
        return adaptive_consistency(read, self.criterion, self.threshold, self.most, self.batch)
