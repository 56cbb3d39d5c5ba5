"""Decoding: all slots advance token by token in one compiled loop, several tokens per round trip to the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from models import cache, transformer
from models.cache import Blocks, Groups, Ints, Layers, Partial, Pool, Store
from models.config import ModelConfig
from models.context import Lead
from models.kept import Kept
from models.past import Arrays, Past, Read, Step, keys_and_values, reach
from models.span import Span
from models.transformer import Params, logits
from search.engine import sampling, stop, text_stop
from search.engine.config import Recorded
from search.engine.margin import gap_to_flip
from search.engine.precision import computed
from search.engine.program import Program
from search.engine.sampling import SamplingRows

RUNNING, EOS, STOP, LENGTH, INVALID = range(5)  # why a row does not decode; an empty slot counts as LENGTH


class Rows(NamedTuple):
    """What every slot is doing, `[slots]` int32 unless stated.

    token: the next input; start: position of the first one, the prompt's last token; length: tokens drawn so far;
    begin: tokens of its prompt that it keeps in its own cache, 0 for one that shares them; limit: how many it may draw,
    and least: before how many it neither draws an end nor stops; reason: RUNNING or why not;
    stream `[slots, 3]` uint32: seed, problem and lineage of its random stream; stops `[slots, count, width]` and the
    last tokens `window` `[slots, width]` for them; moves `[states, vocab]` int16 and where each row stands in it (see
    `text_stop.Machines`; `[0, 0]` where no row looks for a text); history `[slots, max_len]`: all tokens, for the
    repetition penalty (width 0 without one).
    """

    token: Ints
    start: Ints
    length: Ints
    begin: Ints
    limit: Ints
    least: Ints
    reason: Ints
    stream: Ints
    stops: Ints
    window: Ints
    moves: Ints
    state: Ints
    history: Ints

    @property
    def own(self) -> jax.Array:
        """Tokens in each row's own cache."""
        return self.begin + self.length

    @property
    def origin(self) -> jax.Array:
        """Position of the first token of each row's own cache."""
        return self.start - self.begin


Prefixes = tuple[Groups, ...]  # the prefixes that rows share


class Drawn(NamedTuple):
    """What a stage drew, `[slots, steps]`: tokens int32 (-1 after a row's end), log-probabilities and gaps float32."""

    tokens: jax.Array
    logprobs: jax.Array
    gaps: jax.Array


@dataclass(frozen=True)
class SlotPast(Past):
    """One layer of all slots: the pages of prefixes that they share, then their own blocks and states.

    at `[slots, n]`: places of the new tokens in the own cache; live `[slots]` bool: rows whose state goes on.
    """

    positions: jax.Array
    pages: Store
    blocks: tuple[Store, ...]
    state: Store
    prefixes: Prefixes
    at: jax.Array
    live: jax.Array

    def attend(
        self, q: jax.Array, new: Arrays, span: Span, read: Read = keys_and_values, lead: Lead | None = None
    ) -> tuple[jax.Array, SlotPast]:  # fmt: skip
        """Over the shared prefix, then the own blocks, in which the new tokens are written first."""
        keys, values = read(new)
        n, kv_heads, group = q.shape[1], keys.shape[2], q.shape[2] // keys.shape[2]
        queries = cache.split_queries(q, kv_heads)
        part = self._over_prefix(queries, values.shape[-1], span, read)
        first, blocks = 0, []
        origin = (self.positions - self.at)[..., None]
        for block in self.blocks:
            block = cache.write(block, new, cache.write_block, self.at - first)
            length = cache.length_of(block)
            visible = span.visible(self.positions[..., None], origin + first + jnp.arange(length))
            over = cache.own_block(queries, block, jnp.tile(visible, (1, group, 1)), span, read)
            part = over if part is None else cache.merge(part, over)
            blocks.append(block)
            first += length
        assert part is not None
        y = cache.join_queries(cache.finish(cache.with_lead(part, lead, span)), n).astype(q.dtype)
        return y, dataclasses.replace(self, blocks=tuple(blocks))

    def _over_prefix(self, queries: jax.Array, features: int, span: Span, read: Read) -> Partial | None:
        """Queries `[slots, kv_heads, m, head_dim]` over what rows share, for values of so many features; None: rows
        share nothing."""
        if not self.prefixes:
            return None
        group = queries.shape[2] // self.positions.shape[1]
        part, positions = cache.nothing(queries, features), jnp.tile(self.positions, (1, group))
        for groups in self.prefixes:
            part = cache.shared_prefix(queries, positions, self.pages, groups, span, part, read)
        return part

    def carry(self, step: Step, inputs: Any, kept: Mapping[str, Kept], size: int) -> tuple[Any, SlotPast]:
        """Every live row's own state through its new tokens."""
        valid = jnp.broadcast_to(self.live[:, None], self.at.shape)
        nothing = jnp.zeros(self.at.shape, jnp.int32)
        own = {name: self.state[name] for name in kept}
        y, state = step(own, inputs, reach(nothing, valid, nothing[:, 0])[0])
        return y, dataclasses.replace(self, state={**self.state, **state})


