"""mLSTM (Beck et al. 2024, xLSTM 7B): a matrix memory behind exponential input gates, normed by what entered it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from models.blocks import block_flops
from models.deferred import jax, jnp, ops
from models.errors import require
from models.kept import Kept
from models.stream import Stream
from models.weight import Weight, WeightTree

if TYPE_CHECKING:
    from models.past import Past

INPUT_STD = 0.1  # of the input gates' biases at the start
LARGEST_CAP = 20.0  # e^20 x a million tokens, squared in the gradient, is still within float32


def forget_biases(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Biases of the forget gates at the start: 3 to 6 in even steps over the heads, `[heads]` float32: heads forget
    after 20 to 400 tokens."""
    return jnp.linspace(3.0, 6.0, shape[0])


def input_biases(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Biases of the input gates at the start: normal, `[heads]` float32."""
    return INPUT_STD * jax.random.normal(key, shape, jnp.float32)


@dataclass(frozen=True)
class MLSTM:
    """Per head C = f C + i k v^T, n = f n + i k and h = C^T q / max(|n^T q|, 1).

    i = exp(cap(i')) and f = sigmoid(cap(f')) with cap(x) = c tanh(x / c); i' and f' are read from x with a bias (their
    weights start at zero), and q is scaled by key_dim^-1/2. h is normed by head (LayerNorm without bias), times
    sigmoid(o), and goes through the last product.

    The published form divides C and n by e^m, m the largest exponent so far, which cancels in h; capped gates need no
    m: sums of e^15 stay far within float32, whose precision is relative. So [C, n] is a gated linear state whose values
    are i [v, 1]. Keeps it in float32 per row, nothing per token. Fields that are None are those of the model; widths of
    heads stay as they are when it grows wider.
    """

    heads: int | None = None  # None: the model's n_heads
    key_dim: int | None = None  # of a head; None: half of value_dim, as published
    value_dim: int | None = None  # of a head; None: the model's head_dim
    cap: float = 15.0  # of both gates
    block: int = 64  # tokens that are computed at once from one state

    slot: ClassVar[str] = "mlstm"
    last: ClassVar[str] = "out"  # the weight of its last product
    undivided: ClassVar[tuple[str, ...]] = ("context",)  # mesh axes that cannot divide it: positions follow one another

    def __post_init__(self) -> None:
        for field in ("heads", "key_dim", "value_dim"):
            value = getattr(self, field)
            require(value is None or value >= 1, field, f"is {value}", "give a positive integer or None")
        require(self.block >= 1, "block", f"is {self.block}", "give a positive integer")
        problem = f"is {self.cap}, under which gates may leave float32" if self.cap > 0 else f"is {self.cap}"
        require(0 < self.cap <= LARGEST_CAP, "cap", problem, f"give a number above 0, {LARGEST_CAP:g} at most")

    def resolved(self, s: Stream) -> MLSTM:
        """Itself with the model's heads and their widths where it has none of its own."""
        heads, key, value = self.sizes(s)
        require(s.bias == "none", "model.bias", f"{s.bias!r} asks for biases that MLSTM does not have", "use 'none'")
        return dataclasses.replace(self, heads=heads, key_dim=key, value_dim=value)

    def sizes(self, s: Stream) -> tuple[int, int, int]:
        """(heads, features of a head's keys, of its values)."""
        value = self.value_dim or s.head_dim
        return self.heads or s.n_heads, self.key_dim or max(1, value // 2), value

    def weights(self, s: Stream) -> WeightTree:
        """qk `[d_model, 2, heads, key_dim]`, vo `[d_model, 2, heads, value_dim]` for the values and what they are gated
        by, gates `[d_model, 2, heads]` for i' and f'."""
        heads, key, value = self.sizes(s)
        std, out_std = s.hidden_std(s.d_model), s.hidden_std(heads * value) * s.residual_scale
        axes = ("embed", "gate", "heads", "head_dim")
        return {
            "qk": Weight((s.d_model, 2, heads, key), axes, "matrix", std=std),
            "vo": Weight((s.d_model, 2, heads, value), axes, "matrix", std=std),
            "gates": Weight((s.d_model, 2, heads), axes[:3], "matrix", draw=_zeros),
            "input_bias": Weight((heads,), ("heads",), "gate", draw=input_biases),
            "forget_bias": Weight((heads,), ("heads",), "gate", draw=forget_biases),
            "gain": Weight((heads, value), ("heads", "head_dim"), "vector", std=1.0),
            "out": Weight((heads, value, s.d_model), ("heads", "head_dim", "embed"), "matrix", inputs=2, std=out_std),
        }

    def kept(self, s: Stream) -> dict[str, Kept]:
        """C, and n as its last column: 4 key_dim (value_dim + 1) bytes a head and row."""
        heads, key, value = self.sizes(s)
        shape, axes = (heads, key, value + 1), ("heads", "state", "head_dim")
        return {"state": Kept(shape, axes, per="row", dtype="float32", int8=False)}

    def flops(self, s: Stream, seq: int, before: int = 0, causal: bool = True) -> int:
        """Per token and head 4 key_dim (value_dim + 1), to enter the state and to read it; and in a block of several
        tokens 2 (key_dim + value_dim + 1) for every pair of them."""
        heads, key, value = self.sizes(s)
        per_token, per_pair = 4 * key * (value + 1), 2 * (key + value + 1)
        return block_flops(seq, self.block, heads * per_token, heads * per_pair, causal)

    def apply(self, s: Stream, w: Any, x: jax.Array, past: Past) -> tuple[jax.Array, Past, None]:
        """x `[batch, seq, d_model]` -> (as x, the past with its state)."""
        x = ops.gather_positions(x)
        v, o = jnp.moveaxis(ops.contract(x, w["vo"]), 2, 0)
        inputs = {"qk": ops.contract(x, w["qk"]), "v": v, "gates": ops.contract(x, w["gates"])}
        y, past = past.carry(partial(self._step, w), inputs, self.kept(s), self.block)
        y = ops.normalize(y.astype(jnp.float32), w["gain"], None, "layernorm", s.norm_eps)
        y = (y * jax.nn.sigmoid(o.astype(jnp.float32))).astype(x.dtype)
        return ops.scatter_positions(ops.contract(y, w["out"], dims=2)), past, None

    def _step(self, w: Any, state: Any, inputs: Any, reach: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        """One block (models.past.Step): inputs qk `[rows, size, 2, heads, key]`, v `[rows, size, heads, value]`, gates
        `[rows, size, 2, heads]`; the result is as v."""
        q, k = jnp.moveaxis(inputs["qk"], 2, 0)
        gates = inputs["gates"].astype(jnp.float32)
        enter, forget = (self.cap * jnp.tanh(g / self.cap) for g in (
            gates[:, :, 0] + w["input_bias"], gates[:, :, 1] + w["forget_bias"]))  # fmt: skip
        v = inputs["v"].astype(jnp.float32)
        v = jnp.exp(enter)[..., None] * jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)
        q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
        y, after = ops.gated_linear(state["state"], q, k, v, jax.nn.log_sigmoid(forget), reach)
        y = y[..., :-1] / jnp.maximum(jnp.abs(y[..., -1:]), 1)
        return y.astype(inputs["v"].dtype), {"state": after}


def _zeros(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Gates do not depend on the token at the start."""
    return jnp.zeros(shape, jnp.float32)
