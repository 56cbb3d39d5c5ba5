"""Span: which keys a query sees and how they are scored; the one predicate of every attention kernel and cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import jax


class Span(NamedTuple):
    """scale: factor on q.k. window: keys that a query sees, its own included. softcap c: scaled scores s become
    c tanh(s / c) before the mask. causal: no query sees a key after itself. shift: windows do not slide but lie side by
    side, the first one cut short by so many positions, and a query sees the keys of the one that it stands in."""

    scale: float
    window: int | None = None
    softcap: float | None = None
    causal: bool = True
    shift: int | None = None

    def visible(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """Whether a key at position `key` is seen from position `query`: int32 arrays that broadcast, bool."""
        seen = key <= query if self.causal else (key == key) & (query == query)
        return seen if self.window is None else seen & self.near(query, key)

    def near(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """Whether the key lies within the window, on either side where the span is not causal."""
        assert self.window is not None
        if self.shift is not None:
            return (key + self.shift) // self.window == (query + self.shift) // self.window
        inside = key > query - self.window
        return inside if self.causal else inside & (key < query + self.window)

    def within(self, length: int) -> Span:
        """The same span over sequences of `length` tokens: a window that holds them all is none."""
        assert self.shift is None, "a window that is cut short does not hold what a whole one would"
        return self._replace(window=None) if self.window is not None and self.window >= length else self

    def pairs(self, seq: int, before: int = 0) -> int:
        """Query-key pairs of `seq` consecutive queries after `before` earlier tokens."""
        if self.shift is not None:
            return self._pairs_side_by_side(before + seq) - self._pairs_side_by_side(before)
        if not self.causal:
            last = before + seq
            window = min(self.window or last, last)
            return sum(min(last - 1, at + window - 1) - max(0, at - window + 1) + 1 for at in range(before, last))
        first, last = before + 1, before + seq  # keys that the first and the last query could see
        full = self.window if self.window is not None and self.window < last else last
        grow = max(0, min(last, full) - first + 1)  # queries that see all keys up to themselves
        return grow * (first + first + grow - 1) // 2 + (seq - grow) * full

    def _pairs_side_by_side(self, tokens: int) -> int:
        """Those of the first `tokens` queries: 1, 2, 3 .. in every window."""
        assert self.window is not None and self.shift is not None and self.causal
        first = min(tokens, self.window - self.shift)
        whole, rest = divmod(tokens - first, self.window)
        return (first * (first + 1) + whole * self.window * (self.window + 1) + rest * (rest + 1)) // 2