def forward(
    config: ModelConfig,
    params: Params,
    pool: Pool,
    blocks: Blocks,
    states: Layers,
    prefixes: Prefixes,
    tokens: jax.Array,
    origin: jax.Array,
    own: jax.Array,
    live: jax.Array,
) -> tuple[jax.Array, Blocks, Layers]:
    """Logits `[slots, n, vocab]` float32 after each of the next tokens `[slots, n]`, and blocks and states with them.

    What is kept of them is written at `own`..`own + n` of every row's cache, which starts at position `origin`; both
    `[slots]`. live `[slots]` bool: the other rows' states stay as they are.
    """
    at = own[:, None] + jnp.arange(tokens.shape[1])
    positions = origin[:, None] + at
    pasts = [
        SlotPast(positions, pool.pages[i], tuple(block[i] for block in blocks), states[i], prefixes, at, live)
        for i in range(config.n_layers)
    ]
    hidden, head, after, _ = transformer.forward(config, params, tokens, positions, pasts=pasts)
    after = cast(tuple[SlotPast, ...], after)
    blocks = tuple(tuple(past.blocks[b] for past in after) for b in range(len(blocks)))
    states = tuple(past.state for past in after)
    if tokens.size == 1 and config.tied_embeddings and isinstance(head, jax.Array):
        return _logits_of_one(config, hidden, head), blocks, states
    return logits(config, hidden, head), blocks, states


def _logits_of_one(config: ModelConfig, hidden: jax.Array, head: jax.Array) -> jax.Array:
    """`transformer.logits` for hidden `[1, 1, d_model]` and a tied head, the table as the left operand.

    The other way round, XLA's CPU backend fuses the transposed table and the last norm into a loop over the vocabulary
    that norms once per token: 6 times slower.
    """
    y = jax.lax.dot_general(
        head.T.astype(jnp.float32), hidden[0, 0].astype(jnp.float32), (((1,), (0,)), ((), ())),
        preferred_element_type=jnp.float32,
    )[None, None]  # fmt: skip
    cap = config.logit_softcap
    return y if cap is None else cap * jnp.tanh(y / cap)


def lineage_keys(stream: jax.Array) -> jax.Array:
    """fold_in(fold_in(root(seed), problem), lineage) of every row: stream `[slots, 3]` uint32 -> `[slots, 2]`."""
    roots = jnp.stack([jnp.zeros_like(stream[:, 0]), stream[:, 0]], axis=-1)  # the threefry key of a 32-bit seed
    return sampling.step_keys(sampling.step_keys(roots, stream[:, 1]), stream[:, 2])


def advance(
    rows: Rows, settings: SamplingRows, keys: jax.Array, scores: jax.Array, ends: tuple[int, ...], gaps: bool,
    recorded: Recorded = "model",
) -> tuple[Rows, tuple[jax.Array, jax.Array, jax.Array]]:  # fmt: skip
    """Draw the next token of every running row from its logits `[slots, vocab]`, and see whether it ends there."""
    live = rows.reason == RUNNING
    forced = sampling.forced_at(settings, rows.length)
    stepped = sampling.step_keys(keys, rows.length)
    settings = sampling.bar(settings, ends, rows.length < rows.least)
    drawn = sampling.draw(stepped, scores, settings, history=rows.history, forced=forced)
    token = drawn.token
    gap = gap_to_flip(stepped, scores, settings, rows.history, forced, token) if gaps else jnp.zeros_like(drawn.logprob)
    moved = settled(rows, token, live, ends)
    unused = jnp.full_like(token, -1), jnp.zeros_like(drawn.logprob)
    logprob = drawn.filtered_logprob if recorded == "drawn" else drawn.logprob
    return moved, (jnp.where(live, token, unused[0]), jnp.where(live, logprob, unused[1]), gap)


