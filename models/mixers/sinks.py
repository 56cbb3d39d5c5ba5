"""Attention with sinks: every head may leave a share of its weights to a learned score (gpt-oss; Xiao et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from models.deferred import jax, jnp, ops
from models.errors import require
from models.mixers.attention import Attention
from models.stream import Stream
from models.weight import Weight, WeightTree

if TYPE_CHECKING:
    from models.context import Lead


@dataclass(frozen=True)
class Sinks(Attention):
    """`Attention` whose softmax has one score more in every head, learned and of no value: the weights sum to less.

    sinks `[kv_heads, heads / kv_heads]`: the scores, as they enter the softmax. They are a `Lead` of one key, seen from
    everywhere, whatever the window: of one feature, 1, met by a query that is the score over the span's scale.
    """

    undivided: ClassVar[tuple[str, ...]] = ("context",)

    def _check(self) -> None:
        super()._check()
        require(self.softcap is None, "softcap", "is set, which would cap the sinks too", "leave it None")

    def weights(self, s: Stream) -> WeightTree:
        """Those of attention, and the sinks."""
        heads, kv, _ = self._sizes(s)
        return {**super().weights(s), "sinks": Weight((kv, heads // kv), ("kv_heads", "query_heads"), "vector")}

    def flops(self, s: Stream, seq: int, before: int = 0, causal: bool = True) -> int:
        """Those of attention, and of every query with the one key: 2 for its score, 2 head_dim for its value."""
        heads, _, head_dim = self._sizes(s)
        return super().flops(s, seq, before, causal) + 2 * (1 + head_dim) * heads * seq

    def lead(self, s: Stream, w: Any, q: jax.Array) -> Lead | None:
        """The one key of every head, and queries `[batch, seq, heads, 1]` float32 that give it the heads' scores."""
        _, kv, head_dim = self._sizes(s)
        scores = w["sinks"].reshape(-1).astype(jnp.float32) / self.scale(s)
        scores = jnp.broadcast_to(scores[:, None], (*q.shape[:3], 1))
        return ops.Lead(scores, jnp.ones((1, kv, 1)), jnp.zeros((1, kv, head_dim)))
