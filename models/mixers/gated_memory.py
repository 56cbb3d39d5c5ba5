"""The gated memory unit (Ren et al. 2025, "Decoder-hybrid-decoder architecture", arXiv:2507.06607; SambaY): a layer
that reads what an earlier one read out of its state, instead of reading tokens itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from models.deferred import jax, jnp, ops
from models.errors import require
from models.kept import Kept
from models.stream import Stream
from models.weight import Weight, WeightTree

if TYPE_CHECKING:
    from models.past import Past


@dataclass(frozen=True)
class GatedMemory:
    """W_out norm(silu(W_gate x_t) * m_t), with m_t the features that the last layer with a state read out of it for the
    same token, before that layer's own gate; the wiring `Shared` hands them on.

    2 expand d_model^2 weights and two products a token. Keeps nothing, reads no cache and attends to nothing: what it
    knows of earlier tokens is in m_t. The norm is that of `Mamba2`, after the gate.
    """

    expand: int = 2  # features of m_t in units of d_model: those of the `Mamba2` that it reads

    slot: ClassVar[str] = "gated_memory"
    last: ClassVar[str] = "out"  # the weight of its last product
    undivided: ClassVar[tuple[str, ...]] = ()  # mesh axes that cannot divide it
    block: ClassVar[int] = 0

    def __post_init__(self) -> None:
        require(self.expand >= 1, "expand", f"is {self.expand}", "give a positive integer")

    def resolved(self, s: Stream) -> GatedMemory:
        """Itself."""
        problem = f"{s.bias!r} asks for biases that GatedMemory does not have"
        require(s.bias != "all", "model.bias", problem, "use 'none', 'qkv' or 'attention'")
        return self

    def takes(self, s: Stream) -> dict[str, int]:
        """Features of each thing that it reads of other layers (models.lent)."""
        return {"memory": self.expand * s.d_model}

    def weights(self, s: Stream) -> WeightTree:
        """gate `[d_model, expand d_model]`, gain, out `[expand d_model, d_model]`."""
        size = self.expand * s.d_model
        out_std = s.hidden_std(size) * s.residual_scale
        return {
            "gate": Weight((s.d_model, size), ("embed", "mlp"), "matrix", std=s.hidden_std(s.d_model)),
            "gain": Weight((size,), ("mlp",), "vector", std=1.0),
            "out": Weight((size, s.d_model), ("mlp", "embed"), "matrix", std=out_std),
        }

    def kept(self, s: Stream) -> dict[str, Kept]:
        """Nothing."""
        return {}

    def flops(self, s: Stream, seq: int, before: int = 0, causal: bool = True) -> int:
        """None beside the weights'."""
        return 0

    def apply(self, s: Stream, w: Any, x: jax.Array, past: Past) -> tuple[jax.Array, Past, None]:
        """x `[batch, seq, d_model]` -> as x."""
        gate = jax.nn.silu(ops.contract(ops.gather_positions(x), w["gate"]).astype(jnp.float32))
        y = ops.normalize(gate * past.memory.astype(jnp.float32), w["gain"], None, "rmsnorm", s.norm_eps)
        return ops.scatter_positions(ops.contract(y.astype(x.dtype), w["out"])), past, None
