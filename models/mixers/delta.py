"""Gated DeltaNet (Yang et al. 2024b, Qwen3-Next): a decaying state that is corrected towards what each token says.

With a decay of its own for every channel of the keys it is the state of Kimi Delta Attention (Kimi Team 2025).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from models.blocks import block_flops, inverse_flops
from models.deferred import jax, jnp, ops
from models.errors import require
from models.kept import Kept
from models.mixers.mamba2 import StepBias, taps
from models.stream import Stream
from models.weight import Weight, WeightTree

if TYPE_CHECKING:
    from models.past import Past

DECAY_RATES = (0.01, 16.0)  # what a head's rate e^A_log is drawn from, uniformly
STEPS = StepBias(0.001, 0.1, 1e-4)
LEAST = 1e-6  # added to the squared norms of q and k
FASTEST = 5.0  # a channel's log decay per token is above minus this,
LONGEST = 32  # so that over half of so long a block decays stay within float32


def decay_rates(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A_log at the start: log of uniform rates, `[*shape]` float32."""
    return jnp.log(jax.random.uniform(key, shape, jnp.float32, *DECAY_RATES))


def channel_bias(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Biases under which channels decay at log-uniform rates of 0.001 to 1 a token, `[*shape]` float32."""
    rate = jnp.exp(jax.random.uniform(key, shape, jnp.float32, math.log(1e-3), 0.0))
    return jnp.log(rate / (FASTEST - rate))


@dataclass(frozen=True)
class Delta:
    """Per head S' = e^g S, S = S' + beta k (v - S'^T k)^T and y = S^T q; out = (RMSNorm(y) gain silu(z)) W.

    q, k and v pass through a short causal convolution and SiLU, then q and k are scaled to length 1 and q by
    key_dim^-1/2. beta = sigmoid(b), twice that with `negative`, under which S may turn around (eigenvalues from -1 on).
    decay "head": g = -e^A softplus(a + bias), one number; "channel": g = -5 sigmoid(e^A (a + bias)), one for each of
    the key's, with a read out of key_dim features of x. Value head j reads key head j // (value_heads / key_heads).

    Keeps S and the last inputs of the convolutions per row, nothing per token; S and what decays it are float32. A
    block inverts one triangle per head (models.recurrence.gated_delta). Fields that are None are those of the model;
    widths of heads stay as they are when it grows wider.
    """

    key_heads: int | None = None  # None: the model's n_heads
    value_heads: int | None = None  # a multiple of key_heads; None: as many
    key_dim: int | None = None  # of a head; None: the model's head_dim
    value_dim: int | None = None  # of a head; None: the model's head_dim
    width: int = 4  # tokens that the convolutions see
    negative: bool = False  # beta up to 2, so that a token may turn the state around
    decay: Literal["head", "channel"] = "head"  # one rate for all of a state, or one per channel of the keys (KDA)
    block: int = 64  # tokens that are computed at once from one state

    slot: ClassVar[str] = "delta"
    last: ClassVar[str] = "out"  # the weight of its last product
    undivided: ClassVar[tuple[str, ...]] = ("context",)  # mesh axes that cannot divide it: positions follow one another

    def __post_init__(self) -> None:
        for field in ("key_heads", "value_heads", "key_dim", "value_dim"):
            value = getattr(self, field)
            require(value is None or value >= 1, field, f"is {value}", "give a positive integer or None")
        require(self.block >= 1, "block", f"is {self.block}", "give a positive integer")
        require(self.width >= 2, "width", f"is {self.width}, which leaves no token before its own", "give at least 2")
        problem = f"is {self.block}, over which decays of every channel leave float32"
        require(self.decay == "head" or self.block <= LONGEST, "block", problem, f"use at most {LONGEST}")

    def resolved(self, s: Stream) -> Delta:
        """Itself with the model's heads and their widths where it has none of its own."""
        key_heads, value_heads, key, value = self.sizes(s)
        fix = "use a multiple of key_heads"
        problem = f"{value_heads} heads do not share {key_heads} keys evenly"
        require(value_heads % key_heads == 0, "value_heads", problem, fix)
        problem = f"is 'channel', but {value_heads} heads share {key_heads} keys"
        require(self.decay == "head" or key_heads == value_heads, "decay", problem, "use as many of both, or 'head'")
        require(s.bias == "none", "model.bias", f"{s.bias!r} asks for biases that Delta does not have", "use 'none'")
        return dataclasses.replace(self, key_heads=key_heads, value_heads=value_heads, key_dim=key, value_dim=value)

    def sizes(self, s: Stream) -> tuple[int, int, int, int]:
        """(key heads, value heads, features of a head's keys, of its values)."""
        key_heads = self.key_heads or s.n_heads
        return key_heads, self.value_heads or key_heads, self.key_dim or s.head_dim, self.value_dim or s.head_dim

    def weights(self, s: Stream) -> WeightTree:
        """qkvz `[d_model, key_heads, ...]`: for each key head q, k, its values and their gates z; ba
        `[d_model, key_heads, ...]`: its b, and where heads decay its a."""
        key_heads, heads, key, value = self.sizes(s)
        shared, std = heads // key_heads, s.hidden_std(s.d_model)
        by_key = ("embed", "heads", "head_dim")
        each = 2 if self.decay == "head" else 1
        rates = (heads,) if self.decay == "head" else (heads, key)
        taps_of = partial(Weight, role="conv", draw=taps)
        weights = {
            "qkvz": Weight((s.d_model, key_heads, 2 * key + 2 * shared * value), by_key, "matrix", std=std),
            "ba": Weight((s.d_model, key_heads, each * shared), by_key, "matrix", std=std),
            "conv_qk": taps_of((self.width, 2, key_heads, key), ("width", "gate", "heads", "head_dim")),
            "conv_v": taps_of((self.width, heads, value), ("width", "heads", "head_dim")),
        }
        if self.decay == "channel":
            weights["decay_down"] = Weight((s.d_model, key), ("embed", "latent"), "matrix", std=std)
            weights["decay_up"] = Weight(
                (key, heads, key), ("latent", "heads", "head_dim"), "matrix", std=s.hidden_std(key)
            )
        log_rate, bias = (decay_rates, STEPS) if self.decay == "head" else (None, channel_bias)
        out_std = s.hidden_std(heads * value) * s.residual_scale
        return weights | {
            "decay": Weight((heads,), ("heads",), "gate", draw=log_rate),
            "decay_bias": Weight(rates, ("heads", "head_dim")[: len(rates)], "gate", draw=bias),
            "gain": Weight((value,), ("head_dim",), "vector", std=1.0),
            "out": Weight((heads, value, s.d_model), ("heads", "head_dim", "embed"), "matrix", inputs=2, std=out_std),
        }

    def kept(self, s: Stream) -> dict[str, Kept]:
        """4 value_heads key_dim value_dim bytes of state a row, and the convolutions' last inputs."""
        key_heads, heads, key, value = self.sizes(s)
        before = self.width - 1
        qk = (before, 2, key_heads, key), ("width", "gate", "heads", "head_dim")
        v = (before, heads, value), ("width", "heads", "head_dim")
        return {
            "state": Kept((heads, key, value), ("heads", "state", "head_dim"), "row", "float32", int8=False),
            "qk": Kept(*qk, per="row", int8=False),
            "v": Kept(*v, per="row", int8=False),
        }

    def flops(self, s: Stream, seq: int, before: int = 0, causal: bool = True) -> int:
        """Per token and head 6 K V, to correct the state and to read it; in a block of several tokens 4 (K + V) for
        every pair of them, and the inverse of a block (models.blocks.inverse_flops)."""
        _, heads, key, value = self.sizes(s)
        inverse = inverse_flops(min(self.block, seq))
        per_token, per_pair = 6 * key * value, 4 * (key + value)
        return block_flops(seq, self.block, heads * per_token, heads * per_pair, causal, heads * inverse)

    def apply(self, s: Stream, w: Any, x: jax.Array, past: Past) -> tuple[jax.Array, Past, None]:
        """x `[batch, seq, d_model]` -> (as x, the past with its state)."""
        x = ops.gather_positions(x)
        key_heads, heads, key, value = self.sizes(s)
        lead, shared = x.shape[:2], heads // key_heads
        ends = [key, 2 * key, 2 * key + shared * value]
        q, k, v, z = jnp.split(ops.contract(x, w["qkvz"]), ends, axis=-1)
        ba = ops.contract(x, w["ba"])
        if self.decay == "channel":
            a = ops.contract(ops.contract(x, w["decay_down"]), w["decay_up"])
        else:
            a = ba[..., shared:].reshape(*lead, heads, 1)
        b, v = ba[..., :shared].reshape(*lead, heads), v.reshape(*lead, heads, value)
        inputs = {"qk": jnp.stack([q, k], axis=2), "v": v, "b": b, "a": a}
        y, past = past.carry(partial(self._step, w), inputs, self.kept(s), self.block)
        y = ops.normalize(y.astype(jnp.float32), w["gain"], None, "rmsnorm", s.norm_eps)
        y = (y * jax.nn.silu(z.reshape(y.shape).astype(jnp.float32))).astype(x.dtype)
        return ops.scatter_positions(ops.contract(y, w["out"], dims=2)), past, None

    def _step(self, w: Any, state: Any, inputs: Any, reach: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        """One block (models.past.Step): inputs qk `[rows, size, 2, key_heads, key]`, v `[rows, size, heads, value]`, b
        `[rows, size, heads]`, a `[rows, size, heads, key or 1]`; the result is as v."""
        qk, before_qk = ops.causal_convolution(inputs["qk"], state["qk"], w["conv_qk"], None, reach)
        v, before_v = ops.causal_convolution(inputs["v"], state["v"], w["conv_v"], None, reach)
        qk, v = jax.nn.silu(qk), jax.nn.silu(v)
        qk = qk * jax.lax.rsqrt(jnp.square(qk).sum(-1, keepdims=True) + LEAST)
        q, k = jnp.moveaxis(jnp.repeat(qk, v.shape[2] // qk.shape[3], axis=3), 2, 0)
        beta = jax.nn.sigmoid(inputs["b"].astype(jnp.float32)) * (2 if self.negative else 1)
        y, after = ops.gated_delta(
            state["state"], q * q.shape[-1] ** -0.5, k, v, beta, self._log_decay(w, inputs["a"]), reach
        )
        return y.astype(inputs["v"].dtype), {"state": after, "qk": before_qk, "v": before_v}

    def _log_decay(self, w: Any, a: jax.Array) -> jax.Array:
        """g <= 0, as a `[rows, size, heads, key or 1]`, float32."""
        rate, a = jnp.exp(w["decay"])[:, None], a.astype(jnp.float32)
        if self.decay == "channel":
            return -FASTEST * jax.nn.sigmoid(rate * (a + w["decay_bias"]))
        return -rate * jax.nn.softplus(a + w["decay_bias"][:, None])
