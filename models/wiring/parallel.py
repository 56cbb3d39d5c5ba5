"""Both parts of a layer read the same stream, so that neither waits for the other (Wang & Komatsuzaki 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.deferred import jax, ops
from models.stream import Stream
from models.weight import WeightTree
from models.wiring.residual import Residual

if TYPE_CHECKING:
    from models.layer import Layer
    from models.past import Past
    from models.routing import Routing


@dataclass(frozen=True)
class Parallel(Residual):
    """x + mixer(norm(x)) + channel(norm'(x)).

    shared: both parts read one norm (GPT-J, Cohere), not a norm of each (GPT-NeoX).
    """

    shared: bool = False

    def weights(self, s: Stream, layer: Layer) -> WeightTree:
        """The parts' weights under their slots, the norms' beside them; a norm of both is the mixer's."""
        block: dict[str, Any] = {}
        for part in layer.parts:
            if part is layer.mixer or not self.shared:
                block[f"{part.slot}_norm"] = s.norm_weights(s.d_model, "embed")
            block[part.slot] = part.weights(s)
        return block

    def apply(
        self, s: Stream, layer: Layer, w: Any, x: jax.Array, past: Past, tokens: jax.Array
    ) -> tuple[jax.Array, Past, tuple[Routing, ...]]:  # fmt: skip
        """x `[batch, seq, d_model]` through one layer."""
        mixer, channel = layer.mixer, layer.channel
        read = ops.norm(s, w[f"{mixer.slot}_norm"], x)
        with jax.named_scope(mixer.slot):
            y, past, routing = mixer.apply(s, w[mixer.slot], read, past)
        routings = () if routing is None else (routing,)
        if channel is not None:
            with jax.named_scope(channel.slot):
                read = read if self.shared else ops.norm(s, w[f"{channel.slot}_norm"], x)
                beside, routing = channel.apply(s, w[channel.slot], read, tokens)
            y = y + beside
            routings += () if routing is None else (routing,)
        return ops.constrain_residual(x + y), past, routings
