"""Linear attention with Taylor features (BASED, Arora et al. 2024): softmax's weights to second order, as a state."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from models.blocks import block_flops
from models.deferred import jax, jnp, ops
from models.errors import require
from models.kept import Kept
from models.stream import Stream
from models.weight import Weight, WeightTree

if TYPE_CHECKING:
    from models.past import Past

LEAST = 0.25  # below every sum of weights: each is (1 + (1 + s)^2) / 2, a half at least


@dataclass(frozen=True)
class Linear:
    """Per head y_t = sum_j w(s_tj) v_j / sum_j w(s_tj) over j <= t, with s = q.k / sqrt(d) and w(s) = 1 + s + s^2 / 2.

    w(s) is the product of the features phi(x) = [1, x / d^1/4, x_i^2 / sqrt(2 d), x_i x_j / sqrt(d)] of q and k, of
    which there are 1 + d + d (d + 1) / 2: 45, 153 and 325 for d of 8, 16 and 24. So S = S + phi(k) [v, 1]^T, and
    phi(q)^T S is the sum of weighted values beside that of the weights, which no token can bring below a half. Within a
    block w is taken of s itself. Keeps S in float32 per row, nothing per token; tokens are not told apart by position,
    which windows of other layers of the pattern do. The features stay as they are when the model grows wider.
    """

    heads: int | None = None  # None: the model's n_heads
    features: int = 16  # of q and k, d above
    value_dim: int | None = None  # of a head; None: the model's head_dim
    block: int = 64  # tokens that are computed at once from one state

    slot: ClassVar[str] = "linear"
    last: ClassVar[str] = "out"  # the weight of its last product
    undivided: ClassVar[tuple[str, ...]] = ("context",)  # mesh axes that cannot divide it: positions follow one another

    def __post_init__(self) -> None:
        for field in ("heads", "value_dim"):
            value = getattr(self, field)
            require(value is None or value >= 1, field, f"is {value}", "give a positive integer or None")
        for field in ("features", "block"):
            value = getattr(self, field)
            require(value >= 1, field, f"is {value}", "give a positive integer")

    def resolved(self, s: Stream) -> Linear:
        """Itself with the model's heads and their width where it has none of its own."""
        require(s.bias == "none", "model.bias", f"{s.bias!r} asks for biases that Linear does not have", "use 'none'")
        return dataclasses.replace(self, heads=self.heads or s.n_heads, value_dim=self.value_dim or s.head_dim)

    @property
    def expanded(self) -> int:
        """How many Taylor features q and k have."""
        return 1 + self.features + self.features * (self.features + 1) // 2

    def _sizes(self, s: Stream) -> tuple[int, int]:
        """(heads, features of a head's values)."""
        return self.heads or s.n_heads, self.value_dim or s.head_dim

    def weights(self, s: Stream) -> WeightTree:
        """qk `[d_model, 2, heads, features]`, v `[d_model, heads, value_dim]`, out `[heads, value_dim, d_model]`."""
        heads, value = self._sizes(s)
        std, out_std = s.hidden_std(s.d_model), s.hidden_std(heads * value) * s.residual_scale
        qk_axes, v_axes = ("embed", "gate", "heads", "head_dim"), ("embed", "heads", "head_dim")
        out_axes = ("heads", "head_dim", "embed")
        return {
            "qk": Weight((s.d_model, 2, heads, self.features), qk_axes, "matrix", std=std),
            "v": Weight((s.d_model, heads, value), v_axes, "matrix", std=std),
            "out": Weight((heads, value, s.d_model), out_axes, "matrix", inputs=2, std=out_std),
        }

    def kept(self, s: Stream) -> dict[str, Kept]:
        """S, whose last column is the sum of phi(k): 4 expanded (value_dim + 1) bytes a head and row."""
        heads, value = self._sizes(s)
        shape, axes = (heads, self.expanded, value + 1), ("heads", "state", "head_dim")
        return {"state": Kept(shape, axes, per="row", dtype="float32", int8=False)}

    def flops(self, s: Stream, seq: int, before: int = 0, causal: bool = True) -> int:
        """Per token and head 4 expanded (value_dim + 1), to enter the state and to read it; and in a block of several
        tokens 2 (features + value_dim + 1) for every pair of them."""
        heads, value = self._sizes(s)
        per_token, per_pair = 4 * self.expanded * (value + 1), 2 * (self.features + value + 1)
        return block_flops(seq, self.block, heads * per_token, heads * per_pair, causal)

    def apply(self, s: Stream, w: Any, x: jax.Array, past: Past) -> tuple[jax.Array, Past, None]:
        """x `[batch, seq, d_model]` -> (as x, the past with its state)."""
        x = ops.gather_positions(x)
        inputs = {"qk": ops.contract(x, w["qk"]), "v": ops.contract(x, w["v"])}
        y, past = past.carry(self._step, inputs, self.kept(s), self.block)
        return ops.scatter_positions(ops.contract(y, w["out"], dims=2)), past, None

    def _step(self, state: Any, inputs: Any, reach: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        """One block (models.past.Step): inputs qk `[rows, size, 2, heads, features]`, v
        `[rows, size, heads, value_dim]`; the result is as v."""
        dtype, v = inputs["v"].dtype, inputs["v"].astype(jnp.float32)
        q, k = jnp.moveaxis(inputs["qk"], 2, 0)
        v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)
        scores = None
        if q.shape[1] > 1:
            s = jnp.einsum("righ,rjgh->rgij", q, k, preferred_element_type=jnp.float32) * self.features**-0.5
            scores = 1 + s + s * s / 2
        held = jnp.zeros(v.shape[:3], jnp.float32)
        q, k = (taylor_features(y.astype(jnp.float32)).astype(dtype) for y in (q, k))
        y, after = ops.gated_linear(state["state"], q, k, v, held, reach, scores)
        return (y[..., :-1] / jnp.maximum(y[..., -1:], LEAST)).astype(dtype), {"state": after}


def taylor_features(x: jax.Array) -> jax.Array:
    """phi of the docstring above: x `[..., d]` -> `[..., 1 + d + d (d + 1) / 2]`, constants first, squares and products
    row by row of the upper triangle."""
    d = x.shape[-1]
    i, j = np.triu_indices(d)
    scale = np.where(i == j, (2 * d) ** -0.5, d**-0.5).astype(np.float32)
    return jnp.concatenate([jnp.ones_like(x[..., :1]), x * d**-0.25, x[..., i] * x[..., j] * scale], axis=-1)
