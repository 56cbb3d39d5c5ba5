"""Streamed attention: several streams of one text through the same weights, each behind a learned prefix of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from models.deferred import jax, ops
from models.errors import require
from models.kept import Kept
from models.mixers.attention import Attention
from models.stream import Stream
from models.weight import Weight, WeightTree

if TYPE_CHECKING:
    from models.context import Lead


@dataclass(frozen=True)
class Streamed(Attention):
    """`Attention` of x `[batch, seq, streams, d_model]`: a stream sees its own tokens and prefix (`Streams`).

    Prefix: keys and values `[prefix, streams, kv_heads, head_dim]` each, which every token sees besides (Li & Liang
    2021). Neither they nor the queries that meet them are rotated, so that a document may stand anywhere; published
    code rotates these queries by their positions. Keeps k and v of every stream.
    """

    streams: int = 4
    prefix: int = 48  # keys before the first token; 0: none, and streams that begin alike stay so

    undivided: ClassVar[tuple[str, ...]] = ("context",)

    def _check(self) -> None:
        super()._check()
        require(self.streams >= 1, "streams", f"is {self.streams}", "give a positive integer")
        require(self.prefix >= 0, "prefix", f"is {self.prefix}", "give a number of keys, or 0 for none")
        problem, fix = "is set, which would hide the prefix", "leave it None"
        require(self.window is None, "window", problem, fix)
        normed = self.qk_norm and self.qk_norm_over == "all"
        require(not normed, "qk_norm_over", "norms heads of all streams together", "use 'head'")

    def weights(self, s: Stream) -> WeightTree:
        """Those of attention, and the prefixes."""
        weights = dict(super().weights(s))
        if self.prefix:
            _, kv, head_dim = self._sizes(s)
            shape, axes = (self.prefix, self.streams, kv, head_dim), ("prefix", "stream", "kv_heads", "head_dim")
            weights |= {name: Weight(shape, axes, "vector", draw=small) for name in ("prefix_k", "prefix_v")}
        return weights

    def kept(self, s: Stream) -> dict[str, Kept]:
        """Keys and values of every stream."""
        _, kv, head_dim = self._sizes(s)
        one = Kept((self.streams * kv, head_dim), ("kv_heads", "head_dim"))
        return {"k": one, "v": one}

    def flops(self, s: Stream, seq: int, before: int = 0, causal: bool = True) -> int:
        """Of every stream, its prefix included."""
        heads, _, head_dim = self._sizes(s)
        return self.streams * (super().flops(s, seq, before, causal) + 4 * head_dim * heads * seq * self.prefix)

    def lead(self, s: Stream, w: Any, q: jax.Array) -> Lead | None:
        """The prefixes `[prefix, streams x kv_heads, head_dim]`, seen by queries that are not rotated."""
        if not self.prefix:
            return None
        return ops.Lead(q, *(w[name].reshape(self.prefix, -1, w[name].shape[-1]) for name in ("prefix_k", "prefix_v")))


def small(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """N(0, 0.02): prefixes that began alike would stay so."""
    return 0.02 * jax.random.normal(key, shape)
