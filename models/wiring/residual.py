"""Residual: what wirings have in common, and what most of them do not change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.deferred import jax
from models.stream import Stream
from models.weight import WeightTree

if TYPE_CHECKING:
    from models.layer import Layer


class Residual:
    """Layers hand on the stream itself, a wiring weighs nothing beside its layers, and every part fits into it."""

    def check(self, s: Stream, layer: Layer) -> None:
        """ConfigError where a part of the layer cannot be wired so; its field is one of the wiring's or the part's."""

    def once(self, s: Stream) -> WeightTree:
        """Weights that the model has once, whatever its depth."""
        return {}

    def enter(self, s: Stream, x: jax.Array) -> Any:
        """What the first layer is handed of the embeddings `[batch, seq, d_model]`."""
        return x

    def leave(self, s: Stream, w: Any, x: Any) -> jax.Array:
        """What the final norm reads `[batch, seq, d_model]` of what the last layer hands on; w: those of `once`."""
        return x
