"""Cross-attention to an earlier layer's keys and values (Sun et al. 2024, "You only cache once", arXiv:2405.05254)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.deferred import jax, ops
from models.errors import require
from models.kept import Kept
from models.mixers.attention import Attention
from models.stream import Stream
from models.weight import Weight, WeightTree

if TYPE_CHECKING:
    from models.past import Past


@dataclass(frozen=True)
class Cross(Attention):
    """`Attention` with queries alone: keys and values are those of the last layer before it that has its own, of as
    many heads; the wiring `Shared` hands them on. Keeps nothing, but reads that layer's cache.

    Keys were normed and rotated where they were made, so that both layers' rotary positions should be the same.
    """

    def resolved(self, s: Stream) -> Cross:
        """Itself with what it leaves out, as for `Attention`."""
        mixer = super().resolved(s)
        assert isinstance(mixer, Cross)
        require(s.bias == "none", "model.bias", f"{s.bias!r} asks for biases that Cross does not have", "use 'none'")
        require(not self.gated, "gated", "is set, but queries of Cross have no gates", "leave it False")
        return mixer

    def takes(self, s: Stream) -> dict[str, int]:
        """Features of each thing that it reads of other layers (models.lent)."""
        _, kv, head_dim = self._sizes(s)
        return {"k": kv * head_dim, "v": kv * head_dim}

    def weights(self, s: Stream) -> WeightTree:
        """q `[d_model, kv_heads, group, head_dim]`; the rest is attention's, without what keys and values need."""
        heads, kv, head_dim = self._sizes(s)
        shape, axes = (s.d_model, kv, heads // kv, head_dim), ("embed", "kv_heads", "query_heads", "head_dim")
        rest = {name: weight for name, weight in super().weights(s).items() if name not in ("qkv", "k_norm")}
        return {"q": Weight(shape, axes, "matrix", std=s.hidden_std(s.d_model)), **rest}

    def kept(self, s: Stream) -> dict[str, Kept]:
        """Nothing."""
        return {}

    def reads(self, s: Stream) -> dict[str, Kept]:
        """What the other layer keeps per token."""
        return super().kept(s)

    def apply(self, s: Stream, w: Any, x: jax.Array, past: Past) -> tuple[jax.Array, Past, None]:
        """x `[batch, seq, d_model]` -> (as x, the past as it is)."""
        a = self.resolved(s)
        heads, kv, head_dim = self._sizes(s)
        q = ops.contract(ops.gather_positions(x), w["q"]).reshape(*x.shape[:2], heads, head_dim)
        if a.qk_norm:
            q = self._normed(s, w["q_norm"], q)
        if a.rotary is not None and a.rotary.share:
            angles = ops.rotary_angles(past.positions, a.rotary.dims(head_dim), a.rotary.theta, a.rotary.scaling)
            q = ops.rotate(q, *angles, interleaved=a.rotary.interleaved)
        y = past.again(q, self.span(s), kv).reshape(*x.shape[:-1], kv, heads // kv, head_dim)
        return ops.scatter_positions(ops.contract(y, w["out"], dims=3)), past, None
