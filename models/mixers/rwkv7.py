"""RWKV-7 (Peng et al. 2025, "Goose"): a state whose every channel decays as each token says, and which gives up what it
holds in one direction while what the token says enters in another."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from models.blocks import block_flops, inverse_flops
from models.deferred import jax, jnp, ops
from models.errors import require
from models.kept import Kept
from models.stream import Stream
from models.weight import Weight, WeightTree

if TYPE_CHECKING:
    from models.past import Past

READ = ("r", "k", "v", "decay", "rate", "gate")  # what is read from x, each from a mix of its own
MIXES = (0.2, 0.7, 0.7, 0.9, 0.9, 0.2)  # exponents of their mixes at the start
FASTEST = math.exp(-0.5)  # a channel's log decay per token is above minus this,
LONGEST = 128  # so that over half of so long a block decays stay within float32
LEAST = 1e-12  # added to the squared norm of what is read from the state
NORM_EPS = 64e-5  # of the norms of heads
DEPTH = 0.5  # where in the model's depth the published initial values are taken
RANKS = {"decay_rank": 2.5, "rate_rank": 2.5, "gate_rank": 5.0}  # published ranks, in units of d_model^1/2


@dataclass(frozen=True)
class RWKV7:
    """Per head S = diag(e^w) S - (c a) (c^T S) + k' v^T, y = S^T r; out = ((norm(y) + (sum r k' u) v) g) W, W_o.

    r, k, v, w, a and g are each read from a mix of their own, x_t + mix (x_{t-1} - x_t). w = -e^-1/2 sigmoid(decay_bias
    + tanh(x D1) D2), a = sigmoid(rate_bias + x A1 A2) and g = sigmoid(x G1) G2 go through latents. c is k key_scale
    scaled to length 1, by which the state is read, and k' = k (1 + (a - 1) key_share) enters it: each channel has a
    rate a of its own. The norm is a LayerNorm of every head. The first layer's values are not mixed into later ones'
    (the value residual), so every layer is as the published first one.

    A block inverts one triangle per head (models.recurrence.corrected). Keeps S in float32 and the last token's x per
    row, nothing per token. Initial values are those published for the middle of a model, where they grow with depth;
    W and what gates read are drawn as elsewhere here. Fields that are None are those of the model; heads alone grow
    with it.
    """

    heads: int | None = None  # None: the model's n_heads
    head_dim: int | None = None  # features of a head's keys and of its values; None: the model's
    decay_rank: int | None = None  # of the latent of w; None: 2.5 d_model^1/2 as a multiple of 32, as published
    rate_rank: int | None = None  # of a; None: likewise
    gate_rank: int | None = None  # of g; None: likewise, of 5 d_model^1/2
    block: int = 64  # tokens that are computed at once from one state

    slot: ClassVar[str] = "rwkv7"
    last: ClassVar[str] = "out"  # the weight of its last product
    undivided: ClassVar[tuple[str, ...]] = ("context",)  # mesh axes that cannot divide it: positions follow one another

    def __post_init__(self) -> None:
        for field in ("heads", "head_dim", *RANKS):
            value = getattr(self, field)
            require(value is None or value >= 1, field, f"is {value}", "give a positive integer or None")
        require(self.block >= 1, "block", f"is {self.block}", "give a positive integer")
        problem = f"is {self.block}, over which decays of every channel leave float32"
        require(self.block <= LONGEST, "block", problem, f"use at most {LONGEST}")

    def resolved(self, s: Stream) -> RWKV7:
        """Itself with the model's heads and published ranks where it has none of its own."""
        heads, head_dim = self._sizes(s)
        require(s.bias == "none", "model.bias", f"{s.bias!r} asks for biases that RWKV7 does not have", "use 'none'")
        return dataclasses.replace(self, heads=heads, head_dim=head_dim, **self._ranks(s))

    def _sizes(self, s: Stream) -> tuple[int, int]:
        return self.heads or s.n_heads, self.head_dim or s.head_dim

    def _ranks(self, s: Stream) -> dict[str, int]:
        """By the name of the field."""
        published = {name: max(32, 32 * round(unit * s.d_model**0.5 / 32)) for name, unit in RANKS.items()}
        return {name: getattr(self, name) or rank for name, rank in published.items()}

    def weights(self, s: Stream) -> WeightTree:
        """r, k, v `[d_model, heads, head_dim]`, out `[heads, head_dim, d_model]`; the way into and out of each latent;
        mix `[6, d_model]` in the order of READ; one number per channel `[heads, head_dim]` of all that is left."""
        each, d = self._sizes(s), s.d_model
        std, axes = s.hidden_std(d), ("heads", "head_dim")
        weights = {
            name: Weight((d, *each), ("embed", *axes), "matrix", std=std * scale)
            for name, scale in (("r", 1.0), ("k", 0.1), ("v", 1.0))
        }
        for name in ("decay", "rate", "gate"):
            rank = self._ranks(s)[f"{name}_rank"]
            draw = None if name == "gate" else _zeros
            weights[f"{name}_down"] = Weight((d, rank), ("embed", "latent"), "matrix", std=std, draw=draw)
            weights[f"{name}_up"] = Weight((rank, *each), ("latent", *axes), "matrix", std=s.hidden_std(rank))
        of_gate = partial(Weight, each, axes, "gate")
        out_std = s.hidden_std(each[0] * each[1]) * s.residual_scale
        return weights | {
            "mix": Weight((len(READ), d), ("gate", "embed"), "vector", draw=mixes),
            "decay_bias": of_gate(draw=decay_biases),
            "rate_bias": of_gate(draw=rate_biases),
            "key_scale": of_gate(draw=key_scales),
            "key_share": of_gate(std=1.02),
            "bonus": of_gate(std=-0.04),
            "gain": Weight(each, axes, "vector", std=1.0),
            "bias": Weight(each, axes, "vector"),
            "out": Weight((*each, d), (*axes, "embed"), "matrix", inputs=2, std=out_std),
        }

    def kept(self, s: Stream) -> dict[str, Kept]:
        """4 heads head_dim^2 bytes of state a row, and x of its last token."""
        heads, head_dim = self._sizes(s)
        shape, axes = (heads, head_dim, head_dim), ("heads", "state", "head_dim")
        return {
            "state": Kept(shape, axes, per="row", dtype="float32", int8=False),
            "before": Kept((1, s.d_model), ("width", "embed"), per="row", int8=False),
        }

    def flops(self, s: Stream, seq: int, before: int = 0, causal: bool = True) -> int:
        """Per token and head 8 head_dim^2: the state is read twice and entered twice; in a block of several tokens
        16 head_dim for every pair of them, and the inverse of a block (models.blocks.inverse_flops)."""
        heads, head_dim = self._sizes(s)
        inverse = heads * inverse_flops(min(self.block, seq))
        return block_flops(seq, self.block, heads * 8 * head_dim**2, heads * 16 * head_dim, causal, inverse)

    def apply(self, s: Stream, w: Any, x: jax.Array, past: Past) -> tuple[jax.Array, Past, None]:
        """x `[batch, seq, d_model]` -> (as x, the past with its state)."""
        x, kept = ops.gather_positions(x), self.kept(s)
        change, past = past.carry(_change, {"x": x}, {"before": kept.pop("before")}, self.block)
        of = {name: x + change * mix for name, mix in zip(READ, w["mix"].astype(x.dtype), strict=True)}
        inputs = {name: ops.contract(of[name], w[name]) for name in ("r", "k", "v")}
        for name, squashed in (("decay", jnp.tanh), ("rate", lambda latent: latent)):
            latent = squashed(ops.contract(of[name], w[f"{name}_down"]))
            inputs[name] = ops.contract(latent, w[f"{name}_up"])
        gate = ops.contract(jax.nn.sigmoid(ops.contract(of["gate"], w["gate_down"])), w["gate_up"])
        y, past = past.carry(partial(_step, w), inputs, kept, self.block)
        return ops.scatter_positions(ops.contract(y * gate, w["out"], dims=2)), past, None


