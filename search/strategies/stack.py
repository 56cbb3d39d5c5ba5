"""Stacks: a composition by name, as one search: drafts, then ranks and revisions in turn, then a choice or a vote.

What `compose.py` says of typed components holds here, of those that a policy and a verifier make (Archon, Saad-Falcon
et al. 2024, arXiv:2409.15254): generate, rank, critique and revise, verify or unit-test (the search's verifier), vote.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from models.errors import require
from search.config import SearchConfig
from search.strategies.revision import last_answer, of_last_attempt
from search.strategies.setting import Setting, StrategyConfig, needs
from search.strategies.strategy import WHOLE, Answer, Choice, Strategy, View
from search.strategies.survey import Tags
from search.strategies.votes import UNREAD, AnswerOf, codes, leader


class Chains(NamedTuple):
    """Of every draft `[samples]`: the place of its last complete attempt (its own before there is one), and whether it
    is still a candidate."""

    at: jax.Array
    kept: jax.Array


def stack(
    samples: int,
    keep: Sequence[int],
    mark: Sequence[int],
    end: int,
    max_tokens: int,
    *,
    behind: int | None = None,
    pick: Literal["verifier", "majority"] = "verifier",
    answer_of: AnswerOf | None = None,
    scored: bool = True,
) -> Strategy:
    """`samples` drafts; then for each number but the last of `keep`: the best so many are written anew; then the best
    `keep[-1]` of what there is choose the answer, by score or by majority.

    A revision goes on from the text before it, without its `end`, and the tokens of `mark`; what it writes may be a
    critique first, when the attempt stands behind the last token `behind` (None: behind the mark's last). One that does
    not end leaves the attempt before it. Every attempt is a particle, and scores judge the whole of it, or on the host
    with `revision.of_last_attempt` the attempt. A draft that does not end is no candidate; of equal scores the first
    draft's is the better. max_tokens: the search's own.
    """
    _check(samples, keep, mark, pick, answer_of, scored)
    rows, revisions, kept = jnp.arange(samples), len(keep) - 1, jnp.asarray(keep)
    separator = mark[-1] if behind is None and mark else behind
    forced = jnp.full((samples, max_tokens), -1).at[:, : len(mark)].set(jnp.asarray(mark, jnp.int32))

    def select(key: jax.Array, state: Chains, view: View) -> tuple[Choice, Chains]:
        first = view.round == 0
        after = _settled(state, view, kept[jnp.clip(view.round - 1, 0, revisions)])
        state = Chains(jnp.where(first, state.at, after.at), jnp.where(first, state.kept, after.kept))
        length = view.length[state.at]
        cut = length - (view.tokens[state.at, jnp.maximum(length - 1, 0)] == end)
        live = first | (state.kept & (cut + len(mark) < max_tokens))
        choice = strategy.choice(
            state.at, live, targets=view.round * samples + rows, steps=WHOLE, cut=jnp.where(first, -1, cut),
            forced=jnp.where(first, -1, forced), done=(view.round > revisions) | ~live.any(),
        )  # fmt: skip
        # A chain that is not revised leaves its place empty.
        return choice._replace(targets=jnp.where(live, choice.targets, samples * len(keep))), state

    def answer(state: Chains, view: View) -> Answer:
        final = _settled(state, view, kept[revisions])
        score = jnp.where(final.kept, view.score[final.at], -1.0)
        if pick == "verifier":
            best = jnp.where(final.kept.any(), jnp.argmax(score), -1)
        else:
            assert answer_of is not None
            read = answer_of if separator is None else partial(last_answer, answer_of, separator)
            found = jnp.where(final.kept, codes(read, view)[final.at], UNREAD)
            best = leader(found, jnp.ones(samples))
        weight = jnp.zeros(len(view.score)).at[final.at].max(jnp.maximum(score, 0.0))
        return Answer(weight, jnp.where(best < 0, -1, final.at[jnp.maximum(best, 0)]))

    def init() -> Chains:
        return Chains(rows, jnp.ones(samples, bool))

    strategy = Strategy(
        "stack", samples, samples * len(keep), init, select, answer,
        replaces=False, cuts=True, forced=max_tokens, scored=scored,
    )  # fmt: skip
    return strategy


def _check(
    samples: int, keep: Sequence[int], mark: Sequence[int], pick: str, answer_of: AnswerOf | None, scored: bool
) -> None:
    """ConfigError for what is no stack."""
    require(samples >= 1, "samples", f"is {samples}", "give 1 or more")
    fix = "say how many answer, and before that how many are revised each time"
    require(len(keep) >= 1 and min(keep) >= 1, "keep", f"is {list(keep)}", fix)
    require(len(mark) >= 1 or len(keep) == 1, "mark", "is empty", "give the text that asks for a revision")
    require(pick in ("verifier", "majority"), "pick", f"is {pick!r}", "use 'verifier' or 'majority'")
    require(pick != "majority" or answer_of is not None, "answer_of", "is missing for the majority", "give one")
    ranked = any(k < samples for k in keep) or pick == "verifier"
    require(scored or not ranked, "scored", "is False, but scores rank", "leave it True")


def _settled(state: Chains, view: View, keep: jax.Array) -> Chains:
    """After a round: new attempts count where they are complete, and the best `keep` of all stay."""
    samples = len(state.at)
    rows = jnp.arange(samples)
    new = (view.round - 1) * samples + rows
    at = jnp.where(view.complete[new] & state.kept, new, state.at)
    candidate = state.kept & view.complete[at]
    score = jnp.where(candidate, view.score[at], -1.0)
    ahead = (score[:, None] < score) | ((score[:, None] == score) & (rows[:, None] > rows))
    return Chains(at, candidate & (ahead.sum(-1) < keep))


@dataclass(frozen=True)
class Stack(StrategyConfig):
    """A composition of drafts, ranks, revisions and a vote, layer upon layer."""

    samples: int  # drafts
    keep: tuple[int, ...] = (1,)  # how many of the best are written anew each time, and lastly how many answer
    mark: str = ""  # text that asks for a critique and a revision
    behind: str | None = None  # text of the token that a revised attempt stands behind; None: the mark's last
    pick: Literal["verifier", "majority"] = "verifier"  # which of those that answer
    scored: bool = True  # False, where nothing is ranked: no verifier looks
    answer: str | None = None  # how an attempt's answer is read, such as number:####; None: as the search says

    name = "stack"
    tags = Tags("hybrid", ("stimulation", "verification", "aggregation"), "any text", ("accuracy", "scalability"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `stack`."""
        at = needs(setting, self.name)
        mark = at.tokens(self.mark, f"{self.name}.mark") if self.mark else ()
        return stack(
            self.samples, self.keep, mark, at.ends[0], at.search.max_tokens, behind=self._behind(at), pick=self.pick,
            answer_of=at.answer_of(self.answer) if self.pick == "majority" else None, scored=self.scored,
        )  # fmt: skip

    def sized(self, search: SearchConfig) -> SearchConfig:
        """An attempt is one step, whatever the search's delimiters."""
        return dataclasses.replace(search, delimiters=(), tokens_per_step=None)

    def scorer(self, setting: Setting) -> Any:
        """A verifier of the host is shown the last attempt alone."""
        separator = self._behind(setting)
        if setting.scorer is None or hasattr(setting.scorer, "flops_per_token") or separator is None:
            return setting.scorer
        return of_last_attempt(setting.scorer, separator)

    def _behind(self, at: Setting) -> int | None:
        if self.behind is not None:
            return at.token(self.behind, f"{self.name}.behind")
        return at.tokens(self.mark, f"{self.name}.mark")[-1] if self.mark else None
