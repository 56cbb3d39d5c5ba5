"""Particle Gibbs: repeated conditional SMC, each around a reference generation that the one before it left behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from models.errors import require
from search.strategies.resampling import at, effective_sample_size, log_mean
from search.strategies.setting import Setting, Stepwise
from search.strategies.smc import Pick, chosen, steered, weighed
from search.strategies.strategy import Answer, Choice, Strategy, View, either
from search.strategies.survey import Tags


class GibbsState(NamedTuple):
    """iteration, step `[]` int32: of the current filter; trial `[]` bool: whether the last round tried the reference's
    suffix on all particles; log_weight, log_target `[n]` float32: of the particles that the last step went on from;
    ancestors `[n]` int32: who goes on after the trial; log_evidence `[]`: of the first filter; chance `[]`: a uniform
    number for the final pick; moves `[]` int32: how often the reference got another past."""

    iteration: jax.Array
    step: jax.Array
    trial: jax.Array
    log_weight: jax.Array
    log_target: jax.Array
    ancestors: jax.Array
    log_evidence: jax.Array
    chance: jax.Array
    moves: jax.Array


class _Gibbs:
    """The parts of `particle_gibbs`. Places: n particles, n trials of the reference's suffix, then the references."""

    strategy: Strategy  # that they make up

    def __init__(
        self,
        n: int,
        iterations: int,
        max_tokens: int,
        temperature: float,
        ess_threshold: float,
        ancestors: bool,
        pick: Pick,
    ):
        self.n, self.iterations, self.max_tokens = n, iterations, max_tokens
        self.ess_threshold, self.pick, self.samples_ancestors = ess_threshold, pick, ancestors
        self.log_target = steered("diff", "log", temperature)
        self.trials = n
        self.references = 2 * n if ancestors else n
        self.store = self.references + max(iterations - 1, 1)

    def init(self) -> GibbsState:
        none, zeros = jnp.int32(0), jnp.zeros(self.n)
        return GibbsState(
            none, none, jnp.bool_(False), zeros, zeros, jnp.arange(self.n), jnp.float32(0), jnp.float32(0), none
        )

    def log_weights(self, state: GibbsState, view: View) -> jax.Array:
        """Of the particles, `[n]`; the reference's is that of its own prefix of as many steps."""
        return state.log_weight + weighed(self.log_target, view)[: self.n] - state.log_target

    def suffix(self, view: View, place: jax.Array, step: jax.Array, steps: int | None) -> jax.Array:
        """The tokens `[max_tokens]` int32 of a particle from `step` on, for `steps` steps (None: all), then -1."""
        ends, length = view.ends[place], view.length[place]
        start = jnp.where(step == 0, 0, ends[jnp.maximum(step - 1, 0)])
        stop = length if steps is None else jnp.minimum(ends[jnp.minimum(step, len(ends) - 1)], length)
        index = start + jnp.arange(self.max_tokens)
        tokens = view.tokens[place][jnp.minimum(index, view.tokens.shape[1] - 1)]
        return jnp.where((index < stop) & (step < view.steps[place]), tokens, -1)

    def reference(self, state: GibbsState) -> jax.Array:
        """The place of the current reference."""
        return self.references + jnp.maximum(state.iteration - 1, 0)

    # ---- what a round does -----------------------------------------------------------------------------------------

    def restart(self, key: jax.Array, state: GibbsState, view: View) -> tuple[Choice, GibbsState]:
        """Keep one particle, drawn by weight, as the reference, and begin the next filter with its first step."""
        log_weight = self.log_weights(state, view)
        kept = at(jax.random.uniform(key, (1,)), log_weight)[0]
        iteration = state.iteration + 1
        first, zeros = self.suffix(view, kept, jnp.int32(0), 1), jnp.zeros(self.n)
        place = self.references + iteration - 1
        new = state._replace(
            iteration=iteration,
            step=jnp.int32(1),
            log_weight=zeros,
            log_target=zeros,
            log_evidence=jnp.where(state.iteration == 0, log_mean(log_weight), state.log_evidence),
        )
        rows = jnp.arange(self.n + 1)
        return self.strategy.choice(
            jnp.where(rows < self.n, rows, kept),
            rows < self.n,
            targets=jnp.where(rows < self.n, rows, place),
            cut=jnp.where(rows < self.n, 0, -1),
            forced=jnp.where(rows[:, None] == 0, first, -1),
        ), new

    def extend(
        self, state: GibbsState, view: View, ancestors: jax.Array, log_weight: jax.Array
    ) -> tuple[Choice, GibbsState]:
        """One more step of every particle from its ancestor, the reference's as it is written."""
        conditional = (state.iteration > 0) & ~view.ended[ancestors[0]]
        step = self.suffix(view, self.reference(state), state.step, 1)
        forced = jnp.where(conditional & (jnp.arange(self.n + 1)[:, None] == 0), step, -1)
        rows = jnp.arange(self.n + 1)
        parents = jnp.append(ancestors, 0)
        new = state._replace(
            step=state.step + 1,
            trial=jnp.bool_(False),
            log_weight=log_weight,
            log_target=weighed(self.log_target, view)[ancestors],
        )
        live = (rows < self.n) & ~view.ended[parents]
        return self.strategy.choice(
            parents, live, targets=jnp.where(rows < self.n, rows, self.store), forced=forced
        ), new

    def step(self, key: jax.Array, state: GibbsState, view: View) -> tuple[Choice, GibbsState]:
        """Resample if need be, and either go on or first try the reference's suffix on every particle."""
        log_weight = self.log_weights(state, view)
        short = effective_sample_size(log_weight) < self.ess_threshold * self.n
        again = (short | (self.ess_threshold >= 1)) & (state.step > 0)
        drawn = at(jax.random.uniform(key, (self.n,)), log_weight)  # independent, so that the others may be held fixed
        drawn = drawn.at[0].set(jnp.where(state.iteration > 0, 0, drawn[0]))
        ancestors = jnp.where(again, drawn, jnp.arange(self.n))
        went_on = self.extend(state, view, ancestors, jnp.where(again, log_mean(log_weight), log_weight))
        if not self.samples_ancestors:
            return went_on
        rows, going = jnp.arange(self.n + 1), ~view.ended[: self.n]
        rest = self.suffix(view, self.reference(state), state.step, None)
        trial = (
            self.strategy.choice(
                jnp.minimum(rows, self.n - 1),
                (rows < self.n) & jnp.append(going, False),
                targets=jnp.where(rows < self.n, self.trials + rows, self.store),
                forced=jnp.broadcast_to(rest, (self.n + 1, self.max_tokens)),
            ),
            state._replace(trial=jnp.bool_(True), ancestors=ancestors),
        )
        tries = again & (state.iteration > 0) & going[0]
        return either(tries, trial, went_on)

    def spliced(self, key: jax.Array, state: GibbsState, view: View) -> tuple[Choice, GibbsState]:
        """Draw the reference's past by w p(suffix | past) phi(past + suffix) / psi(past) (Lindsten et al. 2014)."""
        log_weight, n = self.log_weights(state, view), self.n
        target = weighed(self.log_target, view)
        whole = slice(self.trials, self.trials + n)
        log_suffix = view.logprob[whole] - view.logprob[:n]
        rest = (self.suffix(view, self.reference(state), state.step, None) >= 0).sum()
        # A past after which the suffix does not fit, or ends before its last token, is none.
        able = ~view.ended[:n] & view.complete[whole] & (view.length[whole] == view.length[:n] + rest)
        past = jnp.where(able, log_weight + log_suffix + target[whole] - target[:n], -jnp.inf)
        ancestor = at(jax.random.uniform(key, (1,)), past)[0]
        ancestor = jnp.where(able.any(), ancestor, 0)
        moved = state._replace(moves=state.moves + (ancestor != 0))
        return self.extend(moved, view, state.ancestors.at[0].set(ancestor), jnp.full(n, log_mean(log_weight)))

    # ---- the strategy ----------------------------------------------------------------------------------------------

    def select(self, key: jax.Array, state: GibbsState, view: View) -> tuple[Choice, Any]:
        inner, final = jax.random.split(key)
        finished = ~state.trial & view.ended[: self.n].all()
        done = view.last | (finished & (state.iteration == self.iterations - 1))
        went_on = either(finished, self.restart(inner, state, view), self.step(inner, state, view))
        if self.samples_ancestors:
            went_on = either(state.trial, self.spliced(inner, state, view), went_on)
        choice, new = went_on
        new = either(done, state, new)
        return choice._replace(done=done), new._replace(chance=jax.random.uniform(final))

    def answer(self, state: GibbsState, view: View) -> Answer:
        """References weigh one each, and so do the particles of the last filter together, once it is finished."""
        place = jnp.arange(self.store)
        finished = view.ended[: self.n].all()
        uses = finished | (state.iteration == 0)
        padding = jnp.full(self.store - self.n, -jnp.inf)
        complete = view.complete & (place < self.n) & uses
        mine = chosen(
            jnp.append(self.log_weights(state, view), padding),
            view._replace(complete=complete),
            self.pick,
            state.chance,
        )
        old = (place >= self.references) & (place < self.references + state.iteration) & view.complete
        weight = (mine.weight + old) / jnp.maximum(state.iteration + finished, 1)
        last = jnp.where((state.iteration > 0) & old.any(), self.reference(state), -1)
        return Answer(weight, jnp.where(mine.best >= 0, mine.best, last))

    def report(self, state: GibbsState, view: View) -> dict[str, jax.Array]:
        log_weight = self.log_weights(state, view)
        return {
            "log_evidence": jnp.where(state.iteration == 0, log_mean(log_weight), state.log_evidence),
            "ess": effective_sample_size(log_weight),
            "iterations": state.iteration + 1,
            "moves": state.moves,
        }


