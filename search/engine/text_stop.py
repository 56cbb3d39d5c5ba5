"""Stops given as text: whether a sample has just written one, however its tokens cut the text.

A text is looked for in the bytes of the tokens, by the automaton of Aho and Corasick (1975), which a table moves by
whole tokens. So a stop is found inside of a longer token, spelled in other tokens than its own, and across any border
between tokens, on the device and without decoding.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.errors import ConfigError, require

Spelling = Sequence[bytes]  # what each token adds to a text that has begun


class Machine(NamedTuple):
    """moves `[states, tokens]` int16: the state after a token, or -1 - that state where the token completes a text.

    State 0 is the beginning.
    """

    moves: np.ndarray

    def end(self, tokens: Sequence[int]) -> tuple[int, bool]:
        """(the state after these tokens, whether the last of them completed a text)."""
        state, hit = 0, False
        for token in tokens:
            move = int(self.moves[state, token])
            state, hit = (-1 - move, True) if move < 0 else (move, False)
        return state, hit

    def check(
        self,
        texts: Sequence[str],
        field: str,
        ends: Collection[int] = (),
        allowed: Collection[int] | None = None,
        most: int | None = None,
    ) -> None:
        """ConfigError for texts of which no sample of at most `most` tokens can ever write one."""
        usable = np.ones(self.moves.shape[1], bool) if allowed is None else np.zeros(self.moves.shape[1], bool)
        usable[list(allowed or ())] = True
        going = usable.copy()
        going[list(ends)] = False
        reached, new, tokens = {0}, {0}, 0  # the states after so many tokens, and those that fewer do not reach
        while new and (most is None or tokens < most):
            rows, tokens = self.moves[sorted(new)], tokens + 1
            if (rows[:, usable] < 0).any():
                return
            new = set(np.unique(rows[:, going]).tolist()) - reached
            reached |= new
        what = "no tokens that may be drawn spell it" if not new else f"it takes more than {most} tokens"
        raise ConfigError(field, f"{', '.join(map(repr, texts))} can never match: {what}", "remove it")


def machine(texts: Sequence[str], spelling: Spelling, vocab_size: int) -> Machine:
    """The automaton of some texts over `vocab_size` tokens, of which `spelling` has the bytes (none: no text)."""
    goto, final = _trie([text.encode() for text in texts])
    step, hits = _completed(goto, final)
    words = [*spelling[:vocab_size], *[b""] * max(vocab_size - len(spelling), 0)]
    lengths = np.array([len(word) for word in words])
    order = np.argsort(-lengths, kind="stable")
    data = np.zeros((vocab_size, max(lengths.max(initial=0), 1)), np.uint8)
    for i, word in enumerate(words):
        data[i, : len(word)] = np.frombuffer(word, np.uint8)
    state = np.repeat(np.arange(len(step), dtype=np.int32)[:, None], vocab_size, axis=1)
    hit = np.zeros(state.shape, bool)
    for at in range(lengths.max(initial=0)):
        left = order[: int((lengths > at).sum())]  # the tokens that have so many bytes
        state[:, left] = step[state[:, left], data[left, at]]
        hit[:, left] |= hits[state[:, left]]
    return Machine(np.where(hit, -1 - state, state).astype(np.int16))


def _trie(texts: Sequence[bytes]) -> tuple[list[dict[int, int]], set[int]]:
    """The trie of some texts: the children of every node, and the nodes at which a text is complete."""
    require(all(texts), "stop", "holds an empty text", "remove it")
    require(sum(map(len, texts)) < 2**15 - 1, "stop", "has more than 32,766 bytes", "give shorter texts")
    goto: list[dict[int, int]] = [{}]
    final = set()
    for text in texts:
        node = 0
        for byte in text:
            if byte not in goto[node]:
                goto[node][byte] = len(goto)
                goto.append({})
            node = goto[node][byte]
        final.add(node)
    return goto, final


def _completed(goto: list[dict[int, int]], final: set[int]) -> tuple[np.ndarray, np.ndarray]:
    """(the node after every node and byte `[nodes, 256]` int32, whether a text ends at each node `[nodes]` bool)."""
    step = np.zeros((len(goto), 256), np.int32)
    hits = np.zeros(len(goto), bool)
    hits[list(final)] = True
    fall = np.zeros(len(goto), np.int32)
    queue = [0]
    for node in queue:
        if node:
            step[node] = step[fall[node]]
            hits[node] |= hits[fall[node]]
        for byte, child in goto[node].items():
            fall[child] = step[node, byte] if node else 0
            step[node, byte] = child
            queue.append(child)
    return step, hits


class Machines:
    """The automata of all texts that an engine's samples look for, in one table; state 0 looks for nothing."""

    def __init__(self, spelling: Spelling, vocab_size: int):
        self._spelling, self._vocab_size = spelling, vocab_size
        self._found: dict[tuple[str, ...], tuple[int, Machine]] = {}
        self._table: jax.Array | None = None

    def _of(self, texts: tuple[str, ...]) -> tuple[int, Machine]:
        if texts not in self._found:
            first = 1 + sum(len(made.moves) for _, made in self._found.values())
            require(first + sum(map(len, texts)) < 2**13, "stop_texts", "are too many different ones", "give fewer")
            self._found[texts] = first, machine(texts, self._spelling, self._vocab_size)
            self._table = None
        return self._found[texts]

    def state(self, texts: tuple[str, ...], tokens: Sequence[int]) -> int:
        """Where a sample that looks for these texts stands in `table` after its tokens."""
        if not texts:
            return 0
        first, made = self._of(texts)
        return first + made.end(tokens)[0]

    def completed(self, texts: tuple[str, ...], tokens: Sequence[int]) -> bool:
        """Whether the last of these tokens completed one of the texts."""
        return bool(texts) and self._of(texts)[1].end(tokens)[1]

    @property
    def table(self) -> jax.Array:
        """All moves `[states, vocab_size]` int16, the number of states a power of two; `[0, 0]` without any text."""
        if self._table is None:
            parts = [np.zeros((1, self._vocab_size), np.int16)]
            for first, made in self._found.values():
                parts.append(np.where(made.moves < 0, made.moves - first, made.moves + first).astype(np.int16))
            whole = np.concatenate(parts)
            room = 1 << (len(whole) - 1).bit_length()
            padded = np.pad(whole, ((0, room - len(whole)), (0, 0)))
            self._table = jnp.asarray(padded if self._found else np.zeros((0, 0), np.int16))
        return self._table


