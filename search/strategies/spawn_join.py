"""Spawn and join (APR, Pan et al. 2025): a text calls for sub-searches, which run side by side and report back."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from models.errors import require
from search.config import SearchConfig
from search.strategies.setting import Setting, StrategyConfig, needs
from search.strategies.strategy import WHOLE, Answer, Choice, Strategy, View
from search.strategies.survey import Tags


@dataclass(frozen=True)
class Calls:
    """The tokens of a call and of its reply.

    A parent writes `call child line child line close`; this block is replaced by `reply result text result text done`,
    the text of each child being what it wrote after its own line and the last `answer` marker, without its end.
    """

    call: int
    child: int
    close: int
    reply: int
    result: int
    done: int
    answer: int
    end: int

    def __post_init__(self) -> None:
        tokens = list(vars(self).values())
        require(len(set(tokens)) == len(tokens), "calls", f"{tokens} repeat a token", "give each its own token")


class Family(NamedTuple):
    """spawned `[]` bool: the children ran in the last round; start `[]` int32: where the parent's call begins; lines
    `[children]` int32: length of each child's line, -1 for no child; calls `[]` int32 so far."""

    spawned: jax.Array
    start: jax.Array
    lines: jax.Array
    calls: jax.Array


def spawn_join(children: int, calls: Calls, max_tokens: int, most_calls: int = 8, answer_len: int = 16) -> Strategy:
    """One parent and up to `children` sub-searches at a time, of one level.

    The parent writes until `close`, which must be a delimiter of the search. Each child starts from the prompt and its
    own line alone and runs to its end; then the parent's call is replaced by the reply, the rest of the parent is read
    from its cache, and it goes on. Lines beyond `children` get no reply, a call that holds no line is left as it is,
    and so is every call after `most_calls`. A child that wrote no end replies nothing; replies longer than `answer_len`
    lose their beginning. The ledger's depth is parent + sum of the longest children + replies, which are read one
    token at a time here. max_tokens: the search's own.
    """
    require(children >= 1, "children", f"is {children}", "give 1 or more")
    require(most_calls >= 1, "most_calls", f"is {most_calls}", "give 1 or more")
    rows = jnp.arange(1 + children)

    def replied(state: Family, view: View) -> jax.Array:
        """What the parent reads in the place of its call, `[max_tokens]`, -1 after it."""
        told = jax.vmap(partial(_told, calls, answer_len))
        texts, counts = told(view.tokens[1:], view.length[1:], state.lines, view.complete[1:])
        counts = jnp.where(state.lines >= 0, counts, 0)
        begin = 1 + jnp.cumsum(counts) - counts
        whole = jnp.full(max_tokens, -1).at[0].set(calls.reply)
        inside = jnp.arange(1 + answer_len) < counts[:, None]
        places = jnp.where(inside, begin[:, None] + jnp.arange(1 + answer_len), max_tokens)
        whole = whole.at[places.reshape(-1)].set(texts.reshape(-1), mode="drop")
        return whole.at[1 + counts.sum()].set(calls.done, mode="drop")

    def select(key: jax.Array, state: Family, view: View) -> tuple[Choice, Family]:
        tokens, length = view.tokens[0], view.length[0]
        start, own, counts = _lines(calls, children, tokens, length)
        closed = (length > 0) & (tokens[jnp.maximum(length - 1, 0)] == calls.close) & ~view.ended[0]
        spawn = ~state.spawned & closed & (counts >= 0).any() & (state.calls < most_calls)
        join = state.spawned
        parent = jnp.where(join, replied(state, view), -1)
        forced = jnp.where(spawn, jnp.pad(own, ((1, 0), (0, 0)), constant_values=-1), -1).at[0].set(parent)
        live = jnp.where(spawn, jnp.pad(counts >= 0, (1, 0)), (rows == 0) & (~view.ended[0] | join))
        cut = jnp.where(spawn, jnp.where(rows > 0, 0, -1), jnp.where((rows == 0) & join, state.start, -1))
        # A child without a line of its own would go on from the parent's last call: it is emptied all the same.
        choice = strategy.choice(
            rows, live, steps=jnp.where(spawn, WHOLE, 1), cut=cut, forced=forced, done=~join & view.ended[0]
        )
        state = Family(
            spawn, jnp.where(spawn, start, state.start), jnp.where(spawn, counts, state.lines), state.calls + spawn
        )
        return choice, state

    def answer(state: Any, view: View) -> Answer:
        weight = jnp.where(rows == 0, view.complete & ~state.spawned, False).astype(jnp.float32)
        return Answer(weight, jnp.where(weight[0] > 0, 0, -1))

    def report(state: Family, view: View) -> dict[str, jax.Array]:
        return {"calls": state.calls}

    def init() -> Family:
        return Family(jnp.bool_(False), jnp.int32(0), jnp.full(children, -1, jnp.int32), jnp.int32(0))

    strategy = Strategy(
        "spawn_join", 1 + children, 1 + children, init, select, answer,
        cuts=True, forced=max_tokens, scored=False, report=report,
    )  # fmt: skip
    return strategy


