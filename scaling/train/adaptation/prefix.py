"""A prefix of keys and values in every layer is all that trains."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from models.config import Layer, ModelConfig
from models.errors import require
from models.mixers import Attention, Prefixed
from models.weight import WeightTree
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
