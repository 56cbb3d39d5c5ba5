"""Free experts: choices beside the experts that cost no products (Jin et al. 2024, "MoE++", arXiv:2410.07348)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.deferred import jax, jnp, ops
from models.errors import require
from models.stream import Stream
from models.weight import Weight

if TYPE_CHECKING:
    from models.routing import Assignment


@dataclass(frozen=True)
class Free:
    """zero: f(x) = 0; copy: f(x) = x; constant: f(x) = a x + b v with (a, b) = softmax(x W) and learned v `[d_model]`.

    The router chooses among the experts, then these in that order. A zero expert's weight is 0 before weights are made
    to sum to one, so what is chosen beside it gets the whole. They are on every device, and nothing is sent to them.
    """

    zero: int = 1
    copy: int = 1
    constant: int = 0
    balance: float = 0.75  # how much their terms of the balance loss count: less draws tokens away from the experts

    def __post_init__(self) -> None:
        for field in ("zero", "copy", "constant"):
            value = getattr(self, field)
            require(value >= 0, f"free.{field}", f"is {value}", "give a number of experts, or 0 for none")
        require(self.count > 0, "free", "has no experts", "give some, or leave it out")
        require(0 < self.balance <= 1, "free.balance", f"is {self.balance}", "give a factor in (0, 1]")

    @property
    def count(self) -> int:
        """All of them."""
        return self.zero + self.copy + self.constant

    def weights(self, s: Stream) -> dict[str, Weight]:
        """Of constant experts W `[d_model, constants, 2]` and v `[constants, d_model]`."""
        if not self.constant:
            return {}
        shape, axes = (s.d_model, self.constant, 2), ("embed", "router", "gate")
        mix = Weight(shape, axes, "matrix", std=s.hidden_std(s.d_model), unpacked=True)
        return {"constant_mix": mix, "constant": Weight((self.constant, s.d_model), ("router", "embed"), "vector")}

    def apply(self, w: Any, x: jax.Array, choice: Assignment, first: int) -> jax.Array:
        """What they add for x `[batch, seq, d_model]`; `first`: the index of the first of them."""
        chosen = jax.nn.one_hot(choice.expert - first, self.count) * choice.weight[..., None]
        weight = chosen.sum(2)[..., self.zero :]  # [batch, seq, copies and constants]
        y = weight[..., : self.copy].sum(-1, keepdims=True) * x.astype(jnp.float32)
        if self.constant:
            mix = jax.nn.softmax(ops.contract(x.astype(jnp.float32), w["constant_mix"].astype(jnp.float32)))
            mix = mix * weight[..., self.copy :, None]
            y = y + mix[..., 0].sum(-1, keepdims=True) * x.astype(jnp.float32)
            y = y + (mix[..., 1, None] * w["constant"].astype(jnp.float32)).sum(-2)
        return y.astype(x.dtype)