def _lines(calls: Calls, children: int, tokens: jax.Array, length: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(start of the last call, each child's line `[children, max_tokens]`, -1 after it, their lengths)."""
    index = jnp.arange(len(tokens))
    start = jnp.max(jnp.where(tokens == calls.call, index, -1))
    opens = (tokens == calls.child) & (index > start) & (start >= 0)
    number = jnp.cumsum(opens) - 1  # of the line that each token belongs to

    def line(child: jax.Array) -> tuple[jax.Array, jax.Array]:
        begin = jnp.argmax(opens & (number == child)) + 1
        inside = (number == child) & ~opens & (index < length - 1)
        count = jnp.where((opens & (number == child)).any(), inside.sum(), -1)
        own = jnp.take(tokens, index + begin, mode="clip")
        return jnp.where(index < count, own, -1), count

    own, counts = jax.vmap(line)(jnp.arange(children))
    return start, own, counts


def _told(
    calls: Calls, answer_len: int, tokens: jax.Array, length: jax.Array, line: jax.Array, complete: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(a child's reply `[1 + answer_len]`, -1 after it, its length)."""
    index = jnp.arange(len(tokens))
    marked = jnp.max(jnp.where((tokens == calls.answer) & (index >= line), index + 1, line))
    stop = length - (tokens[jnp.maximum(length - 1, 0)] == calls.end)
    begin = jnp.maximum(marked, stop - answer_len)
    count = jnp.where(complete, jnp.maximum(stop - begin, 0), 0)
    place = jnp.arange(answer_len)
    text = jnp.where(place < count, jnp.take(tokens, place + begin, mode="clip"), -1)
    return jnp.concatenate([jnp.full(1, calls.result), text]), 1 + count


@dataclass(frozen=True)
class SpawnJoin(StrategyConfig):
    """A text calls for sub-searches, which run side by side and report back; the fields are texts of one token each."""

    children: int  # sub-searches at a time
    call: str  # begins a call
    child: str  # begins a child's line in it
    close: str  # ends it
    reply: str  # begins what is read in its place
    result: str  # begins a child's text in it
    done: str  # ends it
    mark: str  # what a child's reply stands behind
    most_calls: int = 8
    answer_len: int = 16  # tokens of a child's reply

    name = "spawn_join"
    tags = Tags("hybrid", ("stimulation",), "threads", ("accuracy", "efficiency"))

    def make(self, setting: Setting | None) -> Strategy:
        """See `spawn_join`."""
        at = needs(setting, self.name)
        names = ("call", "child", "close", "reply", "result", "done")
        tokens = {name: at.token(getattr(self, name), f"{self.name}.{name}") for name in names}
        mark = at.token(self.mark, f"{self.name}.mark")
        calls = Calls(**tokens, answer=mark, end=at.ends[0])
        return spawn_join(self.children, calls, at.search.max_tokens, self.most_calls, self.answer_len)

    def sized(self, search: SearchConfig) -> SearchConfig:
        """A step ends where a call does."""
        return dataclasses.replace(search, delimiters=(self.close,), tokens_per_step=None)
