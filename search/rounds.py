"""One round of a search on the device: select, extend, score, for all problems at once, and many rounds in one program.

A particle's random numbers come from fold_in(fold_in(fold_in(root, problem), lineage), length). The first heir of a
particle goes on with its lineage, every other clone and everything that went back gets a new one. So what a problem
draws depends on its number and the seed, not on its slot, its neighbours, or when it was interrupted.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from search import population as particles
from search.config import SearchConfig
from search.costs import Costs, Tally
from search.decoder import Decoder, Outputs
from search.engine import sampling
from search.engine.decode import lineage_keys
from search.engine.sampling import SamplingRows
from search.engine.text_stop import Spelling
from search.population import ENDED, FORCED, FULL, GOING, Population, Written
from search.strategies.strategy import Choice, Strategy, View
from search.verifiers.scorer import Judge, Scorer

STRATEGY = jnp.uint32(0xFFFFFFFE)  # the lineage of a strategy's own random numbers
JUDGEMENT = jnp.uint32(0xFFFFFFFD)  # the step of a lineage whose random numbers are those of a scorer that draws


class Trace(NamedTuple):
    """The answer after every round: tokens `[problems, rounds, max_tokens]` int32 (-1 after its end), score
    `[problems, rounds]` float32, and what it had cost by then (each of Costs `[problems, rounds]`)."""

    tokens: jax.Array
    score: jax.Array
    costs: Costs


class State(NamedTuple):
    """A search between two rounds. Everything leads with `[problems]`.

    problem uint32: number of each; lineages uint32: how many it used; occupied, done, broke bool: whether a slot holds
    a problem, whether its search has ended, and whether its budget was too small to go on.
    """

    contexts: Any
    problem: jax.Array
    occupied: jax.Array
    done: jax.Array
    broke: jax.Array
    lineages: jax.Array
    population: Population
    strategy: Any
    costs: Costs
    trace: Trace | None


class Extension(NamedTuple):
    """What a round extends: particles, which of them are live, and where they go.

    parents, begun int32 `[problems, width]`: where each was taken from, and of how many tokens it goes on. judged: the
    same particles as the scorer is to see them, further on where the strategy looks ahead.
    """

    rows: Population
    judged: Population
    live: jax.Array
    parents: jax.Array
    begun: jax.Array
    targets: jax.Array
    steps: jax.Array
    forced: jax.Array
    temperature: jax.Array
    writer: jax.Array


class Rounds:
    """The pure functions of a search; see `search.searcher.Searcher` for what runs them."""

    def __init__(
        self,
        decoder: Decoder,
        strategy: Strategy,
        scorer: Scorer | Judge,
        config: SearchConfig,
        spelling: Spelling = (),
    ):
        self.decoder, self.strategy, self.scorer, self.config = decoder, strategy, scorer, config
        self._settings = sampling.stack_rows([config.sampling], decoder.vocab_size)
        if strategy.lookahead or strategy.tempers:  # the program must know other temperatures
            filters = dataclasses.replace(self._settings.filters, greedy=True, tempered=True)
            self._settings = dataclasses.replace(self._settings, filters=filters)
        self._delimiter = Written("delimiters", config.delimiters, spelling, decoder.vocab_size)
        self._end = Written("ends", config.ends, spelling, decoder.vocab_size)
        self._axes = particles.position_axes(decoder)
        self._recurrent = any(axis < 0 for axis in jax.tree.leaves(self._axes))
        self._window = decoder.price("flops").window
        self._prices = {u: decoder.price(u) for u in ("flops", "bytes") if config.budget and config.budget.unit == u}

    # ---- the state -------------------------------------------------------------------------------------------------

    def empty(self) -> State:
        """No problems."""
        c, s = self.config, self.strategy
        contexts = self.decoder.contexts(c.problems)
        zeros = jnp.zeros(c.problems, jnp.int32)
        costs = Costs(*([zeros] * len(Costs._fields)))
        wide = jax.tree.map(lambda x: jnp.zeros((c.problems, c.max_rounds), x.dtype), costs)
        tokens = jnp.full((c.problems, c.max_rounds, c.max_tokens), -1, jnp.int32)
        return State(
            contexts=contexts,
            problem=zeros.astype(jnp.uint32),
            occupied=zeros > 0,
            done=zeros == 0,
            broke=zeros > 0,
            lineages=zeros.astype(jnp.uint32) + jnp.uint32(s.store),
            population=self._fresh(contexts, self._caches()),
            strategy=jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x), (c.problems, *jnp.shape(x))), s.init()),
            costs=costs,
            trace=Trace(tokens, jnp.zeros((c.problems, c.max_rounds)), wide) if c.trace else None,
        )

    def admit(self, params: Any, state: State, slots: jax.Array, problem: jax.Array, prompts: Any) -> State:
        """Put problems, numbered `problem` `[problems]` uint32, into places `slots` `[problems]` int32, of which those
        that are none come last; one program reads all of their prompts `[problems, ...]`."""

        def read(i: jax.Array, contexts: Any) -> Any:
            return self.decoder.admit(params[0], contexts, slots[i], jax.tree.map(lambda x: x[i], prompts))

        contexts = jax.lax.fori_loop(0, (slots < len(slots)).sum(), read, state.contexts)
        caches = particles.stored(state.population.caches)  # what lies there is never read
        new = self.empty()._replace(population=self._fresh(contexts, self._caches()))
        here = jnp.zeros_like(state.done).at[slots].set(True, mode="drop")

        def bare(state: State) -> State:
            p = state.population
            bare = p.caches._replace(**dict.fromkeys(caches))
            return state._replace(contexts=None, population=p._replace(caches=bare))

        def one(fresh: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(here.reshape(-1, *(1,) * (old.ndim - 1)), fresh, old)

        merged = jax.tree.map(one, bare(new), bare(state))
        p = merged.population
        return merged._replace(
            contexts=contexts,
            population=p._replace(caches=p.caches._replace(**caches)),
            problem=merged.problem.at[slots].set(problem, mode="drop"),
            occupied=merged.occupied | here,
            done=merged.done & ~here,
        )

    def _caches(self) -> Any:
        c, s = self.config, self.strategy
        return particles.empty_caches(self.decoder, (c.problems, s.store), s.width, c.max_tokens, s.replaces)

    def _fresh(self, contexts: Any, caches: Any) -> Population:
        c, shape = self.config, (self.config.problems, self.strategy.store)
        return particles.fresh(self.decoder.start(contexts), caches, shape, c.max_tokens, c.max_steps)

    # ---- rounds ----------------------------------------------------------------------------------------------------

    def run(self, params: Any, state: State, until_all: jax.Array, most: jax.Array) -> State:
        """Rounds, `most` `[]` int32 of them, or until some search has ended (`until_all` `[]` bool: until all have)."""

        def going(carry: tuple[State, jax.Array]) -> jax.Array:
            state, left = carry
            running = state.occupied & ~state.done
            return (left > 0) & running.any() & (until_all | ~(state.occupied & state.done).any())

        def round(carry: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
            state, rows = self.advance(params, carry[0])
            return self.settle(state, rows, self.scores(params, state, rows)), carry[1] - 1

        return jax.lax.while_loop(going, round, (state, most))[0]

    def first(self, params: Any, contexts: Any, keys: jax.Array) -> Population:
        """What the first round writes after these prompts `[problems, width]`, by keys `[problems * width, 2]` uint32
        of the rows' own: for who draws texts within another program."""
        every = jnp.ones(self.config.problems, bool)
        state = self.empty()._replace(contexts=contexts, occupied=every, done=~every)
        state = state._replace(population=self._fresh(contexts, state.population.caches))
        return self.advance(params, state, keys)[1].rows

    def advance(self, params: Any, state: State, keys: jax.Array | None = None) -> tuple[State, Extension]:
        """Select, and extend what was selected; the rows are not yet scored. keys: as in `first`; None: those of
        their lineages."""
        state, choice = self.select(state)
        rows = self.taken(state.population, choice.parents, choice.live | (choice.cut >= 0))
        state, rows = self._new_lineages(state, choice, rows)
        if self.strategy.cuts:
            state, rows = self._go_back(params, state, choice, rows)
        live = choice.live & (rows.reason == GOING)
        wanted = choice.targets, choice.steps, choice.forced, choice.temperature, choice.writer
        picked = Extension(rows, rows, live, choice.parents, rows.length, *wanted)
        state, picked = self._extend(params, state, picked, keys)
        looks = self.strategy.lookahead and self.strategy.scored
        return self._look_ahead(params, state, picked) if looks else (state, picked)

    def taken(self, population: Population, parents: jax.Array, which: jax.Array) -> Population:
        """The particles that a round goes on from, in order; `which` `[problems, width]` bool: those that are read."""
        if self.strategy.replaces:
            return particles.rearrange(population, parents, self._axes)
        return particles.take(population, parents, which, self._axes)

    def scores(self, params: Any, state: State, rows: Extension) -> tuple[jax.Array, jax.Array]:
        """Scores float32 in (0, 1) of the rows and tokens int32 that they took, `[problems, width]`; those of rows that
        were not live are not used."""
        judged = rows.judged
        if not self.strategy.scored:
            return jnp.full(rows.live.shape, 0.5), jnp.zeros_like(judged.length)
        if not isinstance(self.scorer, Judge):
            scores = self.scorer.score(params[1], state.contexts, judged)
            return scores, self.scorer.tokens(state.contexts, judged)
        streams = _streams(state, self.config.seed, judged.lineage).reshape(-1, 3)
        keys = sampling.step_keys(lineage_keys(streams), jnp.full(len(streams), JUDGEMENT))
        keys = sampling.step_keys(keys, judged.length.reshape(-1))
        return self.scorer.judge(params[1], state.contexts, judged, keys.reshape(*judged.length.shape, 2))

    def settle(self, state: State, picked: Extension, scored: tuple[jax.Array, jax.Array]) -> State:
        """Write the scores down and put the rows where they belong."""
        rows, live, (scores, read) = picked.rows, picked.live, scored
        costs = state.costs._replace(
            verifier=state.costs.verifier + jnp.where(live, read, 0).sum(-1),
            scored=state.costs.scored + (live.sum(-1) if self.strategy.scored else 0),
            rounds=state.costs.rounds + (state.occupied & ~state.done),
        )
        at = jnp.where(live, rows.steps - 1, -1)
        here = jnp.arange(rows.scores.shape[-1]) == at[..., None]
        rows = rows._replace(
            score=jnp.where(live, scores, rows.score), scores=jnp.where(here, scores[..., None], rows.scores)
        )
        population = rows
        if not self.strategy.replaces:
            begun = picked.parents, picked.begun
            population = particles.put(state.population, picked.targets, rows, *begun, self._axes)
        return self._traced(state._replace(population=population, costs=costs))

    def answers(self, state: State) -> tuple[jax.Array, jax.Array]:
        """(weights `[problems, store]`, best `[problems]`); see `Answer`."""
        answer = jax.vmap(self.strategy.answer)(state.strategy, self._view(state))
        return answer.weight, answer.best

    def outcome(self, state: State) -> tuple[jax.Array, jax.Array, dict[str, jax.Array], jax.Array]:
        """The answers, what the strategy reports, `[problems]` each, and the costs `[problems, n]` as one array."""
        report = self.strategy.report
        told = {} if report is None else jax.vmap(report)(state.strategy, self._view(state))
        return *self.answers(state), told, jnp.stack(state.costs, axis=-1)

    def _view(self, state: State, last: jax.Array | None = None) -> View:
        return particles.view(state.population, state.costs.rounds, self._left(state), last)

    def spent(self, costs: Costs, contexts: Any) -> jax.Array:
        """What every problem cost in the budget's unit, `[problems]` float32; 0 for seconds and without a budget."""
        budget = self.config.budget
        if budget is None or budget.unit == "seconds":
            return jnp.zeros(costs.generated.shape)
        if budget.unit == "tokens":
            return (costs.generated + costs.verifier).astype(jnp.float32)
        price, tokens = self._prices[budget.unit], (costs.generated + costs.forced).astype(jnp.float32)
        if budget.unit == "flops":
            own = price.fixed * tokens + price.per_context * costs.contexts + price.per_window * costs.windowed
            return own + self.scorer.flops_per_token * costs.verifier
        keys = costs.suffix + 2 * costs.copied + costs.steps * contexts.length
        return price.fixed * tokens + price.per_context * keys + price.per_clone * costs.clones

    # ---- parts of a round ------------------------------------------------------------------------------------------

    def _to_read(self, state: State, rows: Population, live: jax.Array) -> jax.Array:
        """The most tokens that scoring these rows takes, `[problems, width]` int32."""
        if not self.strategy.scored:
            return jnp.zeros_like(rows.length)
        return jnp.where(live, self.scorer.tokens(state.contexts, rows), 0)

    def _left(self, state: State) -> jax.Array:
        budget = self.config.budget
        if budget is None:
            return jnp.ones(state.done.shape)
        return jnp.clip(1 - self.spent(state.costs, state.contexts) / budget.amount, 0, 1)

    def select(self, state: State) -> tuple[State, Choice]:
        """Ask the strategy; a problem that has ended keeps everything as it is."""
        stop = state.broke | (state.costs.rounds >= self.config.max_rounds)
        view = self._view(state, stop)
        streams = jnp.stack([jnp.full_like(state.problem, self.config.seed), state.problem], -1)
        streams = jnp.concatenate([streams, jnp.full_like(streams[:, :1], STRATEGY)], -1)
        keys = sampling.step_keys(lineage_keys(streams), state.costs.rounds)
        choice, new = jax.vmap(self.strategy.select)(keys, state.strategy, view)
        running = state.occupied & ~state.done
        ended = running & (choice.done | stop)
        kept = jax.tree.map(
            lambda a, b: jnp.where(running.reshape(-1, *(1,) * (a.ndim - 1)), a, b), new, state.strategy
        )
        going = (running & ~ended)[:, None]
        still, nowhere = jnp.arange(self.strategy.width), self.strategy.store
        choice = choice._replace(
            parents=jnp.where(going, choice.parents, still),
            targets=jnp.where(going, choice.targets, nowhere),
            live=choice.live & going,
            cut=jnp.where(going, choice.cut, -1),
        )
        return state._replace(strategy=kept, done=state.done | ended), choice

    def _new_lineages(self, state: State, choice: Choice, rows: Population) -> tuple[State, Population]:
        """Streams of random numbers of their own for clones; what clones copy is charged."""
        same = choice.parents[..., :, None] == choice.parents[..., None, :]
        repeated = (same & jnp.tril(jnp.ones(same.shape[-2:], bool), -1)).any(-1)
        if not self.strategy.replaces:
            repeated = choice.live
        running = (state.occupied & ~state.done)[:, None]
        new = (repeated | (choice.cut >= 0)) & running
        rank = jnp.cumsum(new, axis=-1).astype(jnp.uint32) - 1
        lineage = jnp.where(new, state.lineages[:, None] + rank, rows.lineage)
        moved = (choice.parents != jnp.arange(self.strategy.width)) if self.strategy.replaces else choice.live
        kept, moved = jnp.where(choice.cut >= 0, jnp.minimum(choice.cut, rows.length), rows.length), moved & running
        copied = state.costs.copied + jnp.where(moved, kept, 0).sum(-1)
        clones = state.costs.clones + (moved & (kept > 0)).sum(-1)
        lineages = state.lineages + new.sum(-1).astype(jnp.uint32)
        state = state._replace(lineages=lineages, costs=state.costs._replace(copied=copied, clones=clones))
        return state, rows._replace(lineage=lineage)

    def _go_back(self, params: Any, state: State, choice: Choice, rows: Population) -> tuple[State, Population]:
        """Cut particles to `choice.cut` tokens; one step of the decoder gives what follows them."""
        back = choice.cut >= 0
        length = jnp.where(back, jnp.minimum(choice.cut, rows.length), rows.length)
        steps = jnp.where(back, (rows.ends <= length[..., None]).sum(-1, where=_taken(rows)), rows.steps)
        at_end = jnp.take_along_axis(rows.scores, jnp.maximum(steps - 1, 0)[..., None], -1)[..., 0]
        known = back & (steps > 0) & jnp.isfinite(at_end)
        rows = rows._replace(
            length=length,
            steps=steps,
            reason=jnp.where(back, GOING, rows.reason),
            score=jnp.where(known, at_end, jnp.where(back & (steps == 0), 0.5, rows.score)),
        )

        if self._recurrent:
            state, rows = self._read_again(params, state, rows, back & (length > 0))

        def again() -> tuple[Outputs, Any]:
            # Reading the last token again changes nothing that has a position; a state would read it twice.
            place = jnp.maximum(length - 1, 0)
            last = jnp.maximum(jnp.take_along_axis(rows.tokens, place[..., None], -1)[..., 0], 0)
            tokens = jnp.where(back & (length > 0), last, -1) if self._recurrent else last
            return particles.step(self.decoder, params[0], state.contexts, rows.caches, tokens, place)

        after, caches = jax.lax.cond(back.any(), again, lambda: (rows.outputs, rows.caches))
        first = particles.at_start(self.decoder.start(state.contexts), (length.shape[0], length.shape[1]))
        after = _where(length == 0, first, after)
        return state, rows._replace(outputs=_where(back, after, rows.outputs), caches=caches)

    def _read_again(self, params: Any, state: State, rows: Population, which: jax.Array) -> tuple[State, Population]:
        """Bring what has no positions to where it stood before the last token of the rows `which` `[problems, width]`,
        by reading them from the first. It is charged like forced tokens, and no budget stops it."""
        last = jnp.where(which, rows.length - 1, 0)

        def one(carry: tuple[jax.Array, Tally, Any]) -> tuple[jax.Array, Tally, Any]:
            at, tally, caches = carry
            live, length = at < last, jnp.full_like(last, at)
            tokens = jnp.where(live, rows.tokens[..., at], -1)
            _, caches = particles.step(self.decoder, params[0], state.contexts, caches, tokens, length)
            return at + 1, self._tallied(state, tally, live, live, length + 1), caches

        start = jnp.int32(0), Tally.nothing(last), rows.caches
        _, tally, caches = jax.lax.while_loop(lambda carry: (carry[0] < last).any(), one, start)
        return state._replace(costs=state.costs.charged(tally, self.strategy.together)), rows._replace(caches=caches)

    def _extend(
        self, params: Any, state: State, picked: Extension, keys: jax.Array | None = None
    ) -> tuple[State, Extension]:
        """Let the live rows go on for their steps."""
        none, begin = jnp.zeros_like(picked.steps), picked.rows.length
        going = _Going(picked.rows, Tally.nothing(none), state.broke, picked.live, none, begin)
        streams = _streams(state, self.config.seed, picked.rows.lineage)
        stream_keys = lineage_keys(streams.reshape(-1, 3)) if keys is None else keys

        def body(carry: _Going) -> _Going:
            return self._token(params, state, picked, stream_keys, carry)

        done = jax.lax.while_loop(lambda carry: carry.live.any(), body, going)
        costs = state.costs.charged(done.tally, self.strategy.together)
        return state._replace(costs=costs, broke=done.broke), picked._replace(rows=done.rows, judged=done.rows)

    def _token(self, params: Any, state: State, picked: Extension, lineage_keys: jax.Array, carry: _Going) -> _Going:
        """One token for every row that is still live."""
        c, s = self.config, self.strategy
        rows, tally, broke, live, taken, begin = carry
        live, broke = self._affordable(state, picked, carry)
        token, logprob, forced = self._draw(picked, lineage_keys, rows)
        if s.control is not None:
            controlled, aux = jax.vmap(jax.vmap(s.control))(token, rows.length, rows.aux)
            rows = rows._replace(aux=jnp.where(live & ~forced, aux, rows.aux))
            token, forced = jnp.where(forced, token, controlled), forced | (controlled != token)
        if s.control is not None or s.forced:
            scores = self._logits(picked, rows)
            of_token = jnp.take_along_axis(scores, jnp.maximum(token, 0)[..., None], -1)[..., 0]
            logprob = of_token - jax.nn.logsumexp(scores, axis=-1)
        stuck = live & (token < 0)  # nothing may be drawn here
        live = live & ~stuck
        rows = _written(rows, live, token, logprob, forced)
        read = jnp.where(live, token, -1)
        outputs, caches = particles.step(self.decoder, params[0], state.contexts, rows.caches, read, rows.length - live)
        rows = rows._replace(outputs=_where(live, outputs, rows.outputs), caches=caches)
        ended = live & (self._end(rows, token) | rows.outputs.ended)
        queue = (picked.forced >= 0).sum(-1)
        waiting = rows.length - picked.rows.length < queue  # forced tokens are one piece
        capped = False if c.tokens_per_step is None else rows.length - begin >= c.tokens_per_step
        boundary = live & (ended | ((self._delimiter(rows, token) | capped) & ~waiting) | (rows.length >= c.max_tokens))
        rows, taken = _stepped(rows, boundary), taken + boundary
        begin = jnp.where(boundary, rows.length, begin)
        full = (rows.length >= c.max_tokens) | (rows.steps >= c.max_steps) | stuck
        reason = jnp.where(ended, ENDED, jnp.where((live | stuck) & full, FULL, rows.reason))
        tally = self._tallied(state, tally, live, forced, rows.length)
        live = live & (reason == GOING) & ~(boundary & (taken >= picked.steps))
        if s.race:
            live = live & ((picked.live & (reason == ENDED)).sum(-1) < s.race)[:, None]
        return _Going(rows._replace(reason=reason), tally, broke, live, taken, begin)

    def _draw(
        self, picked: Extension, lineage_keys: jax.Array, rows: Population
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(token, its log-probability, whether it was forced) `[problems, width]`."""
        shape = rows.length.shape
        keys = sampling.step_keys(lineage_keys, rows.length.reshape(-1))
        settings = self._rows_settings(picked.temperature)
        drawn = sampling.draw(keys, self._logits(picked, rows).reshape(-1, self.decoder.vocab_size), settings)
        token, logprob = drawn.token.reshape(shape), drawn.logprob.reshape(shape)
        if not self.strategy.forced:
            return token, logprob, jnp.zeros(shape, bool)
        at = rows.length - picked.rows.length
        inside = at < self.strategy.forced
        next_forced = jnp.take_along_axis(picked.forced, jnp.where(inside, at, 0)[..., None], -1)[..., 0]
        forced = inside & (next_forced >= 0)
        return jnp.where(forced, next_forced, token), logprob, forced

    def _logits(self, picked: Extension, rows: Population) -> jax.Array:
        """What the next tokens are drawn from `[problems, width, vocab]`: of the model that writes, among several."""
        if self.strategy.writers == 1:
            return rows.outputs.logits
        return jnp.take_along_axis(rows.outputs.logits, picked.writer[..., None, None], axis=-2)[..., 0, :]

    def _rows_settings(self, temperature: jax.Array) -> SamplingRows:
        n = temperature.size
        wide = jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape[1:])), self._settings)
        if not wide.filters.tempered:
            return wide
        own = temperature.reshape(-1)
        return dataclasses.replace(wide, temperature=jnp.where(jnp.isnan(own), wide.temperature, own))

    def _affordable(self, state: State, picked: Extension, carry: _Going) -> tuple[jax.Array, jax.Array]:
        """The live rows that the budget pays for, the first ones first, and the problems where it does not pay for all.

        What scoring this round's rows will cost is set aside.
        """
        budget, live = self.config.budget, carry.live
        if budget is None or budget.unit == "seconds":
            return live, carry.broke
        longer = carry.rows._replace(length=carry.rows.length + live)
        own = self._own(longer.length)
        if budget.unit == "tokens":
            price = live.astype(jnp.float32)
        elif budget.unit == "flops":
            flops, contexts = self._prices["flops"], state.contexts.length[:, None] + own
            each = flops.fixed + flops.per_context * contexts + flops.per_window * flops.windowed(contexts)
            price = jnp.where(live, each, 0.0)
        else:
            size, prompt = self._prices["bytes"], state.contexts.length[:, None]
            first = live & (jnp.cumsum(live, axis=-1) == 1)
            each, once = (0, prompt + own) if self.strategy.together else (own, prompt)
            price = jnp.where(live, size.fixed + size.per_context * each, 0.0)
            price = price + jnp.where(first, size.per_context * once, 0.0)
        to_read = self._to_read(state, longer, picked.live).sum(-1).astype(jnp.float32)
        aside = {"tokens": 1.0, "flops": self.scorer.flops_per_token, "bytes": 0.0}[budget.unit] * to_read
        spent = self.spent(state.costs.charged(carry.tally, self.strategy.together), state.contexts)
        total = (spent + aside)[:, None] + jnp.cumsum(price, axis=-1)
        pays = total <= budget.amount
        return live & pays, carry.broke | (live & ~pays).any(-1)

    def _look_ahead(self, params: Any, state: State, picked: Extension) -> tuple[State, Extension]:
        """Let the scorer see the rows some greedy steps later. What they write is forgotten, but charged."""
        further = picked._replace(
            live=picked.live & (picked.rows.reason == GOING),
            steps=jnp.full_like(picked.steps, self.strategy.lookahead),
            temperature=jnp.zeros_like(picked.temperature),
            forced=jnp.full_like(picked.forced, -1),
        )
        state, further = self._extend(params, state, further)
        # What lies after their length is never read; what has no positions is that of before.
        before, after = picked.rows.caches, further.rows.caches
        rows = jax.tree.map(lambda axis, a, b: a if axis < 0 else b, self._axes, before.rows, after.rows)
        kept = picked.rows._replace(caches=before._replace(rows=rows))
        return state, picked._replace(rows=kept, judged=further.rows)

    def _own(self, length: jax.Array) -> jax.Array:
        """Keys beside the prompt that rows of `length` tokens attend to `[problems, width]`."""
        return jnp.broadcast_to(length.sum(-1, keepdims=True), length.shape) if self.strategy.together else length

    def _tallied(self, state: State, tally: Tally, live: jax.Array, forced: jax.Array, length: jax.Array) -> Tally:
        """The tally with one token step, after which rows have `length` tokens."""
        return tally.stepped(state.contexts.length, self._own(length), live, forced, self._window)

    def _traced(self, state: State) -> State:
        """The answer so far, written down for anytime curves."""
        if state.trace is None:
            return state
        _, best = self.answers(state)
        p, t = state.population, state.trace
        mine = particles.view(p, state.costs.rounds, state.costs.rounds)
        found = (best >= 0)[:, None]
        tokens = jnp.take_along_axis(mine.tokens, jnp.maximum(best, 0)[:, None, None], 1)[:, 0]
        score = jnp.take_along_axis(p.score, jnp.maximum(best, 0)[:, None], 1)[:, 0]
        here = (jnp.arange(self.config.max_rounds) == state.costs.rounds[:, None] - 1) & state.occupied[:, None]
        return state._replace(
            trace=Trace(
                jnp.where(here[..., None], jnp.where(found, tokens, -1)[:, None], t.tokens),
                jnp.where(here, score[:, None], t.score),
                jax.tree.map(lambda all, now: jnp.where(here, now[:, None], all), t.costs, state.costs),
            )
        )


class _Going(NamedTuple):
    """The token loop: rows, what they cost, who is broke, who is live, steps taken, and where each row's step began."""

    rows: Population
    tally: Tally
    broke: jax.Array
    live: jax.Array
    taken: jax.Array
    begin: jax.Array


def _where(mask: jax.Array, a: Outputs, b: Outputs) -> Outputs:
    return jax.tree.map(lambda x, y: jnp.where(mask.reshape(*mask.shape, *(1,) * (x.ndim - 2)), x, y), a, b)


def _taken(rows: Population) -> jax.Array:
    return jnp.arange(rows.ends.shape[-1]) < rows.steps[..., None]


def _written(rows: Population, live: jax.Array, token: jax.Array, logprob: jax.Array, forced: jax.Array) -> Population:
    """The rows with one more token where they are live."""
    end, origin = rows.length, jnp.where(forced, FORCED, rows.lineage)
    return rows._replace(
        tokens=_put(rows.tokens, live, end, token),
        logprobs=_put(rows.logprobs, live, end, logprob),
        origins=_put(rows.origins, live, end, origin),
        length=end + live,
    )


def _stepped(rows: Population, boundary: jax.Array) -> Population:
    """The rows with one more step where they are at a boundary."""
    ends = _put(rows.ends, boundary, rows.steps, rows.length)
    scores = _put(rows.scores, boundary, rows.steps, jnp.nan)
    return rows._replace(steps=rows.steps + boundary, ends=ends, scores=scores)


def _put(x: jax.Array, which: jax.Array, at: jax.Array, values: Any) -> jax.Array:
    """x `[problems, width, n]` with `values` at `at`, both `[problems, width]`, in the rows `which`."""
    problems, rows = jnp.ogrid[: x.shape[0], : x.shape[1]]
    return x.at[problems, rows, jnp.where(which, at, x.shape[2])].set(values, mode="drop")


def _streams(state: State, seed: int, lineage: jax.Array) -> jax.Array:
    """(seed, problem, lineage) of every row, `[problems, width, 3]` uint32."""
    problem = jnp.broadcast_to(state.problem[:, None], lineage.shape)
    return jnp.stack([jnp.full_like(lineage, seed), problem, lineage], -1)
