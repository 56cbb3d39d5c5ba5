"""Multi-head latent attention (DeepSeek-V2, Liu et al. 2024): keys and values are read out of one short latent."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from models.deferred import jax, jnp, ops
from models.errors import require
from models.kept import Kept
from models.rotary import Rotary
from models.span import Span
from models.stream import Stream
from models.weight import Weight, WeightTree

if TYPE_CHECKING:
    from models.past import Past


@dataclass(frozen=True)
class Latent:
    """Each token leaves a latent c = norm(x W) `[rank]` and one rotated key `[rotary_dim]` that all heads share.

    A head's key is [W_k c | rotated key], its value W_v c, its query [plain | rotated]. Where the past is kept, W_k
    goes into the query and W_v behind the weighted sum ("absorbed"), so that keys and values are never made: 2 (2 rank
    + rotary_dim) FLOPs per head and pair instead of 2 (key_dim + rotary_dim + value_dim), over a cache of rank +
    rotary_dim numbers per token. Whole sequences make them once, which costs less. Fields that are None are those of
    the model.
    """

    heads: int | None = None
    rank: int = 512  # of the latent
    query_rank: int | None = None  # of the queries' own latent; None: they are read from the stream
    key_dim: int = 128  # of a head's key that is not rotated
    rotary_dim: int = 64
    value_dim: int = 128
    rotary: Rotary | None = None
    gain: float = 1.0  # factor on the scores beside (key_dim + rotary_dim)^-1/2: mscale^2 of DeepSeek's YaRN

    slot: ClassVar[str] = "attention"
    last: ClassVar[str] = "out"
    undivided: ClassVar[tuple[str, ...]] = ()  # mesh axes that cannot divide it
    block: ClassVar[int] = 0

    def resolved(self, s: Stream) -> Latent:
        """Itself with the model's heads and rotary positions where it has none of its own."""
        for field in ("heads", "query_rank"):
            value = getattr(self, field)
            require(value is None or value >= 1, field, f"is {value}", "give a positive integer or None")
        for field in ("rank", "key_dim", "rotary_dim", "value_dim"):
            require(getattr(self, field) >= 1, field, f"is {getattr(self, field)}", "give a positive integer")
        require(self.gain > 0, "gain", f"is {self.gain}", "give a positive number")
        rotary = self.rotary or s.rotary
        require(rotary is not None, "model.positions", "are not rotary, which a latent mixer needs", "use 'rope'")
        require(self.rotary_dim % 2 == 0, "rotary_dim", f"is {self.rotary_dim}, but pairs rotate", "give an even one")
        return dataclasses.replace(self, heads=self.heads or s.n_heads, rotary=rotary)

    def weights(self, s: Stream) -> WeightTree:
        """down: to the latent and the rotated key; up: from the latent to every head's key and value."""
        h, d = self.heads or s.n_heads, s.d_model
        down, up = ("embed", "latent"), ("latent", "kv_heads", "head_dim")
        inner, both = self.key_dim + self.rotary_dim, self.key_dim + self.value_dim
        weights: dict[str, Any] = {
            "kv_down": Weight((d, self.rank + self.rotary_dim), down, "matrix", std=s.hidden_std(d)),
            "kv_norm": s.norm_weights(self.rank, "latent"),
            # read by heads in the absorbed form
            "kv_up": Weight((self.rank, h, both), up, "matrix", std=s.hidden_std(self.rank), unpacked=True),
        }
        if self.query_rank is None:
            weights["q"] = Weight((d, h, inner), ("embed", "kv_heads", "head_dim"), "matrix", std=s.hidden_std(d))
        else:
            weights["q_down"] = Weight((d, self.query_rank), down, "matrix", std=s.hidden_std(d))
            weights["q_norm"] = s.norm_weights(self.query_rank, "latent")
            weights["q_up"] = Weight((self.query_rank, h, inner), up, "matrix", std=s.hidden_std(self.query_rank))
        out_std = s.hidden_std(h * self.value_dim) * s.residual_scale
        axes = ("kv_heads", "head_dim", "embed")
        weights["out"] = Weight((h, self.value_dim, d), axes, "matrix", inputs=2, std=out_std)
        return weights

    def kept(self, s: Stream) -> dict[str, Kept]:
        """The latent after its norm and the key after its rotation, side by side: one head that every query reads."""
        return {"latent": Kept((1, self.rank + self.rotary_dim), ("latent_heads", "latent"))}

    def span(self) -> Span:
        """All keys up to a query."""
        return Span((self.key_dim + self.rotary_dim) ** -0.5 * self.gain)

    def flops(self, s: Stream, seq: int, before: int = 0, causal: bool = True) -> int:
        """Scores and weighted values: of whole sequences with every head's keys and values, of one token absorbed."""
        heads = self.heads or s.n_heads
        pairs = self.span().pairs(seq, before) if causal else seq * (before + seq)
        absorbed = seq == 1 and before
        features = 2 * self.rank + self.rotary_dim if absorbed else self.key_dim + self.rotary_dim + self.value_dim
        return 2 * features * heads * pairs

    def apply(self, s: Stream, w: Any, x: jax.Array, past: Past) -> tuple[jax.Array, Past, None]:
        """x `[batch, seq, d_model]` -> (as x, the past with its latents)."""
        rotary = self.rotary or s.rotary
        assert rotary is not None
        x = ops.gather_positions(x)
        down = ops.contract(x, w["kv_down"])
        latent = ops.norm(s, w["kv_norm"], down[..., : self.rank])
        q = ops.contract(x, w["q"]) if "q" in w else self._queries(s, w, x)
        angles = ops.rotary_angles(past.positions, self.rotary_dim, rotary.theta, rotary.scaling)
        turned = (y[..., -self.rotary_dim :] for y in (q, down[:, :, None]))
        q_rotated, k_rotated = (ops.rotate(y, *angles, interleaved=rotary.interleaved) for y in turned)
        q = q[..., : self.key_dim]
        attend = self._absorbed if past.keeps else self._expanded
        y, past = attend(w["kv_up"], q, q_rotated, latent, k_rotated, past)
        return ops.scatter_positions(ops.contract(y, w["out"], dims=2)), past, None

    def _queries(self, s: Stream, w: Any, x: jax.Array) -> jax.Array:
        return ops.contract(ops.norm(s, w["q_norm"], ops.contract(x, w["q_down"])), w["q_up"])

    def _expanded(
        self, up: jax.Array, q: jax.Array, q_rotated: jax.Array, latent: jax.Array, k_rotated: jax.Array, past: Past
    ) -> tuple[jax.Array, Past]:
        k, v = jnp.split(ops.contract(latent, up), [self.key_dim], axis=-1)
        k = jnp.concatenate([k, jnp.broadcast_to(k_rotated, (*k.shape[:3], self.rotary_dim))], axis=-1)
        return past.attend(jnp.concatenate([q, q_rotated], axis=-1), {"k": k, "v": v}, self.span())

    def _absorbed(
        self, up: jax.Array, q: jax.Array, q_rotated: jax.Array, latent: jax.Array, k_rotated: jax.Array, past: Past
    ) -> tuple[jax.Array, Past]:
        def product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
            return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32).astype(a.dtype)

        up_k, up_v = up[..., : self.key_dim], up[..., self.key_dim :]
        q = jnp.concatenate([product("bshk,rhk->bshr", q, up_k), q_rotated], axis=-1)
        new = {"latent": jnp.concatenate([latent[:, :, None], k_rotated], axis=-1)}
        y, past = past.attend(q, new, self.span(), self._read)
        return product("bshr,rhv->bshv", y, up_v), past

    def _read(self, kept: Any) -> tuple[Any, Any]:
        """Keys are all of it, values the latent."""
        return kept["latent"], ops.features(kept["latent"], self.rank)
