"""Shared: layers also hand on what they read, for later ones that have no keys, values or state of their own.

With `GatedMemory` and `Cross` this is a decoder-hybrid-decoder (SambaY, Ren et al. 2025, arXiv:2507.06607): a first
half of `Mamba2` and windows, a `Mamba2` whose state all memory units read, one full attention whose keys and values all
`Cross` layers read, then these two in turn. With `Cross` alone after the full attention it is YOCO (Sun et al. 2024).
Only the full attention keeps something of every token, and a prompt's tokens but the last need no layer after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from models.deferred import jax, jnp, ops
from models.errors import require
from models.stream import Stream
from models.weight import WeightTree
from models.wiring.prenorm import PreNorm
from models.wiring.residual import Norm, Residual

if TYPE_CHECKING:
    from models.layer import Layer
    from models.past import Past
    from models.routing import Routing


class Handed(NamedTuple):
    """What layers hand on: the stream `[batch, seq, d_model]`; of what some layer takes the last that one gave,
    `[batch, seq, features]`; and the past that k and v of it belong to, where tokens are kept."""

    stream: jax.Array
    given: Mapping[str, jax.Array]
    source: Past | None


@dataclass(frozen=True)
class Shared(Residual):
    """`PreNorm`, whose mixers may read the last k and v that a layer attended to, or the last of a state's results."""

    lends: ClassVar[bool] = True

    def check_order(self, s: Stream, layers: Sequence[Layer]) -> None:
        """A layer before each reader has what it reads, and as much of it."""
        given: dict[str, int | None] = {}
        for i, layer in enumerate(layers):
            mixer: Any = layer.mixer
            for name, size in mixer.takes(s).items() if hasattr(mixer, "takes") else ():
                kind = type(mixer).__name__
                whose = "Attention" if name == "k" else "Mamba2"
                problem = f"has no layer before layer {i} that gives {kind} its {name}"
                require(name in given, "model.wiring", problem, f"put {whose} before it")
                problem = f"hands {given[name]} features of {name} to {kind} of layer {i}, which takes {size}"
                require(given[name] in (None, size), "model.wiring", problem, "give both layers as many")
            kept = mixer.kept(s)
            if {"k", "v"} <= set(kept):
                given |= {name: kept[name].size for name in ("k", "v")}
            if mixer.block:
                given["memory"] = mixer.expand * s.d_model if hasattr(mixer, "expand") else None

    def weights(self, s: Stream, layer: Layer) -> WeightTree:
        """As for `PreNorm`."""
        return PreNorm().weights(s, layer)

    def enter(self, s: Stream, layers: Sequence[Layer], x: jax.Array) -> Handed:
        """Zeros of what some layer takes: a scan over layers hands on the same from the first to the last."""
        sizes: dict[str, int] = {}
        for layer in layers:
            if hasattr(layer.mixer, "takes"):
                sizes |= layer.mixer.takes(s)
        return Handed(x, {name: jnp.zeros((*x.shape[:2], size), x.dtype) for name, size in sizes.items()}, None)

    def leave(self, s: Stream, w: Any, x: Handed, norm: Norm) -> jax.Array:
        """The stream alone."""
        return norm(x.stream)

    def apply(
        self, s: Stream, layer: Layer, w: Any, x: Handed, past: Past, tokens: jax.Array
    ) -> tuple[Handed, Past, tuple[Routing, ...]]:  # fmt: skip
        """One layer, whose past is `Lent`."""
        lent = ops.Lent(past.positions, past, x.given, past if x.source is None else x.source, past.keeps)
        stream, after, routings = PreNorm().apply(s, layer, w, x.stream, lent, tokens)
        assert isinstance(after, ops.Lent)
        return Handed(stream, after.given, after.source if past.keeps else None), after.own, routings
