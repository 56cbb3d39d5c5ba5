"""Mixture of experts: a router sends every token to `top_k` of them; shared experts beside them take every token."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from models.channels.dense import is_gated
from models.deferred import jax, jnp, ops
from models.errors import divisors, require
from models.serialize import added
from models.stream import Stream
from models.weight import Weight


@dataclass(frozen=True)
class Experts:
    """sum over the chosen experts of weight * expert(x), and the shared experts' results (models.dispatch: how)."""

    experts: int = 8
    top_k: int = 2
    d_ff: int | None = None  # width of one expert; None: the model's d_ff
    shared: int = 0  # experts of that width that every token passes through (Dai et al. 2024)
    dispatch: Literal["capacity", "dropless"] = "capacity"  # fixed slots per expert, or products over ragged groups
    capacity_factor: float = 1.25  # slots per expert over its even share; what finds no slot is dropped
    capacity_tokens: int = 1024  # tokens that compete for slots: a longer sequence is cut into equal stretches
    groups: int = 1  # of experts; a token may use `top_groups` of them (DeepSeek-V2's device-limited routing)
    top_groups: int = 1
    score: Literal["softmax", "sigmoid"] = "softmax"  # what turns router logits into scores
    normalize: bool = True  # the chosen experts' weights sum to one (Mixtral); else they are the scores (Switch)
    scale: float = 1.0  # factor on the weights
    balance_coefficient: float = 0.01  # of the load-balance loss (Fedus et al. 2022)
    z_coefficient: float = 0.001  # of the router z-loss (Zoph et al. 2022)
    bias_rate: float = added(0.0)  # step of the biases that balance the load without a loss (DeepSeek-V3); 0: no biases
    group_score: Literal["max", "top2"] = added("max")  # what ranks groups: DeepSeek-V2's, or V3's two best together
    shared_gate: bool = added(False)  # shared experts times sigmoid(gate . x) (Qwen2-MoE)

    slot: ClassVar[str] = "feedforward"
    last: ClassVar[str] = "shared_down"  # the weight of its last product
    undivided: ClassVar[tuple[str, ...]] = ()  # mesh axes that cannot divide it

    def __post_init__(self) -> None:
        for field in ("experts", "top_k", "capacity_tokens", "groups", "top_groups"):
            value = getattr(self, field)
            require(value >= 1, field, f"is {value}", "give a positive integer")
        require(self.d_ff is None or self.d_ff >= 1, "d_ff", f"is {self.d_ff}", "give a positive integer or None")
        require(self.shared >= 0, "shared", f"is {self.shared}", "give a number of experts, or 0 for none")
        for field in ("capacity_factor", "scale"):
            value = getattr(self, field)
            require(value > 0, field, f"is {value}", "give a positive number")
        for field in ("balance_coefficient", "z_coefficient", "bias_rate"):
            value = getattr(self, field)
            require(value >= 0, field, f"is {value}", "give a factor, or 0 to leave this out")
        problem = f"{self.groups} groups do not divide {self.experts} experts"
        require(self.experts % self.groups == 0, "groups", problem, f"use one of {divisors(self.experts)}")
        problem = f"is {self.top_groups} of {self.groups} groups"
        require(self.top_groups <= self.groups, "top_groups", problem, f"use at most {self.groups}")
        reachable = self.experts // self.groups * self.top_groups
        problem = f"is {self.top_k}, but a token reaches {reachable} experts"
        require(self.top_k <= reachable, "top_k", problem, f"use at most {reachable}")
        fewest = 2 if self.group_score == "top2" else 1
        problem = f"ranks groups by {fewest} experts, but they have {self.experts // self.groups}"
        require(self.experts // self.groups >= fewest, "group_score", problem, "use max, or fewer groups")
        require(self.shared > 0 or not self.shared_gate, "shared_gate", "is set, but no expert is shared", "set shared")

    def resolved(self, s: Stream) -> Experts:
        """Itself with the model's width where it has none of its own."""
        require(s.bias != "all", "model.bias", "'all' asks for biases that experts do not have",
                "use 'none', 'qkv' or 'attention' with model.moe")  # fmt: skip
        return dataclasses.replace(self, d_ff=self.d_ff or s.d_ff)

    def weights(self, s: Stream) -> dict[str, Weight]:
        """The router, all experts in one weight for each product, and the shared experts as one dense block."""
        width, gated = self.d_ff or s.d_ff, is_gated(s.activation)
        up_std = s.hidden_std(s.d_model)
        # A router decides by float32 differences, and experts are multiplied in groups.
        shape = s.d_model, self.experts
        weights = {"router": Weight(shape, ("embed", "router"), "matrix", std=up_std, unpacked=True)}
        if self.bias_rate:
            weights["router_bias"] = Weight((self.experts,), ("router",), "balance", step=self.bias_rate)

        def block(prefix: str, width: int, lead: tuple[int, ...], axes: tuple[str, ...], used: int) -> None:
            gate = ((2,), ("gate",)) if gated else ((), ())
            up_shape, up_axes = (*lead, s.d_model, *gate[0], width), (*axes, "embed", *gate[1], "mlp")
            name = "gate_up" if gated else "up"
            down_std = s.hidden_std(width) * s.residual_scale
            several = bool(used)
            weights[prefix + name] = Weight(
                up_shape, up_axes, "matrix", std=up_std, experts_used=used, unpacked=several
            )
            down_shape, down_axes = (*lead, width, s.d_model), (*axes, "mlp", "embed")
            weights[prefix + "down"] = Weight(
                down_shape, down_axes, "matrix", std=down_std, experts_used=used, unpacked=several
            )

        block("", width, (self.experts,), ("experts",), self.top_k)
        if self.shared:
            block("shared_", self.shared * width, (), (), 0)
        if self.shared_gate:
            weights["shared_gate"] = Weight((s.d_model, 1), ("embed", "router"), "matrix", std=up_std)
        return weights

    def capacity(self, seq: int) -> tuple[int, int]:
        """(tokens per stretch, slots per expert and stretch) for sequences of `seq` tokens."""
        stretches = -(-seq // self.capacity_tokens)
        while seq % stretches:
            stretches += 1
        tokens = seq // stretches
        return tokens, min(tokens, math.ceil(self.top_k * tokens * self.capacity_factor / self.experts))

    def flops(self, s: Stream, seq: int) -> int:
        """None beside the weights' (models.counts.dispatch_flops has what slots cost)."""
        return 0

    def slot_flops(self, s: Stream, seq: int) -> tuple[int, int]:
        """Forward FLOPs of one sequence: (one product between tokens and slots, experts on surplus slots)."""
        if self.dispatch != "capacity":
            return 0, 0
        tokens, slots = self.capacity(seq)
        slots *= self.experts
        per_choice = sum(w.flops_per_token for w in self.weights(s).values() if w.experts_used) // self.top_k
        stretches, surplus = seq // tokens, slots - self.top_k * tokens
        return stretches * 2 * tokens * slots * s.d_model, stretches * surplus * per_choice

    def apply(self, s: Stream, w: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        """x `[batch, seq, d_model]` -> (as x, its `Routing`)."""
        x = ops.gather_positions(x)
        logits = ops.contract(x.astype(jnp.float32), w["router"].astype(jnp.float32))
        bias = w.get("router_bias")
        choice, scores = ops.choose(self, logits, bias)
        name = "gate_up" if is_gated(s.activation) else "up"
        up, down = w[name], w["down"]
        if self.dispatch == "capacity":
            out, dropped = ops.capacity_block(self, s.activation, x, choice, up, down)
        else:
            out, dropped = ops.dropless_block(self, s.activation, x, choice, up, down), jnp.zeros(x.shape[0])
        if self.shared:
            hidden = ops.activated(s.activation, ops.contract(x, w["shared_" + name]))
            together = ops.contract(hidden, w["shared_down"])
            if self.shared_gate:
                together = together * jax.nn.sigmoid(ops.contract(x, w["shared_gate"]))
            out = out + together
        balance = ops.load_balance(self, choice, scores)
        penalty = self.balance_coefficient * balance + self.z_coefficient * ops.z_loss(logits)
        if bias is not None:
            count, total = jax.nn.one_hot(choice.expert, self.experts).sum((0, 1, 2)), choice.expert.size
            excess = (self.experts * count - total) / (self.experts * total)  # whole: an even share is exactly 0
            penalty = penalty + ops.messenger(bias, excess)
        return ops.scatter_positions(out), ops.Routing(penalty, balance, dropped)
