"""Sequential Monte Carlo over steps: particle filter and twisted SMC.

The target is p(x) phi(x) over complete generations, p the policy and phi what the scorer makes of them; after every
step the particles stand for p(x_1..t) psi_t(x_1..t). Weights are incremental, psi_t / psi_{t-1}, and accumulate until
the particles are resampled, so the mean weight is at any time an unbiased estimate of the evidence sum p psi.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from models.errors import require
from search.strategies.resampling import (
    Potential,
    Resampling,
    Reward,
    at,
    effective_sample_size,
    in_place,
    log_mean,
    log_potentials,
    log_reward,
    resample,
)
from search.strategies.setting import Setting, Stepwise, Voting
from search.strategies.strategy import Answer, Choice, Strategy, View, either
from search.strategies.survey import Tags

IMPOSSIBLE = -1e4  # log psi of a particle that can no longer end: finite, so that a search of nothing else has weights

Pick = Literal["weight", "score", "sample"]
LogTarget = Callable[[View], jax.Array]  # log psi of every particle that can go on, log phi of every complete one


class SMCState(NamedTuple):
    """log_weight `[n]` float32, without the last round's; log_target, ended, length `[n]`: of the particles that it
    went on from; chance `[]`: a uniform number for the final pick; resampled `[]` int32: how often."""

    log_weight: jax.Array
    log_target: jax.Array
    ended: jax.Array
    length: jax.Array
    chance: jax.Array
    resampled: jax.Array


def weighed(log_target: LogTarget, view: View) -> jax.Array:
    """Log-targets `[store]`: 0 before the first step, IMPOSSIBLE for what ended without having written an end."""
    value = jnp.where(view.ended & ~view.complete, IMPOSSIBLE, log_target(view))
    return jnp.where(view.steps == 0, 0.0, value)


def chosen(log_weight: jax.Array, view: View, pick: Pick, chance: jax.Array) -> Answer:
    """The answer from final log-weights `[store]`: complete particles, weighted as they are normalised among all."""
    weight = jnp.where(view.complete, jax.nn.softmax(log_weight), 0.0)
    if pick == "sample":
        best = at(chance[None], jnp.where(view.complete, log_weight, -jnp.inf))[0]
    else:
        ranked = log_weight if pick == "weight" else view.score
        best = jnp.argmax(jnp.where(view.complete, ranked, -jnp.inf))
    return Answer(weight, jnp.where(view.complete.any(), best, -1))


def smc(
    name: str,
    samples: int,
    log_target: LogTarget,
    *,
    ess_threshold: float = 0.5,
    resampling: Resampling = "systematic",
    pick: Pick = "weight",
    candidates: int = 1,
    actions: int = 0,
    accumulates: bool = True,
) -> Strategy:
    """The filter that the strategies below are settings of.

    log_target: as in `LogTarget`, scores in the view. ess_threshold: resample when the effective sample size is below
    this share of the particles; 1 or more: at every step. candidates: steps drawn for every particle, one of which
    goes on, drawn by its weight; the particle's weight is their mean. actions: instead, one candidate for every first
    token (the whole vocabulary, numbered from 0), weighted with its probability. accumulates: False takes the
    log-target itself as the weight of a step.
    """
    _check(samples, ess_threshold, resampling, pick, candidates, actions)
    group = actions or candidates
    width = samples * group

    def init() -> SMCState:
        zeros = jnp.zeros(samples)
        return SMCState(zeros, zeros, zeros > 0, zeros.astype(jnp.int32), jnp.float32(0), jnp.int32(0))

    def log_weights(state: SMCState, view: View) -> jax.Array:
        return _candidate_weights(log_target, state, view, samples, group, actions > 0, accumulates)

    def select(key: jax.Array, state: SMCState, view: View) -> tuple[Choice, Any]:
        inner, outer, final = jax.random.split(key, 3)
        done = view.last | view.ended.all()
        each = log_weights(state, view)
        if group == 1:
            places, log_weight = jnp.arange(samples), each[:, 0]
        else:
            drawn = jax.vmap(lambda k, w: at(jax.random.uniform(k, (1,)), w)[0])(jax.random.split(inner, samples), each)
            places, log_weight = jnp.arange(samples) * group + drawn, jax.nn.logsumexp(each, axis=-1)
        short = (effective_sample_size(log_weight) < ess_threshold * samples) | (ess_threshold >= 1)
        again = short & (view.round > 0)
        ancestors = jnp.where(again, in_place(resample(outer, log_weight, resampling)), jnp.arange(samples))
        parents = places[ancestors]
        new = SMCState(
            jnp.where(again, log_mean(log_weight), log_weight),
            weighed(log_target, view)[parents],
            view.ended[parents],
            view.length[parents],
            state.chance,
            state.resampled + again,
        )
        # Once it is over, the weights stay those before the last round: `answer` adds what that brought.
        new = either(done, state, new)._replace(chance=jax.random.uniform(final))
        wide = jnp.repeat(parents, group, total_repeat_length=width)
        forced = jnp.tile(jnp.arange(group), samples)[:, None] if actions else None
        return strategy.choice(wide, ~view.ended[wide], forced=forced, done=done), new

    def answer(state: SMCState, view: View) -> Answer:
        return chosen(log_weights(state, view).reshape(-1), view, pick, state.chance)

    def report(state: SMCState, view: View) -> dict[str, jax.Array]:
        log_weight = jax.nn.logsumexp(log_weights(state, view), axis=-1)
        found = {"ess": effective_sample_size(log_weight), "resampled": state.resampled}
        return found | ({"log_evidence": log_mean(log_weight)} if accumulates else {})

    strategy = Strategy(name, width, width, init, select, answer, forced=1 if actions else 0, report=report)
    return strategy


def _check(
    samples: int, ess_threshold: float, resampling: Resampling, pick: Pick, candidates: int, actions: int
) -> None:
    require(samples >= 1, "samples", f"is {samples}", "give a positive number")
    require(ess_threshold >= 0, "ess_threshold", f"is {ess_threshold}", "give 0 (never) to 1 (always)")
    require(resampling in get_args(Resampling), "resampling", f"is {resampling!r}", f"use {get_args(Resampling)}")
    require(pick in get_args(Pick), "pick", f"is {pick!r}", f"use {get_args(Pick)}")
    require(
        candidates >= 1 and (candidates == 1 or not actions),
        "candidates",
        f"is {candidates}",
        "give 1 or more, or actions",
    )


def _candidate_weights(
    log_target: LogTarget, state: SMCState, view: View, samples: int, group: int, actions: bool, accumulates: bool
) -> jax.Array:
    """Of every candidate, `[samples, group]`: they sum to the particles'."""
    target = weighed(log_target, view).reshape(samples, group)
    old = state.log_target[:, None] if accumulates else 0.0
    share = jnp.full((samples, group), -jnp.log(group))
    if actions:
        first = jnp.repeat(state.length, group)[:, None]
        of_token = jnp.take_along_axis(view.logprobs, jnp.minimum(first, view.logprobs.shape[1] - 1), 1)
        share = jnp.where(state.ended[:, None] | (view.round == 0), share, of_token.reshape(samples, group))
    before = state.log_weight[:, None] if accumulates else 0.0
    return before + share + target - old