def settled(rows: Rows, token: jax.Array, live: jax.Array, ends: tuple[int, ...]) -> Rows:
    """The rows after the `live` `[slots]` bool of them drew `token` `[slots]`, and whether they end there."""
    length = rows.length + 1
    window = stop.push(rows.window, token, live)
    reason = jnp.where(length >= rows.limit, LENGTH, RUNNING)
    late = length >= rows.least
    reason = jnp.where(late & (stop.matched(window, rows.stops) >= 0), STOP, reason)
    state = rows.state
    if rows.moves.shape[0]:
        state, found = text_stop.move(jnp.asarray(rows.moves), rows.state, token)
        reason = jnp.where(late & found, STOP, reason)
    for end in ends:
        reason = jnp.where(token == end, EOS, reason)
    reason = jnp.where(token < 0, INVALID, reason)
    history = rows.history
    if history.shape[1]:
        place = jnp.where(live, rows.start + length, history.shape[1])
        history = history.at[jnp.arange(len(token)), place].set(token, mode="drop")

    def keep(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(live, new, old).astype(old.dtype)

    return rows._replace(
        token=keep(jnp.maximum(token, 0), rows.token),
        length=keep(length, rows.length),
        reason=keep(reason, rows.reason),
        window=window,
        state=keep(state, rows.state),
        history=history,
    )


def without_moves(rows: Rows) -> Rows:
    """The rows as a stage gives them back: the host has the table of moves."""
    return rows._replace(moves=jnp.zeros((0, 0), jnp.int16))


@lru_cache(maxsize=64)
def make_stage(
    config: ModelConfig, steps: int, ends: tuple[int, ...], gaps: bool, recorded: Recorded = "model"
) -> Program:
    """The compiled stage: (params, pool, blocks, states, rows, settings, prefixes, most, enough) -> blocks, states,
    rows, drawn, i.

    It runs at most `most` steps (of `steps`, the width of what it returns) and stops early when `enough` rows or fewer
    are still running. `gaps` asks for near-ties. Blocks and states are donated. Engines of one model share programs.
    """

    def stage(
        params: Params,
        pool: Pool,
        blocks: Blocks,
        states: Layers,
        rows: Rows,
        settings: SamplingRows,
        prefixes: Prefixes,
        most: jax.Array,
        enough: jax.Array,
    ) -> tuple[Blocks, Layers, Rows, Drawn, jax.Array]:
        params = computed(config, params)  # once per stage, not once per token
        keys = lineage_keys(rows.stream)
        slots = rows.token.shape[0]
        drawn = Drawn(
            jnp.full((slots, steps), -1, jnp.int32), jnp.zeros((slots, steps)), jnp.full((slots, steps), jnp.inf)
        )

        def going(carry: tuple) -> jax.Array:
            i, _, _, rows, _ = carry
            return (i < most) & ((rows.reason == RUNNING).sum() > enough)

        def step(carry: tuple) -> tuple:
            i, blocks, states, rows, drawn = carry
            scores, blocks, states = forward(
                config, params, pool, blocks, states, prefixes, rows.token[:, None], rows.origin, rows.own,
                rows.reason == RUNNING,
            )  # fmt: skip
            rows, new = advance(rows, settings, keys, scores[:, 0], ends, gaps, recorded)
            drawn = Drawn(*(jax.lax.dynamic_update_slice(d, n[:, None], (0, i)) for d, n in zip(drawn, new)))
            return i + 1, blocks, states, rows, drawn

        i, blocks, states, rows, drawn = jax.lax.while_loop(going, step, (jnp.int32(0), blocks, states, rows, drawn))
        return blocks, states, without_moves(rows), drawn, i

    return Program(stage, donate_argnums=(2, 3))
