"""Third-order attention (Sanford et al. 2023, "Representational strengths and limitations of transformers"; Alman and
Song 2023, "How to capture higher-order correlations?"): every pair of earlier tokens is weighed at once, as a state."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
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

DEGREES = (2, 4, 6)  # even ones: no weight is negative
LEAST = 0.1  # below every sum of weights, of which the least are 0.5, 0.27 and 0.18


@dataclass(frozen=True)
class ThirdOrder:
    """Per head y_i = sum_jk w(s_ijk) v1_j * v2_k / sum_jk w(s_ijk) over all j, k <= i, with the score
    s_ijk = sum_c q_ic k1_jc k2_kc / sqrt(d) of d features and w the Taylor polynomial of the exponential.

    w is a sum of products, x^a running over the monomials of up to `degree` factors: w(s_ijk) = sum_a d^(-|a| / 2) / a!
    q_i^a k1_j^a k2_k^a. So S1 = sum_j k1_j^a [v1_j, 1], S2 likewise, and y needs [v1, 1] * [v2, 1] of the one times
    the other: time is linear in tokens where a softmax over pairs takes their cube. It is off by s^(degree + 1) /
    (degree + 1)! of a weight, little for scores that are bounded. There are (degree + d choose d) monomials: 45 of 8
    features and degree 2. Keeps S1 and S2 in float32 per row, nothing per token; tokens are not told apart by position.
    """

    heads: int | None = None  # None: the model's n_heads
    features: int = 8  # of q, k1 and k2, d above
    value_dim: int | None = None  # of a head; None: the model's head_dim
    degree: int = 2
    block: int = 16  # tokens that are computed at once from one state; all their states are held

    slot: ClassVar[str] = "third_order"
    last: ClassVar[str] = "out"  # the weight of its last product
    undivided: ClassVar[tuple[str, ...]] = ("context",)  # mesh axes that cannot divide it: positions follow one another

    def __post_init__(self) -> None:
        for field in ("heads", "value_dim"):
            value = getattr(self, field)
            require(value is None or value >= 1, field, f"is {value}", "give a positive integer or None")
        for field in ("features", "block"):
            value = getattr(self, field)
            require(value >= 1, field, f"is {value}", "give a positive integer")
        require(self.degree in DEGREES, "degree", f"is {self.degree}", "use 2, 4 or 6, whose weights are positive")

    def resolved(self, s: Stream) -> ThirdOrder:
        """Itself with the model's heads and their width where it has none of its own."""
        problem = f"{s.bias!r} asks for biases that ThirdOrder does not have"
        require(s.bias == "none", "model.bias", problem, "use 'none'")
        return dataclasses.replace(self, heads=self.heads or s.n_heads, value_dim=self.value_dim or s.head_dim)

    @property
    def monomials(self) -> int:
        """How many there are."""
        return math.comb(self.features + self.degree, self.degree)

    def _sizes(self, s: Stream) -> tuple[int, int]:
        """(heads, features of a head's values)."""
        return self.heads or s.n_heads, self.value_dim or s.head_dim

    def weights(self, s: Stream) -> WeightTree:
        """qkk `[d_model, 3, heads, features]`, vv `[d_model, 2, heads, value_dim]`, out `[heads, value_dim, d_model]`;
        k1 before k2, v1 before v2."""
        heads, value = self._sizes(s)
        std, out_std = s.hidden_std(s.d_model), s.hidden_std(heads * value) * s.residual_scale
        axes, out_axes = ("embed", "gate", "heads", "head_dim"), ("heads", "head_dim", "embed")
        return {
            "qkk": Weight((s.d_model, 3, heads, self.features), axes, "matrix", std=std),
            "vv": Weight((s.d_model, 2, heads, value), axes, "matrix", std=std),
            "out": Weight((heads, value, s.d_model), out_axes, "matrix", inputs=2, std=out_std),
        }

    def kept(self, s: Stream) -> dict[str, Kept]:
        """S1 and S2, whose last columns are sums of monomials: 8 monomials (value_dim + 1) bytes a head and row."""
        heads, value = self._sizes(s)
        shape, axes = (2, heads, self.monomials, value + 1), ("gate", "heads", "state", "head_dim")
        return {"state": Kept(shape, axes, per="row", dtype="float32", int8=False)}

    def flops(self, s: Stream, seq: int, before: int = 0, causal: bool = True) -> int:
        """Per token and head 6 monomials (value_dim + 1): it enters two states, and their product is read."""
        heads, value = self._sizes(s)
        return block_flops(seq, self.block, 6 * self.monomials * (value + 1) * heads, 0, causal)

    def apply(self, s: Stream, w: Any, x: jax.Array, past: Past) -> tuple[jax.Array, Past, None]:
        """x `[batch, seq, d_model]` -> (as x, the past with its states)."""
        x = ops.gather_positions(x)
        inputs = {"qkk": ops.contract(x, w["qkk"]), "vv": ops.contract(x, w["vv"])}
        y, past = past.carry(self._step, inputs, self.kept(s), self.block)
        return ops.scatter_positions(ops.contract(y, w["out"], dims=2)), past, None

    def _step(self, state: Any, inputs: Any, reach: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        """One block (models.past.Step): inputs qkk `[rows, size, 3, heads, features]`, vv
        `[rows, size, 2, heads, value_dim]`; the result `[rows, size, heads, value_dim]`."""
        dtype, values = inputs["vv"].dtype, inputs["vv"].astype(jnp.float32)
        read = self._expanded(inputs["qkk"].astype(jnp.float32))
        values = jnp.concatenate([values, jnp.ones_like(values[..., :1])], axis=-1)
        exact = {"preferred_element_type": jnp.float32}
        enters = jnp.einsum("riphm,riphv->riphmv", read[:, :, 1:], values, **exact)
        sums, after = ops.gated_sum(state["state"], jnp.ones_like(enters[..., :1, :1, :1, :1]), enters, reach)
        factors = self._factors()
        y = jnp.einsum("rihm,rihmv->rihv", read[:, :, 0] * factors, sums[:, :, 0] * sums[:, :, 1], **exact)
        return (y[..., :-1] / jnp.maximum(y[..., -1:], LEAST)).astype(dtype), {"state": after}

    def _expanded(self, x: jax.Array) -> jax.Array:
        """x `[..., features]` -> its monomials `[..., monomials]`."""
        parts = [jnp.ones_like(x[..., :1])]
        parts += [x[..., chosen].prod(-1) for chosen in chosen_factors(self.features, self.degree)]
        return jnp.concatenate(parts, axis=-1)

    def _factors(self) -> np.ndarray:
        """d^(-|a| / 2) / a! of every monomial, `[monomials]` float32."""
        found = [1.0]
        for chosen in chosen_factors(self.features, self.degree):
            for one in chosen.tolist():
                orders = math.prod(math.factorial(one.count(c)) for c in set(one))
                found.append(self.features ** (-len(one) / 2) / orders)
        return np.array(found, np.float32)


@functools.cache
def chosen_factors(features: int, degree: int) -> tuple[np.ndarray, ...]:
    """For 1, 2, .. `degree` factors: which features each monomial multiplies, `[monomials, factors]`."""
    several = itertools.combinations_with_replacement
    return tuple(np.array(list(several(range(features), n))) for n in range(1, degree + 1))
