"""Attention behind a learned prefix: keys and values that every token sees besides (Li & Liang 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from models.deferred import jax, ops
from models.errors import require
from models.mixers.attention import Attention
from models.mixers.streamed import small
from models.stream import Stream
from models.weight import Weight, WeightTree

if TYPE_CHECKING:
    from models.context import Lead


@dataclass(frozen=True)
class Prefixed(Attention):
    """`Attention` with keys and values `[prefix, kv_heads, head_dim]` of its own, seen from everywhere, whatever the
    window. Neither they nor the queries that meet them are rotated. What is kept per token is as of attention."""

    prefix: int = 16  # keys before the first token

    undivided: ClassVar[tuple[str, ...]] = ("context",)

    def _check(self) -> None:
        super()._check()
        require(self.prefix >= 1, "prefix", f"is {self.prefix}", "give a positive number of keys, or use Attention")

    def weights(self, s: Stream) -> WeightTree:
        """Those of attention, and the prefix."""
        _, kv, head_dim = self._sizes(s)
        one = Weight((self.prefix, kv, head_dim), ("prefix", "kv_heads", "head_dim"), "vector", draw=small)
        return {**super().weights(s), "prefix_k": one, "prefix_v": one}

    def flops(self, s: Stream, seq: int, before: int = 0, causal: bool = True) -> int:
        """Those of attention, and of every query with the prefix."""
        heads, _, head_dim = self._sizes(s)
        return super().flops(s, seq, before, causal) + 4 * head_dim * heads * seq * self.prefix

    def lead(self, s: Stream, w: Any, q: jax.Array) -> Lead | None:
        """The prefix, and the queries before they are rotated."""
        return ops.Lead(q, w["prefix_k"], w["prefix_v"])
