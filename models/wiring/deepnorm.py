"""DeepNorm: norms after the sum, with a stream that outweighs what is added to it (Wang et al. 2022, "DeepNet",
arXiv:2203.00555), as in GLM-130B (Zeng et al. 2022, arXiv:2210.02414).

    x = norm(alpha x + part(x)),    initial values of the channel, of values and of last products times beta.

None is GLM's: alpha = (2 L)^1/2 and beta = (2 L)^-1/2 for L layers; DeepNet's for decoders: (2 L)^1/4 and (8 L)^-1/4.
alpha = beta = 1 is the plain post-norm (Vaswani et al. 2017). Values lie in one weight with queries and keys, so that
their beta is put on the mixer's last product as well, which gives the same function at the start. Weights, FLOPs and
what is kept are those of `PreNorm`. The model's final norm, which reads what is normed already, stays.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.channels.dense import Dense
from models.deferred import jax, jnp, ops
from models.errors import require
from models.stream import Stream
from models.weight import Weight, WeightTree
from models.wiring.residual import Residual

if TYPE_CHECKING:
    from models.layer import Layer
    from models.past import Past
    from models.routing import Routing


@dataclass(frozen=True)
class DeepNorm(Residual):
    """x = norm(alpha x + mixer(x)), then norm(alpha x + channel(x))."""

    alpha: float | None = None  # of the stream; None: (2 n_layers)^1/2
    beta: float | None = None  # of initial values; None: (2 n_layers)^-1/2

    def __post_init__(self) -> None:
        for field in ("alpha", "beta"):
            value = getattr(self, field)
            require(value is None or value > 0, field, f"is {value}", "give a positive number or None")

    def check(self, s: Stream, layer: Layer) -> None:
        """Channels whose matrices are those of one block: how experts and their router would begin is not published."""
        super().check(s, layer)
        channel = layer.channel
        problem = f"does not say how {type(channel).__name__} begins"
        require(channel is None or isinstance(channel, Dense), "beta", problem, "use Dense, or another wiring")

    def weights(self, s: Stream, layer: Layer) -> WeightTree:
        """The parts' weights under their slots, the norms' beside them."""
        beta = self.beta or (2 * s.n_layers) ** -0.5
        block: dict[str, Any] = {f"post_{part.slot}_norm": s.norm_weights(s.d_model, "embed") for part in layer.parts}
        for part in layer.parts:
            # last products have residual_scale already, in place of which comes beta, and that of a mixer's values
            first, last = (1.0, beta**2) if part is layer.mixer else (beta, beta)
            block[part.slot] = _scaled(part.weights(s), part.last, first, last / s.residual_scale)
        return block

    def apply(
        self, s: Stream, layer: Layer, w: Any, x: jax.Array, past: Past, tokens: jax.Array
    ) -> tuple[jax.Array, Past, tuple[Routing, ...]]:  # fmt: skip
        """x `[batch, seq, d_model]` through one layer."""
        with jax.named_scope(layer.mixer.slot):
            y, past, routing = layer.mixer.apply(s, w[layer.mixer.slot], x, past)
            x = self._joined(s, layer.mixer, w, x, y)
        routings = () if routing is None else (routing,)
        if layer.channel is not None:
            with jax.named_scope(layer.channel.slot):
                y, routing = layer.channel.apply(s, w[layer.channel.slot], x, tokens)
                x = self._joined(s, layer.channel, w, x, y)
            routings += () if routing is None else (routing,)
        return ops.constrain_residual(x), past, routings

    def _joined(self, s: Stream, part: Any, w: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        alpha = self.alpha or (2 * s.n_layers) ** 0.5
        return ops.norm(s, w[f"post_{part.slot}_norm"], x * jnp.asarray(alpha, x.dtype) + y)


def _scaled(tree: WeightTree, name: str, others: float, named: float) -> WeightTree:
    """The tree with matrices of another spread: those called `name` `named` times theirs, the rest `others` times."""
    found: dict[str, Any] = {}
    for key, node in tree.items():
        if not isinstance(node, Weight):
            found[key] = _scaled(node, name, others, named)
        elif node.role != "matrix" or node.draw is not None:
            found[key] = node
        else:
            std = node.fan_in**-0.5 if node.std is None else node.std
            found[key] = dataclasses.replace(node, std=std * (named if key == name else others))
    return found
