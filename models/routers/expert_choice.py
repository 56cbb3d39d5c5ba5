"""Expert choice: every expert takes the tokens that score best with it (Zhou et al. 2022).

Loads are equal and shapes fixed, without a balance loss; but whether a token is taken depends on the tokens after it.
A model that is trained so has read a little of what it predicts: its loss is no language model's, and it cannot decode.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from models.deferred import jax, jnp, ops
from models.errors import require
from models.routers.top_k import router_logits, router_matrix
from models.stream import Stream
from models.weight import Weight

if TYPE_CHECKING:
    from models.channels.experts import Experts
    from models.routing import Plan


@dataclass(frozen=True)
class ExpertChoice:
    """p = softmax(x W) over experts; each takes its c = k T capacity_factor / E best of T tokens; weights p."""

    causal: ClassVar[bool] = False

    def check(self, m: Experts) -> None:
        """Slots, and no field that it does not read."""
        slots_alone(m, ("score", "groups", "bias_rate", "normalize", "free"))

    def weights(self, m: Experts, s: Stream) -> dict[str, Weight]:
        """The router's matrix."""
        return {"router": router_matrix(s, m.experts)}

    def slots(self, m: Experts, tokens: int) -> int:
        """What every expert takes."""
        return min(tokens, math.ceil(m.top_k * tokens * m.capacity_factor / m.experts))

    def route(self, m: Experts, w: Any, x: jax.Array, tokens: jax.Array) -> Plan:
        """Every expert's tokens of each stretch, the best first."""
        logits = router_logits(w, x)
        length, slots = m.capacity(x.shape[1])
        scores = jax.nn.softmax(logits).reshape(x.shape[0], -1, length, m.experts)
        best, token = jax.lax.top_k(scores.swapaxes(2, 3), slots)  # [batch, stretch, expert, slot]
        dispatch = jax.nn.one_hot(token, length).transpose(0, 1, 4, 2, 3)
        plan = ops.Slots(dispatch, m.scale * dispatch * best[:, :, None])
        left = (dispatch.sum((3, 4)) == 0).mean((1, 2))
        even = jnp.ones(x.shape[0], jnp.float32)
        return ops.Plan(plan, m.z_coefficient * ops.z_loss(logits), even, even, left)


def slots_alone(m: Experts, unread: tuple[str, ...]) -> None:
    """ConfigError unless tokens go into slots, and fields that are not read have their defaults."""
    require(m.dispatch == "capacity", "dispatch", f"is {m.dispatch}, but this router fills slots", "use capacity")
    for field in unread:
        default = type(m).__dataclass_fields__[field].default
        problem = f"is {getattr(m, field)}, which this router does not read"
        require(getattr(m, field) == default, field, problem, "leave it out, or use the router TopK")
