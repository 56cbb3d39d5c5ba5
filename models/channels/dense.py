"""The position-wise feed-forward block: plain (GELU, squared ReLU) or gated (SwiGLU, GeGLU; Shazeer 2020)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from models.channels.exchanged import Exchanged
from models.deferred import jax, ops
from models.errors import require
from models.stream import Activation, Stream
from models.weight import Weight


@dataclass(frozen=True)
class Dense:
    """down(act(up x)), or down(act(gate x) * up x). Fields that are None are those of the model."""

    d_ff: int | None = None
    activation: Activation | None = None

    slot: ClassVar[str] = "feedforward"
    last: ClassVar[str] = "down"  # the weight of its last product
    undivided: ClassVar[tuple[str, ...]] = ()  # mesh axes that cannot divide it

    def resolved(self, s: Stream) -> Dense:
        """Itself with the model's width and activation where it has none of its own."""
        require(self.d_ff is None or self.d_ff >= 1, "d_ff", f"is {self.d_ff}", "give a positive integer or None")
        return dataclasses.replace(self, d_ff=self.d_ff or s.d_ff, activation=self.activation or s.activation)

    def weights(self, s: Stream) -> dict[str, Weight]:
        """A gated block stores gate and up as one `[d_model, 2, d_ff]` matrix."""
        d, gated = self.resolved(s), is_gated(self.activation or s.activation)
        assert d.d_ff
        up_std, down_std = s.hidden_std(s.d_model), s.hidden_std(d.d_ff) * s.residual_scale
        if gated:
            weights = {"gate_up": Weight((s.d_model, 2, d.d_ff), ("embed", "gate", "mlp"), "matrix", std=up_std)}
        else:
            weights = {"up": Weight((s.d_model, d.d_ff), ("embed", "mlp"), "matrix", std=up_std)}
        weights["down"] = Weight((d.d_ff, s.d_model), ("mlp", "embed"), "matrix", std=down_std)
        if s.bias == "all":
            if gated:
                weights["gate_up_bias"] = Weight((2, d.d_ff), ("gate", "mlp"), "vector")
            else:
                weights["up_bias"] = Weight((d.d_ff,), ("mlp",), "vector")
            weights["down_bias"] = Weight((s.d_model,), ("embed",), "vector")
        return weights

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
        activation = self.activation or s.activation
        x = ops.gather_positions(x)
        up = "gate_up" if is_gated(activation) else "up"
        y = ops.contract(x, w[up])
        if up + "_bias" in w:
            y = y + w[up + "_bias"]
        out = ops.scatter_positions(ops.contract(ops.activated(activation, y), w["down"]))
        return out + w["down_bias"] if "down_bias" in w else out, None


def is_gated(activation: Activation) -> bool:
    """Whether the block multiplies by a gate."""
    return activation in ("swiglu", "geglu", "geglu_exact", "swiglu_clipped")