def _change(state: Any, inputs: Any, reach: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    """x_{t-1} - x_t of every token (models.past.Step), with zeros before a document: inputs x
    `[rows, size, d_model]`, as the result is."""
    before, after = ops.token_before(inputs["x"], state["before"], reach)
    return before - inputs["x"], {"before": after}


def _step(w: Any, state: Any, inputs: Any, reach: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    """One block (models.past.Step), up to the gate: inputs r, k, v, decay, rate `[rows, size, heads, head_dim]`, as the
    result is."""
    r, k, v, decay, rate = (inputs[name].astype(jnp.float32) for name in ("r", "k", "v", "decay", "rate"))
    log_decay = -FASTEST * jax.nn.sigmoid(decay + w["decay_bias"])
    rate = jax.nn.sigmoid(rate + w["rate_bias"])
    found = k * w["key_scale"]
    found = found * jax.lax.rsqrt(jnp.square(found).sum(-1, keepdims=True) + LEAST)
    k = k * (1 + (rate - 1) * w["key_share"])
    y, after = ops.corrected(state["state"], r, k, v, found, found * rate, log_decay, reach)
    y = ops.normalize(y, w["gain"], w["bias"], "layernorm", NORM_EPS)
    y = y + (r * k * w["bonus"]).sum(-1, keepdims=True) * v
    return y.astype(inputs["v"].dtype), {"state": after}


def _zeros(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Decays and rates are their biases' at the start."""
    return jnp.zeros(shape, jnp.float32)


def mixes(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Shares of the token before at the start: 1 - (n / d)^exponent, falling over the features n, `[6, d]` float32."""
    at = jnp.arange(shape[1]) / shape[1]
    return 1 - at ** (DEPTH * jnp.array(MIXES)[:, None])


def _over_channels(shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Of every channel `[heads, head_dim]` float32: its place in [0, 1] among all, and s |s| of its place s in [-1, 1]
    among its head's."""
    heads, head_dim = shape
    place = jnp.linspace(0.0, 1.0, heads * head_dim).reshape(shape)
    inside = jnp.linspace(-1.0, 1.0, head_dim)
    return place, jnp.broadcast_to(inside * jnp.abs(inside), shape)


def decay_biases(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Biases of w at the start: channels of heads of 64 forget over 1.7 to 5,000 tokens."""
    place, inside = _over_channels(shape)
    return -5.5 + 6 * place ** (1 + DEPTH**0.3) + 2.5 * inside


def rate_biases(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Biases of a at the start."""
    place, inside = _over_channels(shape)
    return -0.19 + 0.3 * inside + 0.4 * (place - 0.5)


def key_scales(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Scales of c at the start."""
    return 0.71 - 0.1 * (_over_channels(shape)[0] - 0.5)
