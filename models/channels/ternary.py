"""The gated feed-forward block of the MatMul-free language model (Zhu et al. 2024, arXiv:2406.02528), whose weights are
-1, 0 and 1."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from models.channels.exchanged import Exchanged
from models.deferred import jax, ops
from models.errors import require
from models.stream import Stream
from models.weight import Weight


@dataclass(frozen=True)
class Ternary:
    """down(silu(gate x) * up x) by ternary products (models.ternary), each of which norms what it reads.

    3 d_model d_ff weights and as many multiply-adds a token, beside the two gains.
    """

    d_ff: int | None = None  # None: the model's

    slot: ClassVar[str] = "ternary"
    last: ClassVar[str] = "down"  # the weight of its last product
    undivided: ClassVar[tuple[str, ...]] = ()  # mesh axes that cannot divide it

    def resolved(self, s: Stream) -> Ternary:
        """Itself with the model's width where it has none of its own."""
        require(self.d_ff is None or self.d_ff >= 1, "d_ff", f"is {self.d_ff}", "give a positive integer or None")
        require(s.bias == "none", "model.bias", f"{s.bias!r} asks for biases that Ternary does not have", "use 'none'")
        return dataclasses.replace(self, d_ff=self.d_ff or s.d_ff)

    def weights(self, s: Stream) -> dict[str, Weight]:
        """gate_up `[d_model, 2, d_ff]`, rounded with one scale as published, down `[d_ff, d_model]`, and the gains."""
        d, d_ff = s.d_model, self.d_ff or s.d_ff
        std, down_std = s.hidden_std(d), s.hidden_std(d_ff) * s.residual_scale
        return {
            "gate_up": Weight((d, 2, d_ff), ("embed", "gate", "mlp"), "matrix", std=std, unpacked=True),
            "gate_up_gain": Weight((d,), ("embed",), "vector", std=1.0),
            "down": Weight((d_ff, d), ("mlp", "embed"), "matrix", std=down_std, unpacked=True),
            "down_gain": Weight((d_ff,), ("mlp",), "vector", std=1.0),
        }

    def hidden(self, s: Stream) -> int:
        """d_ff."""
        return self.d_ff or s.d_ff

    def exchanged(self, s: Stream, tokens: int, devices: int) -> tuple[Exchanged, ...]:
        """Nothing."""
        return ()

    def flops(self, s: Stream, seq: int) -> int:
        """None beside the weights'."""
        return 0

    def apply(self, s: Stream, w: Any, x: jax.Array, tokens: jax.Array) -> tuple[jax.Array, None]:
        """x `[batch, seq, d_model]` -> as x."""
        y = ops.ternary_contract(ops.gather_positions(x), w["gate_up"], w["gate_up_gain"])
        y = ops.activated("swiglu", y)
        return ops.scatter_positions(ops.ternary_contract(y, w["down"], w["down_gain"])), None
