"""Mixture of grouped experts: as many choices in every group of experts (Tang et al. 2025, "Pangu Pro MoE",
arXiv:2505.21411), so that devices with a group each have equal work whatever the tokens are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from models.deferred import jax, jnp, ops
from models.errors import divisors, require
from models.routers.top_k import router_logits, router_matrix
from models.stream import Stream
from models.weight import Weight

if TYPE_CHECKING:
    from models.channels.experts import Experts
    from models.routing import Plan


@dataclass(frozen=True)
class Grouped:
    """p = softmax(x W) over all E experts; the k / G best of each of G equal groups of neighbours; weights p_e s_e.

    W `[d_model, experts]` and s `[experts]`, from 1, are learned; the weights are not made to sum to one. Of T tokens
    every group gets T k / G choices. `Experts.groups`, which bars groups, is another thing.
    """

    groups: int = 4

    causal: ClassVar[bool] = True

    def check(self, m: Experts) -> None:
        """Groups of equal size with equally many choices, and no field that it does not read."""
        require(self.groups >= 1, "router.groups", f"is {self.groups}", "give a positive integer")
        for field in ("experts", "top_k"):
            value = getattr(m, field)
            problem = f"is {self.groups}, which does not divide {field} {value}"
            require(value % self.groups == 0, "router.groups", problem, f"use one of {divisors(value)}")
        for field in ("score", "groups", "bias_rate", "free"):
            default = type(m).__dataclass_fields__[field].default
            problem = f"is {getattr(m, field)}, which grouped experts do not read"
            require(getattr(m, field) == default, field, problem, "leave it out, or use the router TopK")

    def weights(self, m: Experts, s: Stream) -> dict[str, Weight]:
        """The router's matrix, and a factor on the weight of each expert."""
        scale = Weight((m.experts,), ("router",), "vector", std=1.0)
        return {"router": router_matrix(s, m.experts), "router_scale": scale}

    def slots(self, m: Experts, tokens: int) -> int:
        """As for top-k."""
        return min(tokens, math.ceil(m.top_k * tokens * m.capacity_factor / m.experts))

    def route(self, m: Experts, w: Any, x: jax.Array, tokens: jax.Array) -> Plan:
        """k / groups choices in every group, in the order of the groups; within one the best come first."""
        logits = router_logits(w, x)
        scores = jax.nn.softmax(logits)
        open_to = scores.reshape(*scores.shape[:-1], self.groups, -1)
        first = jnp.arange(self.groups, dtype=jnp.int32) * (m.experts // self.groups)
        found = []
        for _ in range(m.top_k // self.groups):  # argmax and masks, as in `choose`
            best = jnp.argmax(open_to, -1)
            open_to = jnp.where(jax.nn.one_hot(best, open_to.shape[-1], dtype=bool), -1.0, open_to)
            found.append(best.astype(jnp.int32) + first)
        expert = jnp.stack(found, -1).reshape(*scores.shape[:-1], m.top_k)
        weighed = scores * w["router_scale"].astype(jnp.float32) * m.scale
        chosen = jax.nn.one_hot(expert, m.experts)
        choice = ops.Assignment(expert, (chosen * weighed[..., None, :]).sum(-1))
        balance = ops.load_balance(choice, scores)
        penalty = m.balance_coefficient * balance + m.z_coefficient * ops.z_loss(logits)
        peak = m.experts * ops.shares(choice, m.experts).max(-1)
        return ops.Plan(choice, penalty, balance, peak, jnp.zeros_like(peak))
