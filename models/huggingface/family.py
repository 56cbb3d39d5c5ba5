"""Family: one `model_type` as data, which both reads and writes its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from models.config import ModelConfig
from models.huggingface.files import Json, Keys

# Our path of a weight -> the tensor that holds it, or one tensor for each part of a fused weight (q, k, v; gate, up).
# "{}" stands for the layer, "{expert}" for the expert, each of which has tensors of its own (without it one tensor
# `[experts, in, out]` holds all, in which outputs of gate and up take turns). A path that ends in
# "{expert}" is that of experts where other layers have one dense block of the same path.
Names = dict[str, str | tuple[str, ...]]


class Part(Protocol):
    """Some keys of a config.json and the ModelConfig fields that they set (`models.huggingface.parts`)."""

    def read(self, keys: Keys) -> dict[str, Any]:
        """ModelConfig fields from the keys."""

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The keys from a resolved config; what the keys cannot say is found when they are read again."""


@dataclass(frozen=True)
class Family:
    """One `model_type`.

    names: the tensors of the base model below `prefix`, and the head's whole name. parts: what config.json says.
    defaults: what `transformers` takes for a key that config.json lacks. fixed: the ModelConfig fields that all models
    of the family share. neutral: keys that change what is computed, with the values under which a ModelConfig computes
    it. aliases: other names that files have for keys. before_5: what releases of `transformers` before 5 took for a
    key that is lacking, where it is something else than `defaults`.
    linear: matrices lie as `[out, in]` (torch's Linear), else as `[in, out]`.
    by_head: a tensor of all of q, k and v has those of one head beside one another, else all heads' q come first.
    pairs: neighbouring dims of a head rotate together, else the first half with the second. The dims of q and k are
        then read in another order, which leaves every product of them as it is.
    divided_heads: `transformers` asks that the heads divide the width, whatever head_dim says.
    whole_heads: it asks that the heads together are as wide as the model.
    beyond: what the tensors of layers behind the last begin with, which guess further tokens and are left out.
    """

    model_type: str
    architecture: str
    names: Names
    parts: tuple[Part, ...]
    defaults: Json
    fixed: Json
    neutral: Json = field(default_factory=dict)
    aliases: Json = field(default_factory=dict)
    before_5: Json = field(default_factory=dict)
    prefix: str = "model."
    linear: bool = True
    by_head: bool = False
    pairs: bool = False
    divided_heads: bool = False
    whole_heads: bool = False
    beyond: str | None = None

    def tensors(self, path: str, layer: int, prefix: str | None = None, experts: bool = False) -> tuple[str, ...]:
        """The tensors of one of our weights (its path inside a block, or in the model) in one layer.

        prefix: what the base model's tensors start with in place of the family's own. experts: it is of several.
        """
        several = path + "{expert}"
        names = self.names[several if experts and several in self.names else path]
        names = (names,) if isinstance(names, str) else names
        lead = self.prefix if prefix is None else prefix
        if path == "head":  # lies beside the base model, and below what a model that also sees puts before it
            lead = lead.removesuffix(self.prefix) if self.prefix and lead.endswith(self.prefix) else ""
        return tuple(lead + name.replace("{}", str(layer)) for name in names)


def block_names(layer: str, names: Names, model: Names) -> Names:
    """The names of a model: those of its blocks, each after `layer` ("layers.{}."), and those outside of them."""

    def prefixed(name: str | tuple[str, ...]) -> str | tuple[str, ...]:
        return layer + name if isinstance(name, str) else tuple(layer + part for part in name)

    return {**model, **{path: prefixed(name) for path, name in names.items()}}
