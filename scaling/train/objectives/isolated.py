"""Layers that no gradient crosses, each trained by the loss of an auxiliary net of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from models import counts, transformer
from models.config import ModelConfig
from models.cross_entropy import cross_entropy
from models.errors import require
from models.norm import norm
from models.pipeline import Totals
from models.transformer import shifted
from models.weight import WeightTree
from models.wiring.prenorm import PreNorm
from scaling.train.objectives.objective import BESIDE, Batch, Frozen, Mean, Objective, Summed
from scaling.typed import at_most, typed

if TYPE_CHECKING:
    from scaling.train.config import TrainConfig


@dataclass(frozen=True)
class Isolated(Objective):
    """Supervised local learning with augmented auxiliary nets (AugLocal, Ma et al. 2024, arXiv:2402.17318).

    Layer l of L reads what layer l - 1 wrote as data: no gradient goes back. Behind it an auxiliary net, of its own
    weights, predicts the next token: d_l layers declared as layers that lie evenly between l and L, a norm and a head.
    Depths are a pyramid, d_l = round((1 - shrink (l - 1) / (L - 2)) depth), at most L - l. The last layer's net is the
    model's own norm and head, whose loss is the one reported; the embeddings belong to the first layer. depth 0 is
    plain local learning: a norm and a head behind every layer. Each layer's gradient is computed where the layer is,
    so that what is held at once is the longest of 1 + d_l layers, not of L.
    """

    depth: int = 2  # layers of the first layer's auxiliary net; 0: none behind any layer
    shrink: float = 0.5  # share of the depth that is gone at the last layer that has an auxiliary net

    def __post_init__(self) -> None:
        typed(self, "train.objective")
        at_most(self, "train.objective", depth=2**10)
        require(self.depth >= 0, "train.objective.depth", f"is {self.depth}", "give 0 or more layers")
        require(0 <= self.shrink <= 1, "train.objective.shrink", f"is {self.shrink}", "give a share from 0 to 1")

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("local_loss",)

    def check(self, model: ModelConfig, frozen: Mapping[str, ModelConfig]) -> None:
        c = model.resolved()
        only = "(Isolated) needs the stream between two layers to be one array"
        require(isinstance(c.wired, PreNorm), "model.wiring", only, "use PreNorm")
        require(not c.routed, "model.moe", "routes tokens, whose penalty no auxiliary net counts", "use dense channels")
        require(not c.scan_layers, "model.scan_layers", "is set, but every layer trains by itself", "leave it False")
        problem = "is set: the head's gradient would reach the first layer's embeddings"
        require(not c.tied_embeddings, "model.tied_embeddings", problem, "set it to False")

    def sampled(self, layers: int) -> list[list[int]]:
        """Of every layer but the last, from 0: the later layers that its auxiliary net is declared as, ascending."""
        found = []
        for at in range(layers - 1):
            left = layers - 1 - at
            share = 1 - self.shrink * at / (layers - 2) if layers > 2 else 1.0
            depth = min(left, int(share * self.depth + 0.5))
            found.append([at + int(i * left / depth + 0.5) for i in range(1, depth + 1)])
        return found

    def beside(self, model: ModelConfig) -> WeightTree:
        self.check(model, {})
        head = transformer.table_weights(model)["head"]
        nets: dict[str, Any] = {}
        for at, layers in enumerate(self.sampled(model.n_layers)):
            net: dict[str, Any] = {
                str(i): transformer.block_weights(model, model.layers[layer]) for i, layer in enumerate(layers)
            }
            nets[str(at)] = net | {"norm": model.stream.norm_weights(model.d_model, "embed"), "head": head}
        return nets

    def loss(
        self, model: ModelConfig, train: TrainConfig, params: Any, batch: Batch, frozen: Mapping[str, Frozen]
    ) -> tuple[jax.Array, Summed]:
        c = model.resolved()
        inputs, targets, score, segments = shifted(batch["tokens"], batch.get("weights"), batch.get("segments"))
        given = Given(inputs, targets, score, segments)
        sampled = self.sampled(c.n_layers)
        x, local, pushed = None, jnp.float32(0), jnp.float32(0)
        for at, layers in enumerate(sampled):
            w = {"own": _of_layer(params, at), "net": params[BESIDE][str(at)]}
            x, loss, push = trained_here(_module(c, at, layers))(w, x, given)
            local, pushed = local + loss, pushed + push
        last = _of_layer(params, c.n_layers - 1) | {name: params[name] for name in ("final_norm", "head")}
        x = _layer(c, c.n_layers - 1, last, None if x is None else jax.lax.stop_gradient(x), given)
        hidden, head = transformer.unembed(c, last, x)
        own, weight = cross_entropy(hidden, head, targets, score, softcap=c.logit_softcap)
        measured = {"local_loss": Mean(jax.lax.stop_gradient(local), weight * max(1, len(sampled)))}
        return own + pushed, Summed(Totals(own, weight), measured)

    def flops(self, model: ModelConfig, tokens: int, seq_len: int, frozen: Mapping[str, ModelConfig]) -> int:
        c = model.resolved()
        layers = [c.layers[layer] for net in self.sampled(c.n_layers) for layer in net]
        unweighed = sum(counts.layer_flops(c, layer, seq_len) for layer in layers)
        beside = seq_len * counts.tree_flops(self.beside(c)) + unweighed
        return super().flops(model, tokens, seq_len, frozen) + 3 * tokens * beside // seq_len


class Given(NamedTuple):
    """What every layer reads beside the one before it: inputs, targets, score and segments, `[batch, seq]`."""

    inputs: jax.Array
    targets: jax.Array
    score: jax.Array
    segments: jax.Array | None


Module = Callable[[Any, Any, Given], tuple[jax.Array, jax.Array]]


def trained_here(module: Module) -> Callable[[Any, Any, Given], tuple[jax.Array, jax.Array, jax.Array]]:
    """module(w, x, given) -> (loss, what it hands on) as a function that gives (what it hands on, loss, 0).

    The 0 carries the gradient of the loss in w, which is computed with the value: what the backward pass needs is gone
    before the next module runs. Nothing else is differentiable.
    """

    @jax.custom_vjp
    def run(w: Any, x: Any, given: Given) -> tuple[jax.Array, jax.Array, jax.Array]:
        loss, after = module(w, x, given)
        return after, loss, jnp.float32(0)

    def forward(w: Any, x: Any, given: Given) -> tuple[Any, Any]:
        (loss, after), gradient = jax.value_and_grad(module, has_aux=True)(w, x, given)
        return (waiting(after, gradient), loss, jnp.float32(0)), gradient

    def backward(gradient: Any, slopes: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Any, None, None]:
        return jax.tree.map(lambda g: (slopes[2] * g).astype(g.dtype), gradient), None, None

    run.defvjp(forward, backward)
    return run


def waiting(x: jax.Array, gradient: Any) -> jax.Array:
    """x, which cannot be read before the gradient is there: a compiler may put off what a barrier alone holds back, and
    then keeps the activations of all layers. 0 times a number is not 0 to a compiler, since the number may be none."""
    first = jnp.stack([jnp.ravel(g)[0].astype(jnp.float32) for g in jax.tree.leaves(gradient)])
    return x + (0 * first.sum()).astype(x.dtype)


def _module(c: ModelConfig, at: int, layers: list[int]) -> Module:
    """A layer and its auxiliary net."""

    def module(w: Any, x: Any, given: Given) -> tuple[jax.Array, jax.Array]:
        after = y = _layer(c, at, w["own"], x, given)
        positions = jnp.arange(given.inputs.shape[1])[None]
        for i, layer in enumerate(layers):
            y, _ = transformer.run_layer(
                c, c.layers[layer], w["net"][str(i)], y, positions, given.segments, given.inputs
            )
        tree = {"norm": c.stream.norm_weights(c.d_model, "embed"), "head": transformer.table_weights(c)["head"]}
        ready = transformer.ready(tree, w["net"], c.dtype)
        hidden = norm(c.stream, ready["norm"], y)
        if c.mup_base_width or c.logit_scale is not None:
            hidden = hidden * jnp.asarray(transformer.output_multiplier(c), hidden.dtype)
        loss, _ = cross_entropy(hidden, ready["head"], given.targets, given.score, softcap=c.logit_softcap)
        return loss, after

    return module


def _of_layer(params: Any, at: int) -> dict[str, Any]:
    """The params of one layer, those of the embeddings with the first."""
    names = [f"block_{at}", *(("tokens", "positions") if at == 0 else ())]
    return {name: params[name] for name in names if name in params}


def _layer(c: ModelConfig, at: int, w: Any, x: Any, given: Given) -> jax.Array:
    """What one layer makes of x, or the first of the tokens."""
    positions = jnp.arange(given.inputs.shape[1])[None]
    x = transformer.embed(c, w, given.inputs, positions) if x is None else x
    found, _ = transformer.run_layer(c, c.layers[at], w[f"block_{at}"], x, positions, given.segments, given.inputs)
    return found