def steered(potential: Potential, reward: Reward, temperature: float) -> LogTarget:
    """phi = exp(reward of the whole / temperature), reached through a potential per step (`log_potentials`).

    A particle that can go on has the product of its steps' potentials; the last potential of a complete one makes up
    for those before it, so that every kind has the same target.
    """

    def log_target(view: View) -> jax.Array:
        final = log_reward(view.score, reward) / temperature
        if potential == "diff":
            return final
        known = jnp.arange(view.scores.shape[1]) < view.steps[:, None]
        steps = log_reward(jnp.where(known, view.scores, 0.5), reward)
        so_far = jnp.where(known, log_potentials(steps, potential, temperature), 0.0).sum(-1)
        return jnp.where(view.complete, final, so_far)

    return log_target


def particle_filter(
    samples: int,
    temperature: float = 1.0,
    ess_threshold: float = 0.5,
    resampling: Resampling = "systematic",
    potential: Potential = "diff",
    reward: Reward = "log",
    pick: Pick = "weight",
) -> Strategy:
    """Sequential Monte Carlo over reasoning steps (Puri et al. 2025), with weights that accumulate.

    Samples from p(x) exp(reward(x) / temperature), for the default reward p(x) score(x)^(1/temperature). Particles that
    have ended keep their weight and take part in resampling. potential: as in `log_potentials`. pick: the particle of
    the largest weight, of the highest score, or one drawn by weight.
    """
    require(temperature > 0, "temperature", f"is {temperature}", "give a positive number")
    require(potential in get_args(Potential), "potential", f"is {potential!r}", f"use {get_args(Potential)}")
    require(reward in get_args(Reward), "reward", f"is {reward!r}", f"use {get_args(Reward)}")
    target = steered(potential, reward, temperature)
    return smc("particle_filter", samples, target, ess_threshold=ess_threshold, resampling=resampling, pick=pick)


