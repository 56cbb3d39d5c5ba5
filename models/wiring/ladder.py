"""Ladder residual: every part reads the stream without the part just before it, and so need not wait for its sum over
devices (Zhang et al. 2025, arXiv:2501.06589).

With parts f_1, f_2, ... of all layers (mixer, channel, mixer, ...) and the embeddings x_1,

    y_k = f_k(norm_k(x_k)),    x_{k+1} = x_k + y_{k-1},    y_0 = 0,    and the final norm reads x_n + y_{n-1} + y_n.

Under tensor parallelism y_{k-1} is a sum over devices. A plain residual needs it to begin f_k; here it is first needed
by f_{k+1}, so that the collective has the whole of f_k's products to hide behind. Weights, FLOPs and what is kept are
those of `PreNorm`; two arrays of the stream's size go from layer to layer instead of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from models.deferred import jax, jnp, ops
from models.stream import Stream
from models.weight import WeightTree
from models.wiring.residual import Norm, Residual

if TYPE_CHECKING:
    from models.layer import Layer
    from models.past import Past
    from models.routing import Routing


class Rung(NamedTuple):
    """What layers hand on: the stream `[batch, seq, d_model]`, and what the last part wrote, not yet in it."""

    stream: jax.Array
    late: jax.Array


@dataclass(frozen=True)
class Ladder(Residual):
    """x_{k+1} = x_k + y_{k-1} with y_k = part_k(norm(x_k)): results arrive one part late."""

    def weights(self, s: Stream, layer: Layer) -> WeightTree:
        """The parts' weights under their slots, the norms' beside them."""
        block: dict[str, Any] = {}
        for part in layer.parts:
            block[f"{part.slot}_norm"] = s.norm_weights(s.d_model, "embed")
            block[part.slot] = part.weights(s)
        return block

    def enter(self, s: Stream, layers: Sequence[Layer], x: jax.Array) -> Rung:
        """Before the first part nothing is late."""
        return Rung(x, jnp.zeros_like(x))

    def leave(self, s: Stream, w: Any, x: Rung, norm: Norm) -> jax.Array:
        """All results are in."""
        return norm(x.stream + x.late)

    def apply(
        self, s: Stream, layer: Layer, w: Any, x: Rung, past: Past, tokens: jax.Array
    ) -> tuple[Rung, Past, tuple[Routing, ...]]:  # fmt: skip
        """One layer."""
        mixer, channel = layer.mixer, layer.channel
        with jax.named_scope(mixer.slot):
            y, past, routing = mixer.apply(s, w[mixer.slot], ops.norm(s, w[f"{mixer.slot}_norm"], x.stream), past)
        x = Rung(ops.constrain_residual(x.stream + x.late), y)
        routings = () if routing is None else (routing,)
        if channel is not None:
            with jax.named_scope(channel.slot):
                y, routing = channel.apply(s, w[channel.slot], ops.norm(s, w[f"{channel.slot}_norm"], x.stream), tokens)
            x = Rung(ops.constrain_residual(x.stream + x.late), y)
            routings += () if routing is None else (routing,)
        return x, past, routings