def move(table: jax.Array, state: jax.Array, token: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(the next states int32, whether the tokens completed a text) of states and tokens of one shape."""
    moved = table[state, jnp.maximum(token, 0)].astype(jnp.int32)
    return jnp.where(moved < 0, -1 - moved, moved), moved < 0


def just_completed(table: jax.Array, tokens: jax.Array, length: jax.Array, width: int) -> jax.Array:
    """Whether the last of each row's `length` `[...]` tokens `[..., L]` completed a text of the one machine `table`.

    width: bytes of the longest text; earlier tokens than that have no part in it.
    """
    state, hit = jnp.zeros(length.shape, jnp.int32), jnp.zeros(length.shape, bool)
    for back in range(width, 0, -1):
        at = length - back
        token = jnp.take_along_axis(tokens, jnp.maximum(at, 0)[..., None], axis=-1)[..., 0]
        after, found = move(table, state, token)
        state, hit = jnp.where(at >= 0, after, state), jnp.where(at >= 0, found, hit)
    return hit


def cut(text: str, stops: Sequence[str], before: int = 0) -> str:
    """A text up to the first place where a stop begins, of those that end after its first `before` letters."""
    found = (text.find(stop, max(before - len(stop) + 1, 0)) for stop in stops)
    return text[: min((at for at in found if at >= 0), default=len(text))]