def odds_filter(samples: int, temperature: float = 1.0, pick: Pick = "weight") -> Strategy:
    """The particle filter as Puri et al. 2025 published it: weights are the odds of the current scores to the power of
    1/temperature, and all particles are resampled at every step, multinomially, those that have ended included.

    Its weights are no ratios, so it has no fixed target and no evidence; `particle_filter` has both.
    """
    require(temperature > 0, "temperature", f"is {temperature}", "give a positive number")

    def odds(view: View) -> jax.Array:
        return log_reward(view.score, "logit") / temperature

    return smc("odds_filter", samples, odds, ess_threshold=1.0, resampling="multinomial", pick=pick, accumulates=False)


def twisted_smc(
    samples: int,
    twist: Callable[[View], jax.Array] | None = None,
    final: Callable[[View], jax.Array] | None = None,
    *,
    candidates: int = 1,
    actions: int = 0,
    ess_threshold: float = 0.5,
    resampling: Resampling = "systematic",
    pick: Pick = "sample",
) -> Strategy:
    """Twisted sequential Monte Carlo (Zhao et al. 2024): samples from p(x) phi(x), guided by a twist psi.

    twist: log psi `[store]` of particles that can go on (None: of their scores); final: log phi of complete ones (None:
    of their scores). With a constant twist it is plain sampling, weighted at the end. candidates, actions: how a step
    is proposed, see `smc`; with `actions` the size of the vocabulary and steps of one token, steps are drawn from
    p psi exactly, and with psi the exact expectation of phi the weights never change. Steps of several tokens are then
    weighted by the first one's probability and drawn from p after it.
    """

    def scores(view: View) -> jax.Array:
        return log_reward(view.score, "log")

    guide, goal = twist or scores, final or scores

    def log_target(view: View) -> jax.Array:
        return jnp.where(view.complete, goal(view), guide(view))

    return smc(
        "twisted_smc", samples, log_target, ess_threshold=ess_threshold, resampling=resampling, pick=pick,
        candidates=candidates, actions=actions,
    )  # fmt: skip


@dataclass(frozen=True)
class ParticleFilter(Stepwise, Voting):
    """Sequential Monte Carlo over steps, with weights that accumulate."""

    samples: int
    temperature: float = 1.0  # of the reward
    ess_threshold: float = 0.5  # resample below this share of effective particles; 1: at every step
    resampling: Resampling = "systematic"
    potential: Potential = "diff"  # how the reward of a step comes from the scores before and after it
    reward: Reward = "log"  # of a score
    pick: Pick = "weight"  # what answers: the largest weight, the highest score, or one drawn by weight

    name = "particle_filter"
    tags = Tags("hybrid", ("verification", "search"), "steps", ("accuracy", "scalability"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `particle_filter`."""
        return particle_filter(
            self.samples, self.temperature, self.ess_threshold, self.resampling, self.potential, self.reward, self.pick
        )


@dataclass(frozen=True)
class OddsFilter(Stepwise, Voting):
    """The particle filter as Puri et al. 2025 published it: weighted by the odds of the current scores."""

    samples: int
    temperature: float = 1.0  # of the odds
    pick: Pick = "weight"  # what answers: the largest weight, the highest score, or one drawn by weight

    name = "odds_filter"
    tags = Tags("hybrid", ("verification", "search"), "steps", ("accuracy", "scalability"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `odds_filter`."""
        return odds_filter(self.samples, self.temperature, self.pick)


@dataclass(frozen=True)
class TwistedSMC(Stepwise, Voting):
    """Twisted sequential Monte Carlo with the scores as the twist."""

    samples: int
    candidates: int = 1  # steps drawn for every particle, one of which goes on, drawn by its weight
    actions: int = 0  # instead, one candidate for every first token: the size of the vocabulary
    ess_threshold: float = 0.5  # resample below this share of effective particles; 1: at every step
    resampling: Resampling = "systematic"
    pick: Pick = "sample"  # what answers: the largest weight, the highest score, or one drawn by weight

    name = "twisted_smc"
    tags = Tags("hybrid", ("verification", "search"), "steps", ("accuracy", "scalability"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `twisted_smc`."""
        return twisted_smc(
            self.samples, candidates=self.candidates, actions=self.actions, ess_threshold=self.ess_threshold,
            resampling=self.resampling, pick=self.pick,
        )  # fmt: skip
