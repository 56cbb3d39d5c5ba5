"""Mamba-2 (Dao & Gu 2024): a state of fixed size per head, that decays at a rate which every token chooses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from models.blocks import block_flops
from models.deferred import jax, jnp, ops
from models.errors import divisors, require
from models.kept import Kept
from models.stream import Stream
from models.weight import Weight, WeightTree

if TYPE_CHECKING:
    from models.past import Past

DECAY_RATES = (1.0, 16.0)  # what a head's decay rate e^A_log is drawn from, uniformly


@dataclass(frozen=True)
class StepBias:
    """dt_bias at the start: softplus of it is log-uniform in [least, most], `floor` at least."""

    least: float
    most: float
    floor: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """The inverse of softplus at such steps, `[*shape]` float32."""
        exponent = jax.random.uniform(key, shape, jnp.float32, math.log(self.least), math.log(self.most))
        step = jnp.maximum(jnp.exp(exponent), self.floor)
        return step + jnp.log(-jnp.expm1(-step))


def decay_rates(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A_log at the start: log of uniform rates, `[*shape]` float32."""
    return jnp.log(jax.random.uniform(key, shape, jnp.float32, *DECAY_RATES))


def taps(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A convolution `[width, *channels]` at the start: uniform within width^-1/2 of 0."""
    return jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0) * shape[0] ** -0.5


@dataclass(frozen=True)
class Mamba2:
    """Per head S = e^(-e^A_log dt) S + b (dt x)^T and y = S^T c + D x, with dt = softplus(. + dt_bias) of the token.

    x, b and c pass through a short causal convolution and SiLU first; y is gated by silu(z), then normed. b and c are
    shared by the heads of a group. Gates and the state are float32. Keeps the state and the last inputs of the
    convolutions per row, nothing per token: decode memory does not grow with the context. Only the number of heads
    grows with d_model: state, head_dim and groups stay as they are, also under muP.
    """

    expand: int = 2  # features of all heads, in units of d_model
    head_dim: int = 64  # features of a head's x, P
    state: int = 128  # features of b and c, N: a head's state is N x P
    groups: int = 1  # of heads that share b and c, and that are normed together
    width: int = 4  # tokens that the convolutions see
    conv_bias: bool = True
    block: int = 128  # tokens that are computed at once from one state
    dt_least: float = 0.001  # steps dt at the start: log-uniform between these two,
    dt_most: float = 0.1
    dt_floor: float = 1e-4  # and at least this
    dt_limit: float | None = None  # dt is clipped to this; None: it is not

    slot: ClassVar[str] = "mamba"
    last: ClassVar[str] = "out"  # the weight of its last product
    undivided: ClassVar[tuple[str, ...]] = ("context",)  # mesh axes that cannot divide it: positions follow one another

    def __post_init__(self) -> None:
        for field in ("expand", "head_dim", "state", "groups", "width", "block"):
            value = getattr(self, field)
            require(value >= 1, field, f"is {value}", "give a positive integer")
        for field in ("dt_least", "dt_most", "dt_floor"):
            value = getattr(self, field)
            require(value > 0, field, f"is {value}", "give a positive number")
        require(self.dt_least <= self.dt_most, "dt_most", f"is {self.dt_most}, below dt_least {self.dt_least}",
                "give a larger one")  # fmt: skip
        require(self.width >= 2, "width", "is 1, which leaves no token before its own", "give at least 2")
        require(self.dt_limit is None or self.dt_limit > 0, "dt_limit", f"is {self.dt_limit}",
                "give a positive number or None")  # fmt: skip

    def resolved(self, s: Stream) -> Mamba2:
        """Itself; ConfigError where d_model gives no whole number of heads, or groups do not divide them."""
        features, fix = self.expand * s.d_model, "use a divisor of expand x d_model"
        problem = f"{self.head_dim} does not divide {self.expand} x d_model {s.d_model}"
        require(features % self.head_dim == 0, "head_dim", problem, fix)
        heads = features // self.head_dim
        problem = f"{self.groups} groups do not divide {heads} heads"
        require(heads % self.groups == 0, "groups", problem, f"use one of {divisors(heads)}")
        require(s.bias != "all", "model.bias", "'all' asks for biases that Mamba2 does not have",
                "use 'none', 'qkv' or 'attention'")  # fmt: skip
        return self

    def heads(self, s: Stream) -> int:
        """How many states there are."""
        return self.expand * s.d_model // self.head_dim

    def weights(self, s: Stream) -> WeightTree:
        """zx `[d_model, 2, heads, head_dim]`, bc `[d_model, 2, groups, state]`, dt `[d_model, heads]`: heads split over
        devices, while every device has b and c of all groups."""
        heads, std = self.heads(s), s.hidden_std(s.d_model)
        x, x_axes = (heads, self.head_dim), ("heads", "head_dim")
        bc, bc_axes = (2, self.groups, self.state), ("gate", "groups", "state")
        out_std = s.hidden_std(heads * self.head_dim) * s.residual_scale
        bias = StepBias(self.dt_least, self.dt_most, self.dt_floor)
        weights = {
            "zx": Weight((s.d_model, 2, *x), ("embed", "gate", *x_axes), "matrix", std=std),
            "bc": Weight((s.d_model, *bc), ("embed", *bc_axes), "matrix", std=std),
            "dt": Weight((s.d_model, heads), ("embed", "heads"), "matrix", std=std),
            "conv_x": Weight((self.width, *x), ("width", *x_axes), "conv", draw=taps),
            "conv_bc": Weight((self.width, *bc), ("width", *bc_axes), "conv", draw=taps),
        }
        if self.conv_bias:
            weights["conv_x_bias"] = Weight(x, x_axes, "vector")
            weights["conv_bc_bias"] = Weight(bc, bc_axes, "vector")
        return weights | {
            "decay": Weight((heads,), ("heads",), "gate", draw=decay_rates),
            "dt_bias": Weight((heads,), ("heads",), "gate", draw=bias),
            "skip": Weight((heads,), ("heads",), "gate", std=1.0),
            "gain": Weight(x, x_axes, "vector", std=1.0),
            "out": Weight((*x, s.d_model), (*x_axes, "embed"), "matrix", inputs=2, std=out_std),
        }

    def kept(self, s: Stream) -> dict[str, Kept]:
        """The state in float32 (in bfloat16 a decay above 1 - 2^-9 would never act), and the convolutions' last inputs
        as they were computed."""
        heads, before = self.heads(s), self.width - 1
        state = (heads, self.state, self.head_dim), ("heads", "state", "head_dim")
        x = (before, heads, self.head_dim), ("width", "heads", "head_dim")
        bc = (before, 2, self.groups, self.state), ("width", "gate", "groups", "state")
        return {
            "state": Kept(*state, per="row", dtype="float32", int8=False),
            "x": Kept(*x, per="row", int8=False),
            "bc": Kept(*bc, per="row", int8=False),
        }

    def flops(self, s: Stream, seq: int, before: int = 0, causal: bool = True) -> int:
        """Per token 4 N P a head, to enter the state and to read it; and in a block of several tokens 2 N a group and
        2 P a head for every pair of them, or for all pairs of blocks that are filled up where not `causal`."""
        heads = self.heads(s)
        per_token = 4 * self.state * self.head_dim * heads
        per_pair = 2 * (self.state * self.groups + self.head_dim * heads)
        return block_flops(seq, self.block, per_token, per_pair, causal)

    def apply(self, s: Stream, w: Any, x: jax.Array, past: Past) -> tuple[jax.Array, Past, None]:
        """x `[batch, seq, d_model]` -> (as x, the past with its state)."""
        x = ops.gather_positions(x)
        z, features = jnp.moveaxis(ops.contract(x, w["zx"]), -3, 0)
        inputs = {"x": features, "bc": ops.contract(x, w["bc"]), "dt": ops.contract(x, w["dt"])}
        y, past = past.carry(partial(self._step, w), inputs, self.kept(s), self.block)
        y = self._normed(s, y.astype(jnp.float32) * jax.nn.silu(z.astype(jnp.float32)), w["gain"]).astype(x.dtype)
        return ops.scatter_positions(ops.contract(y, w["out"], dims=2)), past, None

    def _step(self, w: Any, state: Any, inputs: Any, reach: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        """One block (models.past.Step): inputs x `[rows, size, heads, head_dim]`, bc `[rows, size, 2, groups, state]`,
        dt `[rows, size, heads]`; the result is as x."""
        dtype = inputs["x"].dtype
        x, before_x = ops.causal_convolution(inputs["x"], state["x"], w["conv_x"], w.get("conv_x_bias"), reach)
        bc, before_bc = ops.causal_convolution(inputs["bc"], state["bc"], w["conv_bc"], w.get("conv_bc_bias"), reach)
        x, bc = jax.nn.silu(x), jax.nn.silu(bc).astype(dtype)
        dt = jax.nn.softplus(inputs["dt"].astype(jnp.float32) + w["dt_bias"])
        dt = dt if self.dt_limit is None else jnp.minimum(dt, self.dt_limit)
        decay = -jnp.exp(w["decay"]) * dt
        y, after = ops.gated_linear(state["state"], bc[:, :, 1], bc[:, :, 0], x * dt[..., None], decay, reach)
        y = y + w["skip"][:, None] * x
        return y.astype(dtype), {"state": after, "x": before_x, "bc": before_bc}

    def _normed(self, s: Stream, y: jax.Array, gain: jax.Array) -> jax.Array:
        """RMSNorm over the features of each group, y `[batch, seq, heads, head_dim]` float32."""
        by_group = y.reshape(*y.shape[:2], self.groups, -1)
        return ops.normalize(by_group, gain.reshape(self.groups, -1), None, "rmsnorm", s.norm_eps).reshape(y.shape)
