"""Hash layers: experts follow from the id of a token alone (Roller et al. 2021): nothing to learn or to balance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from models.deferred import jax, jnp, ops
from models.errors import require
from models.stream import Stream
from models.weight import Weight

if TYPE_CHECKING:
    from models.channels.experts import Experts
    from models.routing import Plan

MIX = (0x7FEB352D, 0x846CA68B)  # odd factors of a 32-bit finaliser of few biased bits (Mueller's "lowbias32")


@dataclass(frozen=True)
class Hashed:
    """Every pair of id and expert is hashed to 32 bits, and an id takes the k experts of the largest; weights 1 / k.

    Over many ids the load is even as far as their frequencies are; no weights, no gradient, no balance loss.
    """

    seed: int = 0

    causal: ClassVar[bool] = True

    def check(self, m: Experts) -> None:
        """No field that it does not read."""
        require(0 <= self.seed < 2**31, "router.seed", f"is {self.seed}", "give an integer in [0, 2^31)")
        for field in ("score", "groups", "bias_rate", "normalize", "free"):
            default = type(m).__dataclass_fields__[field].default
            problem = f"is {getattr(m, field)}, which hashed ids do not read"
            require(getattr(m, field) == default, field, problem, "leave it out, or use the router TopK")

    def weights(self, m: Experts, s: Stream) -> dict[str, Weight]:
        """None."""
        return {}

    def slots(self, m: Experts, tokens: int) -> int:
        """As for top-k."""
        return min(tokens, math.ceil(m.top_k * tokens * m.capacity_factor / m.experts))

    def route(self, m: Experts, w: Any, x: jax.Array, tokens: jax.Array) -> Plan:
        """The experts of every id; they differ from each other."""
        pair = tokens[..., None].astype(jnp.uint32) * m.experts + jnp.arange(m.experts, dtype=jnp.uint32)
        ranked = mixed(pair + jnp.uint32(0x9E3779B9 * self.seed % 2**32))
        found = []
        for _ in range(m.top_k):
            best = jnp.argmax(ranked, -1)
            ranked = jnp.where(jax.nn.one_hot(best, m.experts, dtype=bool), 0, ranked)
            found.append(best.astype(jnp.int32))
        expert = jnp.stack(found, -1)
        choice = ops.Assignment(expert, jnp.full(expert.shape, m.scale / m.top_k, jnp.float32))
        share = ops.shares(choice, m.experts)
        nothing = jnp.zeros(x.shape[0], jnp.float32)
        peak = m.experts * share.max(-1)
        return ops.Plan(choice, nothing, m.experts * jnp.square(share).sum(-1), peak, nothing)


def mixed(x: jax.Array) -> jax.Array:
    """A hash of 32 bits of x uint32: another for each, every bit of x in every bit of it; 0 is left to masks."""
    for factor, shift in zip(MIX, (16, 15), strict=True):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return jnp.maximum(x ^ (x >> 16), 1)
