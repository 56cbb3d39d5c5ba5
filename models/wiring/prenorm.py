"""Norms before the parts of a layer (Xiong et al. 2020), and after them too where asked (Gemma 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from models.deferred import jax, jnp, ops
from models.errors import require
from models.serialize import added
from models.stream import Stream
from models.weight import WeightTree
from models.wiring.residual import Residual

if TYPE_CHECKING:
    from models.layer import Layer
    from models.past import Past
    from models.routing import Routing


@dataclass(frozen=True)
class PreNorm(Residual):
    """x + scale mixer(norm(x)), then + scale channel(norm(x)).

    before, after: whether a part's input and its result are normed; OLMo 2 norms the results alone. scale: factor on
    what is added (Granite).
    """

    before: bool = True
    after: bool = False
    scale: float = added(1.0)

    untagged: ClassVar[bool] = True  # in JSON: it was the only wiring

    def __post_init__(self) -> None:
        require(self.scale > 0, "scale", f"is {self.scale}", "give a positive number")

    def weights(self, s: Stream, layer: Layer) -> WeightTree:
        """The parts' weights under their slots, the norms' beside them."""
        block: dict[str, Any] = {}
        for part in layer.parts:
            if self.before:
                block[f"{part.slot}_norm"] = s.norm_weights(s.d_model, "embed")
            block[part.slot] = part.weights(s)
        if self.after:
            block |= {f"post_{part.slot}_norm": s.norm_weights(s.d_model, "embed") for part in layer.parts}
        return block

    def apply(
        self, s: Stream, layer: Layer, w: Any, x: jax.Array, past: Past, tokens: jax.Array
    ) -> tuple[jax.Array, Past, tuple[Routing, ...]]:  # fmt: skip
        """x `[batch, seq, d_model]` through one layer."""
        with jax.named_scope(layer.mixer.slot):
            y, past, routing = layer.mixer.apply(s, w[layer.mixer.slot], self._read(s, layer.mixer, w, x), past)
            x = x + self._written(s, layer.mixer, w, y)
        routings: tuple[Routing, ...] = () if routing is None else (routing,)
        if layer.channel is not None:
            y, routing = self.transformed(s, layer, w, x, tokens)
            x = x + y
            routings += () if routing is None else (routing,)
        return ops.constrain_residual(x), past, routings

    def transformed(
        self, s: Stream, layer: Layer, w: Any, x: jax.Array, tokens: jax.Array
    ) -> tuple[jax.Array, Routing | None]:  # fmt: skip
        """What the layer's channel adds to x, and its routing."""
        assert layer.channel is not None
        with jax.named_scope(layer.channel.slot):
            y, routing = layer.channel.apply(s, w[layer.channel.slot], self._read(s, layer.channel, w, x), tokens)
            return self._written(s, layer.channel, w, y), routing

    def _read(self, s: Stream, part: Any, w: Any, x: jax.Array) -> jax.Array:
        return ops.norm(s, w[f"{part.slot}_norm"], x) if self.before else x

    def _written(self, s: Stream, part: Any, w: Any, y: jax.Array) -> jax.Array:
        y = ops.norm(s, w[f"post_{part.slot}_norm"], y) if self.after else y
        return y if self.scale == 1 else y * jnp.asarray(self.scale, y.dtype)
