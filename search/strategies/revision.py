"""Sequential revision (Snell et al. 2024): chains of attempts, each written after the last ones; chains in parallel."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from models.errors import require
from search.config import SearchConfig
from search.searcher import HostScores
from search.strategies.setting import Setting, StrategyConfig, needs
from search.strategies.strategy import WHOLE, Answer, Choice, Strategy, View, by_score
from search.strategies.survey import Tags
from search.strategies.votes import UNREAD, AnswerOf, codes, leader


def revision(
    samples: int,
    attempts: int,
    separator: int,
    end: int,
    max_tokens: int,
    *,
    window: int = 4,
    pick: Literal["verifier", "majority"] = "verifier",
    answer_of: AnswerOf | None = None,
    scored: bool = True,
) -> Strategy:
    """samples / attempts chains of `attempts` attempts: the ratio of sequential to parallel work at a fixed number.

    A text is "attempt # attempt # attempt end": every attempt sees the prompt and up to `window` attempts before it,
    each closed by `separator`. While all of them fit the window an attempt goes on from the cache of the last one;
    then the remembered ones are read anew, which the ledger counts. A separator that the model writes ends its attempt
    as `end` does. A chain stops at an attempt without an end, or without room: max_tokens, the search's own, must hold
    window + 1 attempts. Every attempt is a particle of its own, what it saw included; scores judge the whole particle
    on the device, and with `of_last_attempt` the last attempt on the host.

    pick: the best score; or the majority inside every chain, then among the chains (ties: the first), by `answer_of`
    the attempt alone.
    """
    require(
        attempts >= 1 and samples % attempts == 0, "attempts", f"{attempts} do not divide {samples}", "use a divisor"
    )
    require(window >= 1, "window", f"is {window}", "remember 1 attempt or more")
    require(pick in ("verifier", "majority"), "pick", f"is {pick!r}", "use 'verifier' or 'majority'")
    require(pick != "majority" or answer_of is not None, "answer_of", "is missing for the majority", "give one")
    require(pick != "verifier" or scored, "scored", "is False, but the verifier picks", "leave it True")
    chains = samples // attempts
    rows = jnp.arange(chains)
    remembered = jax.vmap(partial(_remembered, separator=separator, end=end, window=window))

    def select(key: jax.Array, state: Any, view: View) -> tuple[Choice, Any]:
        first = view.round == 0
        last = jnp.where(first, rows, (view.round - 1) * chains + rows)
        cut, forced, room = remembered(view.tokens[last], view.length[last])
        live = first | (view.complete[last] & room)
        choice = strategy.choice(
            last,
            live,
            targets=view.round * chains + rows,
            steps=WHOLE,
            cut=jnp.where(first, -1, cut),
            forced=jnp.where(first, -1, forced),
            done=(view.round >= attempts) | ~live.any(),
        )
        # A chain that has stopped leaves its places empty.
        return choice._replace(targets=jnp.where(live, choice.targets, samples)), state

    def control(token: jax.Array, length: jax.Array, aux: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.where(token == separator, end, token), aux

    def answer(state: Any, view: View) -> Answer:
        if pick == "verifier":
            return by_score(state, view)
        assert answer_of is not None
        found = codes(partial(last_answer, answer_of, separator), view)
        weight = (found != UNREAD).astype(jnp.float32)
        table, votes = found.reshape(attempts, chains), weight.reshape(attempts, chains)
        best = jax.vmap(leader, in_axes=1)(table, votes)  # [chains], -1 for a chain that nobody can read
        speaker = jnp.maximum(best, 0) * chains + rows
        chain = leader(jnp.where(best < 0, UNREAD, found[speaker]), jnp.ones(chains))
        return Answer(weight, jnp.where(chain < 0, -1, speaker[jnp.maximum(chain, 0)]))

    strategy = Strategy(
        "revision", chains, samples, lambda: (), select, answer,
        replaces=False, cuts=True, forced=max_tokens, control=control, scored=scored,
    )  # fmt: skip
    return strategy


def _remembered(
    tokens: jax.Array, length: jax.Array, separator: int, end: int, window: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(cut, forced `[max_tokens]`, whether there is room) for the attempt after this one."""
    max_tokens, index = len(tokens), jnp.arange(len(tokens))
    kept = length - (tokens[jnp.maximum(length - 1, 0)] == end)
    parted = tokens == separator
    drop = parted.sum() >= window
    start = jnp.where(drop, jnp.argmax(parted) + 1, kept)  # from here on it is read anew
    moved = jnp.take(tokens, index + start, mode="clip")
    forced = jnp.where(index < kept - start, moved, jnp.where(index == kept - start, separator, -1))
    cut = jnp.where(drop, 0, kept)
    return cut, forced, cut + kept - start + 1 < max_tokens


def last_answer(answer_of: AnswerOf, separator: int, tokens: jax.Array, length: jax.Array) -> jax.Array:
    """`answer_of` of what stands behind the last separator."""
    index = jnp.arange(len(tokens))
    start = jnp.max(jnp.where(tokens == separator, index + 1, 0))
    own = jnp.where(index < length - start, jnp.take(tokens, index + start, mode="clip"), -1)
    return answer_of(own, length - start)


def last_attempt(tokens: Sequence[int], separator: int) -> tuple[int, ...]:
    """What stands behind the last separator."""
    own = tuple(tokens)
    return own[len(own) - own[::-1].index(separator) :] if separator in own else own


def of_last_attempt(scores: HostScores, separator: int) -> HostScores:
    """The same verifier, shown only the last attempt of every particle."""

    def score(payloads: Sequence[Any], texts: Sequence[tuple[int, ...]]) -> Any:
        return scores(payloads, [last_attempt(text, separator) for text in texts])

    return score


@dataclass(frozen=True)
class Revision(StrategyConfig):
    """Sequential revision: chains of attempts, each written after the last ones."""

    samples: int
    attempts: int  # of each of the samples / attempts chains
    separator: str  # text of the token between attempts
    window: int = 4  # attempts before it that an attempt sees
    pick: Literal["verifier", "majority"] = "verifier"  # what answers
    scored: bool = True  # False, for the majority: no verifier looks
    answer: str | None = None  # how an attempt's answer is read, such as number:####; None: as the search says

    name = "revision"
    tags = Tags("hybrid", ("stimulation", "verification"), "any text", ("accuracy", "scalability"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `revision`."""
        at = needs(setting, self.name)
        return revision(
            self.samples, self.attempts, self._separator(at), at.ends[0], at.search.max_tokens, window=self.window,
            pick=self.pick, answer_of=at.answer_of(self.answer) if self.pick == "majority" else None,
            scored=self.scored,
        )  # fmt: skip

    def sized(self, search: SearchConfig) -> SearchConfig:
        """An attempt is one step, whatever the search's delimiters."""
        return dataclasses.replace(search, delimiters=(), tokens_per_step=None)

    def scorer(self, setting: Setting) -> Any:
        """A verifier of the host is shown the last attempt alone."""
        if setting.scorer is None or hasattr(setting.scorer, "flops_per_token"):
            return setting.scorer
        return of_last_attempt(setting.scorer, self._separator(setting))

    def _separator(self, setting: Setting) -> int:
        return setting.token(self.separator, f"{self.name}.separator")
