"""Product-key memory (Lample et al. 2019, "Large memory layers with product keys", arXiv:1907.05242): every token reads
a few of very many values, found by two small searches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from models.channels.exchanged import Exchanged
from models.deferred import jax, jnp, ops
from models.errors import require
from models.stream import Stream
from models.weight import Draw, Weight


@dataclass(frozen=True)
class Spread:
    """N(0, std)."""

    std: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """`[*shape]` float32."""
        return self.std * jax.random.normal(key, shape, jnp.float32)


@dataclass(frozen=True)
class ProductKeys:
    """sum_i softmax_i(s) v_i over the `top_k` best of keys^2 values, per head, summed over heads.

    A query is two halves q1, q2, each normed; value (a, b) scores q1.c_a + q2.c'_b with `keys` sub-keys c and as many
    c'. The best of all pairs are among those of the best `top_k` a and b, so that 2 keys + top_k^2 scores stand for
    keys^2. A token reads heads x top_k values of d_model; all others cost memory alone. Looked up like embeddings, keys
    and values are no matrices: they are neither decayed nor orthogonalised.
    """

    keys: int = 64  # sub-keys of each half, so that there are keys^2 values
    top_k: int = 8
    heads: int = 2  # queries, of which each has sub-keys of its own; the values are shared
    half: int = 32  # features of half a query

    slot: ClassVar[str] = "memory"
    last: ClassVar[str] = "values"  # the weight of its last product
    undivided: ClassVar[tuple[str, ...]] = ()  # mesh axes that cannot divide it

    def __post_init__(self) -> None:
        for field in ("keys", "top_k", "heads", "half"):
            value = getattr(self, field)
            require(value >= 1, field, f"is {value}", "give a positive integer")
        require(self.top_k <= self.keys, "top_k", f"is {self.top_k} of {self.keys} keys", f"use at most {self.keys}")

    def resolved(self, s: Stream) -> ProductKeys:
        """Itself."""
        problem = f"{s.bias!r} asks for biases that ProductKeys does not have"
        require(s.bias != "all", "model.bias", problem, "use 'none', 'qkv' or 'attention'")
        return self

    def weights(self, s: Stream) -> dict[str, Weight]:
        """query `[d_model, heads, 2, half]` and the gain of its norms, keys `[heads, 2, keys, half]`, values
        `[keys^2, d_model]`."""
        query = (s.d_model, self.heads, 2, self.half), ("embed", "memory_heads", "halves", "head_dim")
        keys = (self.heads, 2, self.keys, self.half), ("memory_heads", "halves", "memory_keys", "head_dim")
        draw: Draw = Spread(self.half**-0.5)
        small: Draw = Spread(s.hidden_std(s.d_model) * s.residual_scale)
        used = self.heads * self.top_k
        values = (self.keys**2, s.d_model), ("memory_values", "embed")
        return {
            "query": Weight(*query, "matrix", std=s.hidden_std(s.d_model)),
            "query_gain": Weight((self.half,), ("head_dim",), "vector", std=1.0),
            "keys": Weight(*keys, "vector", draw=draw),
            "values": Weight(*values, "vector", draw=small, experts_used=min(used, self.keys**2)),
        }

    def hidden(self, s: Stream) -> int:
        """Scores of the values that a token reads."""
        return self.heads * self.top_k

    def exchanged(self, s: Stream, tokens: int, devices: int) -> tuple[Exchanged, ...]:
        """Nothing."""
        return ()

    def flops(self, s: Stream, seq: int) -> int:
        """Scores of all sub-keys, and the sum of the values that are read."""
        return seq * 2 * self.heads * (2 * self.keys * self.half + self.top_k * s.d_model)

    def apply(self, s: Stream, w: Any, x: jax.Array, tokens: jax.Array) -> tuple[jax.Array, None]:
        """x `[batch, seq, d_model]` -> as x."""
        q = ops.contract(ops.gather_positions(x), w["query"])
        q = ops.normalize(q, w["query_gain"], None, "rmsnorm", s.norm_eps)
        sub = jnp.einsum("bthpd,hpnd->bthpn", q, w["keys"].astype(q.dtype), preferred_element_type=jnp.float32)
        best, at = jax.lax.top_k(sub, self.top_k)  # of either half
        pairs = best[..., 0, :, None] + best[..., 1, None, :]
        place = at[..., 0, :, None] * self.keys + at[..., 1, None, :]
        score, chosen = jax.lax.top_k(pairs.reshape(*pairs.shape[:-2], -1), self.top_k)
        place = jnp.take_along_axis(place.reshape(*place.shape[:-2], -1), chosen, axis=-1)
        found = jnp.take(w["values"], place, axis=0)  # [batch, seq, heads, top_k, d_model]
        share = jax.nn.softmax(score).astype(found.dtype)
        y = jnp.einsum("bthk,bthkd->btd", share, found, preferred_element_type=jnp.float32)
        return ops.scatter_positions(y.astype(x.dtype)), None
