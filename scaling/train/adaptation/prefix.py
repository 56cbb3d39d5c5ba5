"""A prefix of keys and values in every layer is all that trains, or embeddings that make one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from models import transformer
from models.config import Layer, ModelConfig
from models.context import Lead
from models.errors import require
from models.mixers import Attention, Prefixed
from models.past import Arrays, Read, WholeSequence, keys_and_values
from models.span import Span
from models.weight import Weight, WeightTree
from models.wiring.prenorm import PreNorm
from scaling.train.adaptation.adaptation import Adaptation, Path, at, chosen, of_paths

NAMES = ("*/prefix_k", "*/prefix_v")


@dataclass(frozen=True)
class Prefix(Adaptation):
    """Prefix tuning (Li & Liang 2021, without their network that makes the prefix): the keys and values of `Prefixed`
    layers. The base is the same model without them; `with_prefix` makes the trial's of it. The result is a model as its
    config declares it, and is served as any. Since a softmax gives every key a share, the start is not the base."""

    def of(self, model: ModelConfig) -> list[Path]:
        """Where the prefixes lie."""
        return list(chosen(model, NAMES, "train.trains (Prefix)"))

    def weights(self, model: ModelConfig) -> WeightTree:
        declared = chosen(model, NAMES, "train.trains (Prefix)")
        return of_paths(declared)

    def before(self, model: ModelConfig) -> ModelConfig:
        def plain(layer: Layer) -> Layer:
            if not isinstance(layer.mixer, Prefixed):
                return layer
            fields = {f.name: getattr(layer.mixer, f.name) for f in dataclasses.fields(Attention)}
            return dataclasses.replace(layer, mixer=Attention(**fields))

        pattern, prologue = tuple(map(plain, model.pattern)), tuple(map(plain, model.prologue))
        return dataclasses.replace(model, pattern=pattern, prologue=prologue)

    def join(self, model: ModelConfig, trained: Any, base: Any) -> Any:
        whole = base
        for path in self.of(model):
            whole = _inserted(whole, path, at(trained, path))
        return whole


@dataclass(frozen=True)
class Prompt(Prefix):
    """Prompt tokens (Lester et al. 2021): embeddings `[prefix, d_model]` before the text, of which the frozen layers
    make the keys and values of `Prefixed` layers. As those, they have no positions: they are read in their order, and
    stand equally far from every token. Making them is once a step, and in no count.
    """

    def weights(self, model: ModelConfig) -> WeightTree:
        lengths = [layer.mixer.prefix if isinstance(layer.mixer, Prefixed) else 0 for layer in model.layers]
        problem, fix = "needs a prefix of one length in every layer, unscanned", "use with_prefix(base, 16)"
        fits = len(set(lengths)) == 1 and lengths[0] > 0 and not model.scan_layers
        require(fits and isinstance(model.wired, PreNorm), "train.trains (Prompt)", problem, fix)
        std = transformer.table_weights(model)["tokens"].std
        return {"prompt": Weight((lengths[0], model.d_model), ("prefix", "embed"), "embedding", std=std)}

    def join(self, model: ModelConfig, trained: Any, base: Any) -> Any:
        c, whole = self.before(model).resolved(), base
        x = trained["prompt"][None].astype(c.dtype)
        still = jnp.zeros((1, x.shape[1]), jnp.int32)  # at position 0 a rotation turns nothing
        for i, layer in enumerate(c.layers):
            w = transformer.ready(transformer.block_weights(c, layer), base[f"block_{i}"], c.dtype)
            x, past, _ = c.wired.apply(c.stream, layer, w, x, Heard(still), still)
            assert isinstance(past, Heard)
            for name, made in zip(("prefix_k", "prefix_v"), past.heard, strict=True):
                whole = _inserted(whole, (f"block_{i}", layer.mixer.slot, name), made[0].astype(c.param_dtype))
        return whole


@dataclass(frozen=True)
class Heard(WholeSequence):
    """A whole sequence whose keys and values `[1, seq, kv_heads, head_dim]` are handed back."""

    heard: tuple[jax.Array, ...] = ()

    def attend(
        self, q: jax.Array, new: Arrays, span: Span, read: Read = keys_and_values, lead: Lead | None = None
    ) -> tuple[jax.Array, Heard]:  # fmt: skip
        y, _ = super().attend(q, new, span, read, lead)
        return y, dataclasses.replace(self, heard=tuple(read(new)))


def with_prefix(model: ModelConfig, prefix: int) -> ModelConfig:
    """The model whose plain attention has a prefix of so many keys in every layer; ConfigError where there is none."""
    c = model.resolved()

    def prefixed(layer: Layer) -> Layer:
        if type(layer.mixer) is not Attention:
            return layer
        return dataclasses.replace(layer, mixer=Prefixed(**vars(layer.mixer), prefix=prefix))

    layers = c.layers if c.prologue else c.period
    found = tuple(map(prefixed, layers))
    require(found != tuple(layers), "model", "has no layer of plain attention", "give one that has")
    return dataclasses.replace(
        c, pattern=found, prologue=(), moe=None, sliding_window=None, layer_types=("sliding",), rope_theta_local=None,
        wiring=c.wired, post_norms=False,
    )  # fmt: skip


def _inserted(tree: Any, path: Path, leaf: Any) -> Any:
    """A copy of nested dicts with a leaf that was not there."""
    name, *rest = path
    return {**tree, name: _inserted(tree[name], tuple(rest), leaf) if rest else leaf}
