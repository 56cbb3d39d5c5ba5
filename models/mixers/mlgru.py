"""MLGRU of the MatMul-free language model (Zhu et al. 2024, arXiv:2406.02528): a gated recurrence of single features,
read from the stream by products with weights of -1, 0 and 1."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from models.deferred import jax, jnp, ops
from models.errors import require
from models.kept import Kept
from models.stream import Stream
from models.weight import Weight, WeightTree

if TYPE_CHECKING:
    from models.past import Past

READ = ("forget", "candidate", "gate")


@dataclass(frozen=True)
class MLGRU:
    """h_t = f h_{t-1} + (1 - f) c with f = least + (1 - least) sigmoid(W_f x) and c = silu(W_c x), feature by feature;
    y = W_o (norm(W_g x) silu(h)).

    All four products are ternary (models.ternary): each norms what it reads, with a gain of its own. No two activations
    are multiplied into a sum, so that beside its 4 d_model width weights it costs no products. Keeps h, 4 width bytes
    per row, nothing per token. `least` stands for the published bound that grows with depth and is learned: give layers
    of the pattern one each. normed: what the last norm is of; the published code's gate, or the state, as
    norm(h) silu(W_g x).
    """

    width: int | None = None  # features of the state; None: d_model
    least: float = 0.0  # share of a state that a token leaves at least
    normed: Literal["gate", "state"] = "gate"
    block: int = 64  # tokens that are computed at once from one state

    slot: ClassVar[str] = "mlgru"
    last: ClassVar[str] = "out"  # the weight of its last product
    undivided: ClassVar[tuple[str, ...]] = ("context",)  # mesh axes that cannot divide it: positions follow one another

    def __post_init__(self) -> None:
        require(self.width is None or self.width >= 1, "width", f"is {self.width}", "give a positive integer or None")
        require(self.block >= 1, "block", f"is {self.block}", "give a positive integer")
        require(0 <= self.least < 1, "least", f"is {self.least}", "give a share in [0, 1)")

    def resolved(self, s: Stream) -> MLGRU:
        """Itself with the model's width where it has none of its own."""
        require(s.bias == "none", "model.bias", f"{s.bias!r} asks for biases that MLGRU does not have", "use 'none'")
        return dataclasses.replace(self, width=self.width or s.d_model)

    def weights(self, s: Stream) -> WeightTree:
        """forget, candidate, gate `[d_model, width]`, out `[width, d_model]`, and the gains of what each reads."""
        d, width = s.d_model, self.width or s.d_model
        std, out_std = s.hidden_std(d), s.hidden_std(width) * s.residual_scale
        tree: dict[str, Any] = {"gain": Weight((width,), ("mlp",), "vector", std=1.0)}
        for name in READ:
            tree[name] = Weight((d, width), ("embed", "mlp"), "matrix", std=std, unpacked=True)
            tree[f"{name}_gain"] = Weight((d,), ("embed",), "vector", std=1.0)
        tree["out"] = Weight((width, d), ("mlp", "embed"), "matrix", std=out_std, unpacked=True)
        tree["out_gain"] = Weight((width,), ("mlp",), "vector", std=1.0)
        return tree

    def kept(self, s: Stream) -> dict[str, Kept]:
        """h."""
        return {"state": Kept((self.width or s.d_model,), ("mlp",), per="row", dtype="float32", int8=False)}

    def flops(self, s: Stream, seq: int, before: int = 0, causal: bool = True) -> int:
        """None beside the weights'."""
        return 0

    def apply(self, s: Stream, w: Any, x: jax.Array, past: Past) -> tuple[jax.Array, Past, None]:
        """x `[batch, seq, d_model]` -> (as x, the past with its state)."""
        x = ops.gather_positions(x)
        forget, candidate, gate = (ops.ternary_contract(x, w[name], w[f"{name}_gain"]) for name in READ)
        share = self.least + (1 - self.least) * jax.nn.sigmoid(forget.astype(jnp.float32))
        inputs = {"share": share, "enters": (1 - share) * jax.nn.silu(candidate.astype(jnp.float32))}
        h, past = past.carry(_step, inputs, self.kept(s), self.block)
        normed, through = (gate, h) if self.normed == "gate" else (h, gate)
        y = ops.normalize(normed.astype(jnp.float32), w["gain"], None, "rmsnorm", s.norm_eps)
        y = (y * jax.nn.silu(through.astype(jnp.float32))).astype(x.dtype)
        return ops.scatter_positions(ops.ternary_contract(y, w["out"], w["out_gain"])), past, None


def _step(state: Any, inputs: Any, reach: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    """One block (models.past.Step): inputs `[rows, size, width]`, as the result is."""
    h, after = ops.gated_sum(state["state"], inputs["share"], inputs["enters"], reach)
    return h, {"state": after}
