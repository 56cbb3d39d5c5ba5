"""Top-k: every token takes the k experts of its best scores (Shazeer et al. 2017; Fedus et al. 2022; DeepSeek-V3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from models.deferred import jax, jnp, ops
from models.serialize import added
from models.stream import Stream
from models.weight import Weight

if TYPE_CHECKING:
    from models.channels.experts import Experts
    from models.routing import Plan


@dataclass(frozen=True)
class TopK:
    """Scores p = softmax(x W) or sigmoid(x W), the k best of p + bias, weights p over their sum, all as `Experts` says.

    W `[d_model, experts]`; offset: a learned vector is added to x W, before any score. Balance: the loss of Fedus et
    al. 2022, or biases that follow the load (Wang et al. 2024).
    """

    offset: bool = added(False)  # router logits have a bias (gpt-oss)

    causal: ClassVar[bool] = True

    def check(self, m: Experts) -> None:
        """Every field of the experts is its own."""

    def weights(self, m: Experts, s: Stream) -> dict[str, Weight]:
        """The router's matrix and biases; it decides by float32 differences."""
        weights = {"router": router_matrix(s, m.choices)}
        if m.bias_rate:
            weights["router_bias"] = Weight((m.choices,), ("router",), "balance", step=m.bias_rate)
        if self.offset:
            weights["router_offset"] = Weight((m.choices,), ("router",), "vector")
        return weights

    def slots(self, m: Experts, tokens: int) -> int:
        """The even share of the choices, and capacity_factor times as many."""
        return min(tokens, math.ceil(m.top_k * tokens * m.capacity_factor / m.choices))

    def route(self, m: Experts, w: Any, x: jax.Array, tokens: jax.Array) -> Plan:
        """The k choices of every token."""
        logits = router_logits(w, x)
        if self.offset:
            logits = logits + w["router_offset"].astype(jnp.float32)
        bias = w.get("router_bias")
        choice, scores = ops.choose(m, logits, bias)
        counted = 1.0 if m.free is None else jnp.where(jnp.arange(m.choices) < m.experts, 1.0, m.free.balance)
        penalty = m.balance_coefficient * ops.load_balance(choice, scores, counted)
        penalty = penalty + m.z_coefficient * ops.z_loss(logits)
        if bias is not None:
            count, total = jax.nn.one_hot(choice.expert, m.choices).sum((0, 1, 2)), choice.expert.size
            excess = (m.choices * count - total) / (m.choices * total)  # whole: an even share is exactly 0
            penalty = penalty + ops.messenger(bias, excess)
        peak = m.choices * ops.shares(choice, m.choices).max(-1)
        return ops.Plan(choice, penalty, ops.load_balance(choice, scores), peak, jnp.zeros_like(peak))


def router_matrix(s: Stream, choices: int) -> Weight:
    """The declaration of W `[d_model, choices]`."""
    return Weight((s.d_model, choices), ("embed", "router"), "matrix", std=s.hidden_std(s.d_model), unpacked=True)


def router_logits(w: Any, x: jax.Array) -> jax.Array:
    """x W `[batch, seq, choices]` in float32, whatever the compute dtype."""
    return ops.contract(x.astype(jnp.float32), w["router"].astype(jnp.float32))
