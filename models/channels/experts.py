"""Mixture of experts: a router sends every token to `top_k` of them; shared experts beside them take every token.

bottleneck: one product lowers tokens to so many features before they are sent, and one raises what comes back (Jin et
al. 2025, "BigMac", arXiv:2502.16927): per choice bottleneck / d_model of the bytes change hands.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from models.channels.dense import is_gated
from models.channels.exchanged import Exchanged
from models.channels.free import Free
from models.deferred import jax, jnp, ops
from models.errors import divisors, require, require_sizes
from models.routers import Router
from models.routers.top_k import TopK
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
    router: Router | None = added(None)  # how tokens find experts; None: the best scores, as the fields above say
    free: Free | None = added(None)  # choices that cost no products (MoE++)
    bottleneck: int | None = added(None)  # features that experts read and write, by two shared products (BigMac)

    slot: ClassVar[str] = "feedforward"
    last: ClassVar[str] = "shared_down"  # the weight of its last product
    undivided: ClassVar[tuple[str, ...]] = ()  # mesh axes that cannot divide it

    def __post_init__(self) -> None:
        require_sizes(self)
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
        require(self.free is None or self.groups == 1, "free", "is set beside groups", "leave one of them out")
        narrow = self.bottleneck
        require(narrow is None or narrow >= 1, "bottleneck", f"is {narrow}", "give a positive integer or None")
        self.routing.check(self)

    @property
    def routing(self) -> Router:
        """The router."""
        return self.router or TopK()

    @property
    def choices(self) -> int:
        """What the router chooses from: the experts and the free ones."""
        return self.experts + (self.free.count if self.free else 0)

    def resolved(self, s: Stream) -> Experts:
        """Itself with the model's width where it has none of its own."""
        problem = "'all' asks for biases that shared experts do not have"
        fix = "use 'none', 'qkv' or 'attention' with them"
        require(s.bias != "all" or not self.shared, "model.bias", problem, fix)
        return dataclasses.replace(self, d_ff=self.d_ff or s.d_ff)

    def weights(self, s: Stream) -> dict[str, Weight]:
        """The router, all experts in one weight for each product, and the shared experts as one dense block."""
        width, d, narrow = self.d_ff or s.d_ff, s.d_model, self.bottleneck
        weights = self.routing.weights(self, s)
        weights |= self._block(s, "", width, narrow or d, self.top_k)
        if narrow:  # the products of many experts are narrow, these two are not
            lowered = Weight((d, narrow), ("embed", "bottleneck"), "matrix", std=s.hidden_std(d))
            raised_std = s.hidden_std(narrow) * s.residual_scale
            raised = Weight((narrow, d), ("bottleneck", "embed"), "matrix", std=raised_std)
            weights |= {"lowered": lowered, "raised": raised}
        if self.free:
            weights |= self.free.weights(s)
        if self.shared:
            weights |= self._block(s, "shared_", self.shared * width, d, 0)
        if self.shared_gate:
            weights["shared_gate"] = Weight((d, 1), ("embed", "router"), "matrix", std=s.hidden_std(d))
        return weights

    def _block(self, s: Stream, prefix: str, width: int, sent: int, used: int) -> dict[str, Weight]:
        """Both products of all experts at once, `used` of them by a token, or of one block (0); sent: features that
        they read and write."""
        several, gated = bool(used), is_gated(s.activation)
        lead, axes = ((self.experts,), ("experts",)) if several else ((), ())
        gate = ((2,), ("gate",)) if gated else ((), ())
        outer = "embed" if sent == s.d_model else "bottleneck"
        down_std = s.hidden_std(width) * (s.residual_scale if sent == s.d_model else 1.0)
        up_shape, up_axes = (*lead, sent, *gate[0], width), (*axes, outer, *gate[1], "mlp")
        down_shape, down_axes = (*lead, width, sent), (*axes, "mlp", outer)
        # experts are multiplied in groups
        up = Weight(up_shape, up_axes, "matrix", std=s.hidden_std(sent), experts_used=used, unpacked=several)
        down = Weight(down_shape, down_axes, "matrix", std=down_std, experts_used=used, unpacked=several)
        name = prefix + ("gate_up" if gated else "up")
        if s.bias != "all":
            return {name: up, prefix + "down": down}
        up_bias = Weight((*lead, *gate[0], width), (*axes, *gate[1], "mlp"), "vector", experts_used=used)
        down_bias = Weight((*lead, sent), (*axes, outer), "vector", experts_used=used)
        return {name: up, name + "_bias": up_bias, prefix + "down": down, prefix + "down_bias": down_bias}

    @property
    def visits(self) -> float:
        """Experts that one token passes through, shared ones beside and slots that stay empty included."""
        return self.top_k * (self.capacity_factor if self.dispatch == "capacity" else 1) + self.shared

    def hidden(self, s: Stream) -> int:
        """The widths of all experts that a token visits."""
        return math.ceil(self.visits * (self.d_ff or s.d_ff))

    def exchanged(self, s: Stream, tokens: int, devices: int) -> tuple[Exchanged, ...]:
        """Slots to their experts and back, or where groups are ragged all tokens to all and their results back."""
        stream = tokens * (self.bottleneck or s.d_model)
        if self.dispatch == "capacity":
            slots = math.ceil(stream * self.top_k * self.capacity_factor)
            return (Exchanged("all-to-all", slots, 2, "tokens of experts"),)
        return (
            Exchanged("all-gather", devices * stream, 1, "tokens of experts"),
            Exchanged("reduce-scatter", devices * stream, 1, "results of experts"),
        )

    def capacity(self, seq: int) -> tuple[int, int]:
        """(tokens per stretch, slots per expert and stretch) for sequences of `seq` tokens."""
        stretches = -(-seq // self.capacity_tokens)
        while seq % stretches:
            stretches += 1
        tokens = seq // stretches
        return tokens, self.routing.slots(self, tokens)

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
        return stretches * 2 * tokens * slots * (self.bottleneck or s.d_model), stretches * surplus * per_choice

    def apply(
        self, s: Stream, w: Any, x: jax.Array, tokens: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, Any]:  # fmt: skip
        """x `[batch, seq, d_model]`, tokens `[batch, seq]` -> (as x, its `Routing`). key: what the router reads, as x;
        None: x."""
        x = ops.gather_positions(x)
        plan = self.routing.route(self, w, x if key is None else key, tokens)
        out, dropped = self._served(s, w, x, plan)
        computed = jnp.ones_like(dropped)
        if self.free and isinstance(plan.choice, ops.Assignment):
            out = out + self.free.apply(w, x, plan.choice, self.experts)
            computed = ops.shares(plan.choice, self.choices)[:, : self.experts].sum(-1)
        if self.shared:
            up = w["shared_gate_up" if is_gated(s.activation) else "shared_up"]
            together = ops.contract(ops.activated(s.activation, ops.contract(x, up)), w["shared_down"])
            if self.shared_gate:
                together = together * jax.nn.sigmoid(ops.contract(x, w["shared_gate"]))
            out = out + together
        routing = ops.Routing(plan.penalty, plan.balance, dropped + plan.dropped, plan.peak, computed)
        return ops.scatter_positions(out), routing

    def _served(self, s: Stream, w: Any, x: jax.Array, plan: Any) -> tuple[jax.Array, jax.Array]:
        """(what the experts with products add for x `[batch, seq, d_model]`, share of choices dropped `[batch]`)."""
        up = "gate_up" if is_gated(s.activation) else "up"
        products = ops.Products(w[up], w["down"], w.get(up + "_bias"), w.get("down_bias"))
        sent = ops.contract(x, w["lowered"]) if self.bottleneck else x
        dropped = jnp.zeros(x.shape[0], jnp.float32)
        if isinstance(plan.choice, ops.Slots):
            out = ops.through_slots(s.activation, sent, plan.choice, products)
        elif self.dispatch == "capacity":
            out, dropped = ops.capacity_block(self, s.activation, sent, plan.choice, products)
        else:
            out = ops.dropless_block(self, s.activation, sent, plan.choice, products)
        return ops.contract(out, w["raised"]) if self.bottleneck else out, dropped
