"""Soft mixture of experts: slots are weighted means of all tokens, and tokens of all slots (Puigcerver et al. 2023).

Nothing is chosen, dropped or balanced; but every token reads all others of its stretch, later ones too, as with
`ExpertChoice`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from models.deferred import jax, jnp, ops
from models.errors import require
from models.routers.expert_choice import slots_alone
from models.stream import Stream
from models.weight import Weight

if TYPE_CHECKING:
    from models.channels.experts import Experts
    from models.routing import Plan


@dataclass(frozen=True)
class Soft:
    """Logits x P with P `[d_model, experts, slots]`; a slot reads softmax over tokens, a token gets softmax over slots.

    `Experts.top_k` says how many experts a token's FLOPs are counted for; slots x experts / tokens are computed.
    """

    slots_each: int = 1  # slots per expert and stretch

    causal: ClassVar[bool] = False

    def check(self, m: Experts) -> None:
        """Slots, and no field that it does not read."""
        require(self.slots_each >= 1, "router.slots_each", f"is {self.slots_each}", "give a positive integer")
        unread = "score", "groups", "bias_rate", "normalize", "capacity_factor", "balance_coefficient", "free"
        slots_alone(m, unread)

    def weights(self, m: Experts, s: Stream) -> dict[str, Weight]:
        """P."""
        shape, axes = (s.d_model, m.experts, self.slots_each), ("embed", "router", "slot")
        return {"router": Weight(shape, axes, "matrix", std=s.hidden_std(s.d_model), unpacked=True)}

    def slots(self, m: Experts, tokens: int) -> int:
        """A fixed number, however many tokens there are."""
        return self.slots_each

    def route(self, m: Experts, w: Any, x: jax.Array, tokens: jax.Array) -> Plan:
        """Both softmaxes, float32."""
        logits = ops.contract(x.astype(jnp.float32), w["router"].astype(jnp.float32))
        length, _ = m.capacity(x.shape[1])
        logits = logits.reshape(x.shape[0], -1, length, *logits.shape[2:])
        combine = jax.nn.softmax(logits, axis=(3, 4))
        plan = ops.Slots(jax.nn.softmax(logits, axis=2), m.scale * combine)
        even, nothing = jnp.ones(x.shape[0], jnp.float32), jnp.zeros(x.shape[0], jnp.float32)
        flat = logits.reshape(x.shape[0], x.shape[1], -1)
        return ops.Plan(plan, m.z_coefficient * ops.z_loss(flat), even, even, nothing)
