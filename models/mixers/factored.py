"""Multi-matrix factorisation attention (MFA, Hu et al. 2024, arXiv:2412.19255; Step-3, arXiv:2507.19427): many wide
query heads read out of one short latent, and one head of keys and values for all of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from models.deferred import jax, jnp, ops
from models.errors import require
from models.mixers.attention import Attention
from models.stream import Stream
from models.weight import Weight, WeightTree


@dataclass(frozen=True)
class Factored(Attention):
    """`Attention` whose queries are W_q norm(x W_d) with W_d `[d_model, query_rank]`; one key-value head, if not told.

    Weights: d_model query_rank + query_rank + query_rank heads head_dim + 2 d_model kv_heads head_dim + heads head_dim
    d_model, so that heads may be many and wide while a token keeps 2 kv_heads head_dim numbers: 512 in Step-3, whose 64
    heads of 256 are read from a latent of 2,048. Scores cost what those of as many heads of attention do.
    """

    query_rank: int = 256

    undivided: ClassVar[tuple[str, ...]] = ("tensor",)  # which divides key-value heads

    def resolved(self, s: Stream) -> Factored:
        """Itself with what it leaves out, as for `Attention`, but one key-value head."""
        mixer = super(Factored, dataclasses.replace(self, kv_heads=self.kv_heads or 1)).resolved(s)
        assert isinstance(mixer, Factored)
        problem = f"{s.bias!r} asks for biases that Factored does not have"
        require(s.bias == "none", "model.bias", problem, "use 'none'")
        return mixer

    def _check(self) -> None:
        super()._check()
        require(self.query_rank >= 1, "query_rank", f"is {self.query_rank}", "give a positive integer")
        require(not self.gated, "gated", "is set, but queries that are factored have no gates", "leave it False")

    def weights(self, s: Stream) -> WeightTree:
        """q_down `[d_model, query_rank]`, q_norm, q_up `[query_rank, kv_heads, group, head_dim]`, kv
        `[d_model, kv_heads, 2, head_dim]`: k, then v; the rest is attention's."""
        heads, kv, head_dim = self._sizes(s)
        d, rank = s.d_model, self.query_rank
        weights = {name: weight for name, weight in super().weights(s).items() if name != "qkv"}
        up_axes = ("latent", "kv_heads", "query_heads", "head_dim")
        return {
            "q_down": Weight((d, rank), ("embed", "latent"), "matrix", std=s.hidden_std(d)),
            "q_latent_norm": s.norm_weights(rank, "latent"),
            "q_up": Weight((rank, kv, heads // kv, head_dim), up_axes, "matrix", std=s.hidden_std(rank)),
            "kv": Weight((d, kv, 2, head_dim), ("embed", "kv_heads", "qkv", "head_dim"), "matrix", std=s.hidden_std(d)),
            **weights,
        }

    def projected(self, s: Stream, w: Any, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x `[batch, seq, d_model]` -> (q, k, v), `[batch, seq, heads, head_dim]` each."""
        x = ops.gather_positions(x)
        q = ops.contract(ops.norm(s, w["q_latent_norm"], ops.contract(x, w["q_down"])), w["q_up"])
        k, v = jnp.moveaxis(ops.contract(x, w["kv"]), -2, 0)
        return q.reshape(*q.shape[:2], -1, q.shape[-1]), k, v
