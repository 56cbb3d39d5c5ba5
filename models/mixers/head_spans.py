"""Attention whose heads see different numbers of keys (Fu et al. 2024, "MoA: mixture of sparse attention for automatic
large language model compression", arXiv:2406.14909)."""

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


@dataclass(frozen=True)
class HeadSpans(Attention):
    """`Attention` with a window for every key-value head and the query heads that it serves; weights are the same.

    Heads of one window attend together: as many calls as there are windows, and 4 head_dim FLOPs per head and pair of
    its own window. models.elastic chooses windows. Keeps k and v under one name for each window.
    """

    windows: tuple[int, ...] = ()  # keys that each key-value head sees, a query's own included

    undivided: ClassVar[tuple[str, ...]] = ("tensor",)  # which divides heads whatever their windows

    def _check(self) -> None:
        super()._check()
        fix = "give one for each key-value head"
        require(len(self.windows) == self.kv_heads, "windows", f"has {len(self.windows)} of {self.kv_heads}", fix)
        for window in self.windows:
            require(window >= 1, "windows", f"has {window}", "give positive integers")
        require(self.window is None, "window", "is set beside windows", "leave it None")

    @property
    def _heads(self) -> dict[int, list[int]]:
        """Window -> the key-value heads that have it."""
        return {w: [i for i, own in enumerate(self.windows) if own == w] for w in sorted(set(self.windows))}

    def kept(self, s: Stream) -> dict[str, Kept]:
        """Keys and values, those of a window together."""
        head_dim = self._sizes(s)[2]
        return {
            f"{name}{window}": Kept((len(heads), head_dim), ("kv_heads", "head_dim"), window=window)
            for window, heads in self._heads.items()
            for name in "kv"
        }

    def flops(self, s: Stream, seq: int, before: int = 0, causal: bool = True) -> int:
        """Of every head's own pairs, or of all."""
        heads, kv, head_dim = self._sizes(s)
        if not causal:
            return super().flops(s, seq, before, causal)
        pairs = sum(self.span(s)._replace(window=window).pairs(seq, before) for window in self.windows)
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
        for window, mine in self._heads.items():
            new |= {f"k{window}": k[:, :, jnp.asarray(mine)], f"v{window}": v[:, :, jnp.asarray(mine)]}
        found = []
        for window, mine in self._heads.items():
            queries = q[:, :, jnp.asarray(mine)].reshape(*q.shape[:2], -1, head_dim)
            y, past = past.attend(queries, new, self.span(s)._replace(window=window), partial(_of_window, window))
            found.append(y.reshape(*y.shape[:2], len(mine), heads // kv, head_dim))
        order = [head for mine in self._heads.values() for head in mine]
        y = jnp.concatenate(found, axis=2)[:, :, jnp.asarray([order.index(head) for head in range(kv)])]
        return y.reshape(*y.shape[:2], heads, head_dim), past


def _of_window(window: int, kept: Arrays) -> tuple[Any, Any]:
    """Keys and values of the heads that have it."""
    return kept[f"k{window}"], kept[f"v{window}"]
