"""Pruning in mid-generation: the worst samples stop at a checkpoint, or as soon as the model grows unsure of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from models.errors import require
from search.config import SearchConfig
from search.population import Population
from search.strategies.setting import Setting, Stepwise, StrategyConfig, Voting, answer_of
from search.strategies.strategy import WHOLE, Aggregate, Answer, Choice, Strategy, View, aggregate
from search.strategies.survey import Tags
from search.strategies.votes import UNREAD, AnswerOf, codes, leader, totals
from search.verifiers.scorer import Unscored


def pruning(samples: int, checkpoints: tuple[int, ...] = (1,), drop: float = 0.5, agg: str = "last") -> Strategy:
    """`samples` generations; after so many steps (`checkpoints`) the worst share `drop` of those still going stops.

    The number dropped is rounded down, of equal scores the first stay, and what has ended costs nothing more and stays.
    The answer is the complete one of the highest score. Manvi et al. 2024 drop half to three quarters by a score that
    the model gives itself in one token; here any scorer serves.
    """
    rising = all(a < b for a, b in pairwise((0, *checkpoints)))
    require(bool(checkpoints) and rising, "checkpoints", f"are {checkpoints}", "give rising numbers of steps from 1")
    require(0 < drop < 1, "drop", f"is {drop}", "give a share between 0 and 1")
    spans = jnp.asarray([*(b - a for a, b in pairwise((0, *checkpoints))), WHOLE])

    def select(key: jax.Array, alive: jax.Array, view: View) -> tuple[Choice, jax.Array]:
        alive = jnp.where(view.round == 0, alive, kept(aggregate(view, agg), alive & ~view.ended, drop))
        live = alive & ~view.ended
        done = (view.round > len(checkpoints)) | ~live.any()
        steps = spans[jnp.minimum(view.round, len(checkpoints))]
        return strategy.choice(jnp.arange(samples), live, steps=steps, done=done), alive

    strategy = Strategy("pruning", samples, samples, lambda: jnp.ones(samples, bool), select)
    return strategy


def kept(score: jax.Array, going: jax.Array, drop: float) -> jax.Array:
    """Which of those `going` `[n]` stay: all but the floor(drop * going) of the lowest score, the first of equals."""
    number = going.sum()
    rank = jnp.argsort(jnp.argsort(jnp.where(going, -score, jnp.inf), stable=True))
    return going & (rank < number - jnp.floor(number * drop + 1e-6).astype(jnp.int32))


def restarts(samples: int, threshold: float, agg: str = "last") -> Strategy:
    """Batches of 1, 2, 4, ... samples until one scores `threshold` or more, at most `samples`; the best answers.

    The score stands for the chance that another sample would be no better (Manvi et al. 2024).
    """
    require(samples >= 1, "samples", f"is {samples}", "give 1 or more")
    begins = [0]
    while begins[-1] < samples:
        begins.append(min(2 * begins[-1] + 1, samples))
    begin = jnp.asarray(begins)
    width = max(b - a for a, b in pairwise(begins))

    def select(key: jax.Array, state: Any, view: View) -> tuple[Choice, Any]:
        at = jnp.minimum(view.round, len(begins) - 1)
        places = begin[at] + jnp.arange(width)
        live = places < begin[jnp.minimum(at + 1, len(begins) - 1)]
        satisfied = (view.complete & (aggregate(view, agg) >= threshold)).any()
        places = jnp.where(live, places, samples)
        choice = strategy.choice(jnp.minimum(places, samples - 1), live, targets=places, steps=WHOLE)
        return choice._replace(done=satisfied | (view.round >= len(begins) - 1)), state

    def report(state: Any, view: View) -> dict[str, jax.Array]:
        return {"samples": (view.length > 0).sum()}

    strategy = Strategy("restarts", width, samples, lambda: (), select, replaces=False, report=report)
    return strategy


class ConfidenceScorer(Unscored):
    """DeepConf's confidence in the next token, C = -mean log p of the `top` likeliest tokens, as a score C / (1 + C).

    It reads what the policy has computed anyway. C is 0 where fewer than two tokens are possible and infinite ones are
    cut to 30 nats, so that scores stay below 1.
    """

    def __init__(self, top: int = 5):
        require(top >= 1, "top", f"is {top}", "give 1 or more")
        self.top = top

    def score(self, params: Any, contexts: Any, rows: Population) -> jax.Array:
        """The confidence after every particle's last token, `[problems, particles]` float32 in (0, 1)."""
        logprobs = jax.nn.log_softmax(rows.outputs.logits, axis=-1)
        top = min(self.top, logprobs.shape[-1])
        likeliest = jnp.maximum(jax.lax.top_k(logprobs, top)[0], -30.0)
        confidence = -jnp.where(jnp.isnan(likeliest), 0.0, likeliest).mean(-1)
        return jnp.clip(confidence / (1 + confidence), 1e-6, 1 - 1e-6)


class Confidence(NamedTuple):
    """threshold `[]` float32: the lowest window that may go on, -inf while warming up; alive `[store]` bool; agreed
    `[]` bool: consensus was reached."""

    threshold: jax.Array
    alive: jax.Array
    agreed: jax.Array


def lowest_window(view: View, window: int) -> tuple[jax.Array, jax.Array]:
    """(lowest, latest) mean confidence of `window` steps in a row, `[store]` float32; of fewer, of all of them."""
    score = jnp.where(jnp.isfinite(view.scores), view.scores, 0.5)
    index = jnp.arange(score.shape[1])
    written = index < view.steps[:, None]
    confidence = jnp.where(written, score / (1 - score), 0.0)
    total = jnp.cumsum(confidence, axis=-1)
    before = jnp.pad(total, ((0, 0), (window, 0)))[:, : score.shape[1]]
    mean = (total - before) / jnp.minimum(index + 1, window)
    full = written & ((index + 1 >= window) | (index + 1 == view.steps[:, None]))
    lowest = jnp.where(full, mean, jnp.inf).min(-1)
    latest = jnp.take_along_axis(mean, jnp.maximum(view.steps - 1, 0)[:, None], -1)[:, 0]
    return lowest, jnp.where(view.steps > 0, latest, jnp.inf)


