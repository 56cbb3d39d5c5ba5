"""Residual: what wirings have in common, and what most of them do not change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from models.deferred import jax
from models.errors import require
from models.stream import Stream
from models.weight import WeightTree

if TYPE_CHECKING:
    from models.layer import Layer

Norm = Callable[["jax.Array"], "jax.Array"]


class Residual:
    """Layers hand on the stream itself, a wiring weighs nothing beside its layers, and every part fits into it."""

    lends: ClassVar[bool] = False  # whether layers see what earlier ones read

    @property
    def copies(self) -> int:
        """How often the layers' products run for one token."""
        return 1

    def check(self, s: Stream, layer: Layer) -> None:
        """ConfigError where a part of the layer cannot be wired so."""
        streams, kind = getattr(layer.mixer, "streams", 1), type(layer.mixer).__name__
        problem, fix = f"hands on the stream alone, but {kind} reads what other layers read", "use Shared()"
        require(self.lends or not hasattr(layer.mixer, "takes"), "model.wiring", problem, fix)
        problem = f"hands on {self.copies} of a token, but {kind} mixes {streams}"
        require(streams == self.copies, "streams", problem, "give Streams(n) layers of Streamed(streams=n)")

    def check_order(self, s: Stream, layers: Sequence[Layer]) -> None:
        """ConfigError where a layer reads what no earlier one has."""

    def once(self, s: Stream) -> WeightTree:
        """Weights that the model has once, whatever its depth."""
        return {}

    def enter(self, s: Stream, layers: Sequence[Layer], x: jax.Array) -> Any:
        """What the first of the model's layers is handed of the embeddings `[batch, seq, d_model]`."""
        return x

    def leave(self, s: Stream, w: Any, x: Any, norm: Norm) -> jax.Array:
        """What the head reads `[batch, seq, d_model]` of what the last layer hands on; w: those of `once`; norm: the
        final one."""
        return norm(x)
