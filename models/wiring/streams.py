"""ParScale: P streams through the same weights, told apart by learned prefixes and joined by learned weights (Chen et
al. 2025, "Parallel scaling law", arXiv:2505.10475).

Every layer reads h_1 .. h_P `[d_model]` of a token with one set of weights; attention (`Streamed`) puts learned keys
and values, other ones for each stream, before the tokens. After the final norm the streams are joined,

    h = sum_p (softmax(W_2 silu(W_1 [h_1; ..; h_P]))_p (1 - smoothing) + smoothing / P) h_p.

Parameters grow by the prefixes and P d^2 + P d, FLOPs and caches P-fold, bytes of weights that are read not at all. One
stream without a prefix is the model itself. The published law is L = E + (A / (N (k log P + 1)))^alpha.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.channels.dense import Dense
from models.deferred import jax, jnp, ops
from models.errors import require
from models.stream import Stream
from models.weight import Weight, WeightTree
from models.wiring.prenorm import PreNorm
from models.wiring.residual import Norm, Residual

if TYPE_CHECKING:
    from models.layer import Layer
    from models.past import Past
    from models.routing import Routing

MOST = 64  # streams; more is a slip


@dataclass(frozen=True)
class Streams(Residual):
    """Layers hand on `[batch, seq, streams, d_model]`, each stream wired as by `PreNorm`."""

    streams: int = 4
    smoothing: float = 0.01  # of the weights that join the streams, so that every one keeps a gradient

    def __post_init__(self) -> None:
        require(1 <= self.streams <= MOST, "streams", f"is {self.streams}", f"give an integer from 1 to {MOST}")
        require(0 <= self.smoothing < 1, "smoothing", f"is {self.smoothing}", "give a share in [0, 1)")

    @property
    def copies(self) -> int:
        """Streams of a token."""
        return self.streams

    def check(self, s: Stream, layer: Layer) -> None:
        """Attention over as many streams, and channels that transform every stream alone."""
        super().check(s, layer)
        channel = layer.channel
        problem = f"has streams, which {type(channel).__name__} does not take"
        require(channel is None or isinstance(channel, Dense), "streams", problem, "use Dense, or another wiring")

    def once(self, s: Stream) -> WeightTree:
        """W_1 `[streams, d_model, d_model]` and W_2 `[d_model, streams]`, of more than one stream."""
        if self.streams == 1:
            return {}
        d, p = s.d_model, self.streams
        up = Weight((p, d, d), ("stream", "embed", "joined"), "matrix", inputs=2, std=s.hidden_std(p * d))
        return {"join_up": up, "join_down": Weight((d, p), ("joined", "stream"), "matrix", std=s.hidden_std(d))}

    def weights(self, s: Stream, layer: Layer) -> WeightTree:
        """As for `PreNorm`."""
        return PreNorm().weights(s, layer)

    def enter(self, s: Stream, layers: Sequence[Layer], x: jax.Array) -> jax.Array:
        """All streams begin alike."""
        return jnp.broadcast_to(x[:, :, None], (*x.shape[:2], self.streams, x.shape[-1]))

    def leave(self, s: Stream, w: Any, x: jax.Array, norm: Norm) -> jax.Array:
        """The streams, normed and joined."""
        x = norm(x)
        if self.streams == 1:
            return x[:, :, 0]
        scores = ops.contract(jax.nn.silu(ops.contract(x, w["join_up"], dims=2)), w["join_down"])
        share = jax.nn.softmax(scores.astype(jnp.float32)) * (1 - self.smoothing) + self.smoothing / self.streams
        return (share[..., None] * x.astype(jnp.float32)).sum(2).astype(x.dtype)

    def apply(
        self, s: Stream, layer: Layer, w: Any, x: jax.Array, past: Past, tokens: jax.Array
    ) -> tuple[jax.Array, Past, tuple[Routing, ...]]:  # fmt: skip
        """x `[batch, seq, streams, d_model]` through one layer."""
        return PreNorm().apply(s, layer, w, x, past, tokens)