def confident_vote(
    samples: int,
    answer_of: AnswerOf,
    *,
    warm_up: int = 16,
    percentile: float = 90.0,
    window: int = 2048,
    consensus: float = 0.95,
) -> Strategy:
    """DeepConf (Fu et al. 2025): samples stop when the model is too unsure over a window of steps; the others vote.

    The first `warm_up` samples run to their ends; the `percentile` of their lowest windows is the threshold (90:
    "low", keeps few; 10: "high"). The others stop, and do not vote, when a full window is below it. All stops when
    `consensus` of the weight of finished samples is for one answer. Votes weigh as much as the lowest window of their
    sample. The scorer is `ConfidenceScorer`, and a step should be one token (tokens_per_step=1): one round judges one
    step. Whether the first samples may be stopped afterwards is our choice: they are not.
    """
    require(1 <= warm_up < samples, "warm_up", f"is {warm_up} of {samples} samples", "leave samples to prune")
    require(0 <= percentile <= 100, "percentile", f"is {percentile}", "give 0 to 100")
    require(window >= 1, "window", f"is {window}", "give 1 step or more")
    early = jnp.arange(samples) < warm_up

    def votes(state: Confidence, view: View) -> tuple[jax.Array, jax.Array]:
        found = codes(answer_of, view)
        lowest, _ = lowest_window(view, window)
        voting = state.alive & view.complete & (found != UNREAD)
        return jnp.where(voting, found, UNREAD), jnp.where(voting, lowest, 0.0)

    def select(key: jax.Array, state: Confidence, view: View) -> tuple[Choice, Confidence]:
        lowest, latest = lowest_window(view, window)
        warm = early & ~view.ended
        ready = ~warm.any()
        known = jnp.where(early, lowest, jnp.nan)
        threshold = jnp.where(ready, jnp.nanpercentile(known, percentile), state.threshold)
        alive = state.alive & (early | (view.steps < window) | (latest >= threshold))
        state = Confidence(threshold, alive, state.agreed)
        found, weight = votes(state, view)
        share = totals(found, weight).max() / jnp.maximum(weight.sum(), 1e-30)
        agreed = ready & (share >= consensus)
        live = jnp.where(ready, ~early & alive & ~view.ended, warm)
        done = agreed | (ready & ~live.any())
        return strategy.choice(jnp.arange(samples), live, done=done), state._replace(agreed=agreed)

    def answer(state: Confidence, view: View) -> Answer:
        found, weight = votes(state, view)
        return Answer(weight, leader(found, weight))

    def report(state: Confidence, view: View) -> dict[str, jax.Array]:
        pruned = (~state.alive & ~view.complete).sum()
        return {"threshold": state.threshold, "pruned": pruned, "agreed": state.agreed}

    def init() -> Confidence:
        return Confidence(jnp.float32(-jnp.inf), jnp.ones(samples, bool), jnp.bool_(False))

    strategy = Strategy("confident_vote", samples, samples, init, select, answer, report=report)
    return strategy


@dataclass(frozen=True)
class Pruning(Stepwise, Voting):
    """The worst samples stop at checkpoints."""

    samples: int
    checkpoints: tuple[int, ...] = (1,)  # steps after which some stop
    drop: float = 0.5  # share of those still going that stops
    agg: Aggregate = "last"  # how a score comes from those of the steps

    name = "pruning"
    tags = Tags("parallel", ("verification",), "any text", ("accuracy", "efficiency"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `pruning`."""
        return pruning(self.samples, self.checkpoints, self.drop, self.agg)


@dataclass(frozen=True)
class Restarts(Voting):
    """Batches of samples until one is good enough."""

    samples: int  # at most
    threshold: float  # a score that is good enough
    agg: Aggregate = "last"  # how a sample's score comes from those of its steps

    name = "restarts"
    tags = Tags("parallel", ("verification",), "any text", ("accuracy", "efficiency"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `restarts`."""
        return restarts(self.samples, self.threshold, self.agg)


@dataclass(frozen=True)
class ConfidentVote(StrategyConfig):
    """DeepConf: samples stop when the model is too unsure over a window of tokens; the others vote."""

    samples: int
    warm_up: int = 16  # samples that run to their ends, and set the threshold
    percentile: float = 90.0  # of their least sure windows, below which the others stop
    window: int = 2048  # tokens
    consensus: float = 0.95  # share of the votes at which all stops
    top: int = 5  # likeliest tokens whose mean surprise is the confidence
    answer: str | None = None  # how an answer is read, such as number:####; None: as the search says

    name = "confident_vote"
    tags = Tags("parallel", ("verification", "aggregation"), "answers", ("accuracy", "efficiency"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `confident_vote`."""
        return confident_vote(
            self.samples, answer_of(self.answer, setting), warm_up=self.warm_up, percentile=self.percentile,
            window=self.window, consensus=self.consensus,
        )  # fmt: skip

    def sized(self, search: SearchConfig) -> SearchConfig:
        """Steps of one token each, and a round for every one."""
        rounds = 2 * search.max_tokens + 2
        return dataclasses.replace(
            search, tokens_per_step=1, delimiters=(), max_steps=search.max_tokens, max_rounds=rounds
        )

    def scorer(self, setting: Setting) -> Any:
        """Its own, whatever the setting's."""
        return ConfidenceScorer(self.top)
