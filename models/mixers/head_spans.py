"""Attention whose heads see different keys: windows of their own (Fu et al. 2024, "MoA: mixture of sparse attention for
automatic large language model compression", arXiv:2406.14909), or windows side by side and shifted ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from models.deferred import jax, jnp
from models.errors import require
from models.kept import Kept
from models.mixers.attention import Attention
from models.stream import Stream

if TYPE_CHECKING:
    from models.context import Lead
    from models.past import Arrays, Past
    from models.span import Span


@dataclass(frozen=True)
class UnlikeHeads(Attention):
    """`Attention` whose key-value heads, and the query heads that each serves, do not all see the same keys.

    Heads of one span attend together: as many calls as there are spans, and 4 head_dim FLOPs per head and pair of its
    own span. Keeps k and v under one name for each span.
    """

    undivided: ClassVar[tuple[str, ...]] = ("tensor",)  # which divides heads whatever they see

    def _spans(self, s: Stream) -> dict[int, tuple[Span, list[int]]]:
        """What tells spans apart -> (the span, the key-value heads that have it)."""
        raise NotImplementedError

    def kept(self, s: Stream) -> dict[str, Kept]:
        """Keys and values, those of a span together."""
        head_dim = self._sizes(s)[2]
        return {
            f"{name}{which}": Kept((len(heads), head_dim), ("kv_heads", "head_dim"), window=span.window)
            for which, (span, heads) in self._spans(s).items()
            for name in "kv"
        }

    def flops(self, s: Stream, seq: int, before: int = 0, causal: bool = True) -> int:
        """Of every head's own pairs, or of all."""
        heads, kv, head_dim = self._sizes(s)
        if not causal:
            return super().flops(s, seq, before, causal)
        pairs = sum(len(mine) * span.pairs(seq, before) for span, mine in self._spans(s).values())
        return 4 * head_dim * (heads // kv) * pairs

    def attended(
        self, s: Stream, q: jax.Array, k: jax.Array, v: jax.Array, past: Past, lead: Lead | None
    ) -> tuple[jax.Array, Past]:  # fmt: skip
        """(the weighted values `[batch, seq, heads, head_dim]`, the past with k and v).

        A past takes all that a layer keeps of a token at once: each call gives it all of them, and reads its own.
        """
        heads, kv, head_dim = self._sizes(s)
        q = q.reshape(*q.shape[:2], kv, heads // kv, head_dim)
        new: dict[str, jax.Array] = {}
        spans = self._spans(s)
        for which, (_, mine) in spans.items():
            new |= {f"k{which}": k[:, :, jnp.asarray(mine)], f"v{which}": v[:, :, jnp.asarray(mine)]}
        found = []
        for which, (span, mine) in spans.items():
            queries = q[:, :, jnp.asarray(mine)].reshape(*q.shape[:2], -1, head_dim)
            y, past = past.attend(queries, new, span, partial(_of, which))
            found.append(y.reshape(*y.shape[:2], len(mine), heads // kv, head_dim))
        order = [head for _, mine in spans.values() for head in mine]
        y = jnp.concatenate(found, axis=2)[:, :, jnp.asarray([order.index(head) for head in range(kv)])]
        return y.reshape(*y.shape[:2], heads, head_dim), past


def _of(which: int, kept: Arrays) -> tuple[Any, Any]:
    """Keys and values of the heads that have this span."""
    return kept[f"k{which}"], kept[f"v{which}"]


@dataclass(frozen=True)
class HeadSpans(UnlikeHeads):
    """`Attention` with a window for every key-value head and the query heads that it serves; weights are the same.

    Heads of one window attend together: as many calls as there are windows, and 4 head_dim FLOPs per head and pair of
    its own window. models.elastic chooses windows. Keeps k and v under one name for each window.
    """

    windows: tuple[int, ...] = ()  # keys that each key-value head sees, a query's own included

    def _check(self) -> None:
        super()._check()
        fix = "give one for each key-value head"
        require(len(self.windows) == self.kv_heads, "windows", f"has {len(self.windows)} of {self.kv_heads}", fix)
        for window in self.windows:
            require(window >= 1, "windows", f"has {window}", "give positive integers")
        require(self.window is None, "window", "is set beside windows", "leave it None")

    def _spans(self, s: Stream) -> dict[int, tuple[Span, list[int]]]:
        of = {w: [i for i, own in enumerate(self.windows) if own == w] for w in sorted(set(self.windows))}
        return {window: (self.span(s)._replace(window=window), heads) for window, heads in of.items()}


@dataclass(frozen=True)
class ShiftedWindows(UnlikeHeads):
    """`Attention` over windows that lie side by side, shifted by half of one in the other half of the heads; weights
    are the same (StyleSwin, Zhang et al. 2022, arXiv:2112.10762, here causal and of one dimension).

    A query sees the keys up to itself of the `window` positions that it stands in. The windows of the first half of the
    key-value heads begin with the sequence; those of the others half a window earlier, so that their first is half as
    long. So every layer sees over the edges of its windows, at no more FLOPs than with one kind: (window + 1) / 2 pairs
    per query. Keeps k and v under one name for each half; half a window of every head is read on average.
    """

    def _check(self) -> None:
        super()._check()
        window, kv = self.window, self.kv_heads or 0
        require(window is not None and window % 2 == 0, "window", f"is {window}, of which half is the shift",
                "give an even number")  # fmt: skip
        require(kv % 2 == 0, "kv_heads", f"is {kv}, of which half is shifted", "give an even number")

    def _spans(self, s: Stream) -> dict[int, tuple[Span, list[int]]]:
        window, half = self.window or 0, self._sizes(s)[1] // 2
        halves = {0: list(range(half)), window // 2: list(range(half, 2 * half))}
        return {shift: (self.span(s)._replace(shift=shift), heads) for shift, heads in halves.items()}