def particle_gibbs(
    samples: int,
    iterations: int = 4,
    max_tokens: int = 64,
    temperature: float = 1.0,
    ess_threshold: float = 0.5,
    ancestor_sampling: bool = True,
    pick: Pick = "sample",
) -> Strategy:
    """Particle Gibbs (Andrieu et al. 2010) for p(x) score(x)^(1/temperature): `iterations` filters of
    samples/iterations particles.

    Each filter but the first holds a reference in its place 0, drawn by weight from the filter before it: its steps are
    written again as they are, so that its weight at every step is that of its prefix of as many steps, and resampling
    never takes it away. ancestor_sampling: whenever particles are resampled, the reference may get the past of another
    particle; the suffix is tried on all of them, which costs forced tokens and scores, and needs the search's
    temperature to be 1. max_tokens: at least the search's. pick: from the last filter, as in `particle_filter`.
    """
    require(iterations >= 1, "iterations", f"is {iterations}", "give a positive number")
    require(samples % iterations == 0, "iterations", f"{iterations} does not divide {samples}", "choose a divisor")
    n = samples // iterations
    require(n >= 2 or iterations == 1, "samples", f"{samples} leave one particle per iteration", "give at least two")
    require(temperature > 0, "temperature", f"is {temperature}", "give a positive number")
    parts = _Gibbs(n, iterations, max_tokens, temperature, ess_threshold, ancestor_sampling, pick)

    def select(key: jax.Array, state: Any, view: View) -> tuple[Choice, Any]:
        longest = view.tokens.shape[1]
        require(longest <= max_tokens, "max_tokens", f"is {max_tokens}", f"give at least the search's, {longest}")
        return parts.select(key, state, view)

    parts.strategy = Strategy(
        "particle_gibbs", n + 1, parts.store, parts.init, select, parts.answer, replaces=False, forced=max_tokens,
        cuts=True, report=parts.report,
    )  # fmt: skip
    return parts.strategy


@dataclass(frozen=True)
class ParticleGibbs(Stepwise):
    """Particle Gibbs: filters one after the other, each of which holds a sample of the one before it."""

    samples: int
    iterations: int = 4  # filters, of samples / iterations particles each
    max_tokens: int = 64  # at least the search's own, which is taken where it is more and known
    temperature: float = 1.0  # of the reward
    ess_threshold: float = 0.5  # resample below this share of effective particles; 1: at every step
    ancestor_sampling: bool = True  # whether the sample that is held may get the past of another particle
    pick: Pick = "sample"  # what answers: the largest weight, the highest score, or one drawn by weight

    name = "particle_gibbs"
    tags = Tags("hybrid", ("verification", "search"), "steps", ("accuracy", "scalability"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `particle_gibbs`."""
        longest = self.max_tokens if setting is None else max(self.max_tokens, setting.search.max_tokens)
        return particle_gibbs(
            self.samples, self.iterations, longest, self.temperature, self.ess_threshold, self.ancestor_sampling,
            self.pick,
        )  # fmt: skip
