"""Answers in texts: what a completion answers, read on the host from its text and on the device from its tokens' bytes.

whole         the whole text
after:MARK    what stands behind the last MARK, up to the end of its line
number        the last number; number:MARK  the first number behind the last MARK (GSM8K's is number:####)
boxed         what stands in the last \\boxed{...}

White space around an answer is no part of it; of a number neither are commas between digits, leading zeros, and zeros
that end a fraction, so that 1,200.50 and 1200.5 are one answer. What cannot be read is no answer and never votes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.errors import require
from search.engine.text_stop import Spelling
from search.named import instead
from search.strategies.votes import UNREAD, AnswerOf, hashed

READERS = ("whole", "after", "number", "boxed")
SPACES = b" \t\n\r\v\f"
BOX = "\\boxed{"
Array = Any  # NumPy's or JAX's


@dataclass(frozen=True)
class Reader:
    """One way of reading answers; `reader` makes it from its text."""

    kind: str
    mark: str = ""

    def read(self, text: str) -> str | None:
        """The answer in a text, None where there is none."""
        data = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
        padded = np.append(data, np.zeros(1, np.uint8))  # so that nothing is empty
        found = _READ[self.kind](padded, np.int32(len(data)), self.mark.encode(), np)
        spelled = bytes(padded[found.inside])
        if not spelled:
            return None
        return "-" * bool(found.negative) + spelled.decode(errors="replace")

    def right(self, text: str, answer: str) -> bool:
        """Whether a text answers as `answer` does, which may be the answer alone or a text that holds it."""
        bare = Reader(self.kind) if self.kind == "number" else Reader("whole")
        wanted = self.read(answer) or bare.read(answer)
        return wanted is not None and self.read(text) == wanted

    def on_device(self, spelling: Spelling, vocab_size: int, ends: Collection[int] = ()) -> AnswerOf:
        """The same from tokens: equal codes for equal answers. spelling: the bytes of every token; those of `ends` are
        no part of a text."""
        table, lengths = _bytes(spelling, vocab_size, ends)
        mark, read = self.mark.encode(), _READ[self.kind]

        def answer_of(tokens: jax.Array, length: jax.Array) -> jax.Array:
            data, size = _spelled(jnp.asarray(table), jnp.asarray(lengths), tokens, length)
            found = read(data, size, mark, jnp)
            rank = jnp.cumsum(found.inside) - 1
            letters = jnp.where(found.inside, data.astype(jnp.int32), 0) + 256 * found.negative
            return jnp.where(found.inside.any(), hashed(letters, rank, found.inside), UNREAD)

        return answer_of


def reader(text: str, field: str = "answer") -> Reader:
    """The reader that a text names; ConfigError with near names when there is none."""
    kind, colon, mark = text.partition(":")
    require(kind in READERS, field, f"{kind!r} is no way of reading answers", instead(kind, READERS))
    marked = kind in ("after", "number")
    require(bool(mark) or kind != "after", field, "names no text that answers stand behind", "write after:####, say")
    require(marked or not colon, field, f"{kind!r} takes no mark, but is given {mark!r}", f"write {kind}")
    return Reader(kind, mark)


class _Found(NamedTuple):
    """Which bytes make up the answer `[n]` bool, none of them where there is none; whether a number is negative."""

    inside: Array
    negative: Array


# The functions below are NumPy's and JAX's at once (`xp`): one definition for the host and the device.


def _is(data: Array, letters: bytes, xp: Any) -> Array:
    return xp.isin(data, xp.asarray(list(letters), np.uint8))


def _behind(data: Array, size: Array, mark: bytes, xp: Any) -> Array:
    """Where the last `mark` ends, -1 without one; 0 where no mark is asked for."""
    if not mark:
        return np.int32(0)
    n, place = len(data), xp.arange(len(data))
    here = xp.ones(n, bool)
    for i, letter in enumerate(mark):
        here = here & (xp.take(data, xp.minimum(place + i, n - 1)) == letter)
    here = here & (place + len(mark) <= size)
    return xp.max(xp.where(here, place + len(mark), -1))


def _stripped(data: Array, inside: Array, xp: Any) -> Array:
    """The bytes of a span without white space at its ends."""
    place, solid = xp.arange(len(data)), inside & ~_is(data, SPACES, xp)
    first = xp.min(xp.where(solid, place, len(data)))
    last = xp.max(xp.where(solid, place, -1))
    return inside & (place >= first) & (place <= last)


def _whole(data: Array, size: Array, mark: bytes, xp: Any) -> _Found:
    return _Found(_stripped(data, xp.arange(len(data)) < size, xp), np.bool_(False))


def _after(data: Array, size: Array, mark: bytes, xp: Any) -> _Found:
    place, start = xp.arange(len(data)), _behind(data, size, mark, xp)
    line = (place >= start) & (place < size) & (start >= 0)
    end = xp.min(xp.where(line & (data == ord("\n")), place, len(data)))
    return _Found(_stripped(data, line & (place < end), xp), np.bool_(False))


def _boxed(data: Array, size: Array, mark: bytes, xp: Any) -> _Found:
    place, start = xp.arange(len(data)), _behind(data, size, BOX.encode(), xp)
    inside = (place >= start) & (place < size) & (start >= 0)
    step = xp.where(inside & (data == ord("{")), 1, xp.where(inside & (data == ord("}")), -1, 0))
    closed = xp.cumsum(step) < 0
    end = xp.min(xp.where(closed, place, len(data)))
    return _Found(_stripped(data, inside & (place < end) & closed.any(), xp), np.bool_(False))


def _number(data: Array, size: Array, mark: bytes, xp: Any) -> _Found:
    """The digits of a number that count, and its point: of the run of digits, commas and points that holds the last
    digit (behind a mark: the first), up to a second point."""
    n, place, start = len(data), xp.arange(len(data)), _behind(data, size, mark, xp)
    region = (place >= start) & (place < size) & (start >= 0)
    digit = region & (data >= ord("0")) & (data <= ord("9"))
    dot = region & (data == ord("."))
    run = digit | dot | (region & (data == ord(",")))
    chosen = xp.argmax(digit) if mark else n - 1 - xp.argmax(digit[::-1])
    number = xp.cumsum(run & ~xp.concatenate([xp.zeros(1, bool), run[:-1]]))
    run = run & (number == number[chosen]) & digit.any()
    first = xp.min(xp.where(run, place, n))
    point = xp.min(xp.where(run & dot & xp.concatenate([digit[1:], xp.zeros(1, bool)]), place, n))
    stop = xp.min(xp.where(run & dot & (place > point), place, n))
    digit = digit & run & (place < stop)
    nonzero = digit & (data != ord("0"))
    units = xp.max(xp.where(digit & (place < point), place, -1))
    trailing = xp.max(xp.where(nonzero & (place > point), place, -1))  # -1: no fraction
    lone = xp.where(trailing >= 0, point, units)  # a 0 before the point stays where nothing else does
    leading = xp.minimum(xp.min(xp.where(nonzero, place, n)), lone)
    whole = digit & (place < point) & (place >= leading)
    fraction = (digit & (place > point) & (place <= trailing)) | ((place == point) & (trailing >= 0))
    letter = xp.take(data, xp.maximum(first - 2, 0))
    word = ((letter | 32) >= ord("a")) & ((letter | 32) <= ord("z")) | ((letter >= ord("0")) & (letter <= ord("9")))
    minus = (first - 1 >= xp.maximum(start, 0)) & (xp.take(data, xp.maximum(first - 1, 0)) == ord("-"))
    negative = minus & ~((first - 2 >= xp.maximum(start, 0)) & word) & nonzero.any()
    return _Found(whole | fraction, negative)


_READ = {"whole": _whole, "after": _after, "number": _number, "boxed": _boxed}


def _bytes(spelling: Spelling, vocab_size: int, ends: Collection[int]) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of every token `[vocab, longest]` uint8 and how many they are `[vocab]` int32."""
    words = [*spelling[:vocab_size], *[b""] * max(vocab_size - len(spelling), 0)]
    words = [b"" if token in set(ends) else word for token, word in enumerate(words)]
    table = np.zeros((vocab_size, max(1, *map(len, words))), np.uint8)
    for token, word in enumerate(words):
        table[token, : len(word)] = np.frombuffer(word, np.uint8)
    return table, np.asarray([len(word) for word in words], np.int32)


def _spelled(table: jax.Array, lengths: jax.Array, tokens: jax.Array, length: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(the bytes of a text of `length` tokens `[max_tokens * longest]` uint8, how many they are)."""
    own = jnp.where(jnp.arange(len(tokens)) < length, lengths[jnp.maximum(tokens, 0)], 0)
    ends = jnp.cumsum(own)
    place = jnp.arange(len(tokens) * table.shape[1] + 1)
    at = jnp.minimum(jnp.searchsorted(ends, place, side="right"), len(tokens) - 1)
    data = table[jnp.maximum(tokens[at], 0), jnp.clip(place - (ends[at] - own[at]), 0, table.shape[1] - 1)]
    return jnp.where(place < ends[-1], data, 0), ends[-1]
