"""Every weight, or those whose names match: biases alone are BitFit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from models import transformer
from models.config import ModelConfig
from models.weight import WeightTree
from scaling.train.adaptation.adaptation import Adaptation, at, chosen, of_paths, replaced
from scaling.typed import typed


@dataclass(frozen=True)
class Everything(Adaptation):
    """All weights of the model."""

    based: ClassVar[bool] = False

    def weights(self, model: ModelConfig) -> WeightTree:
        return transformer.weights(model)

    def begun(self, model: ModelConfig, base: Any) -> Any:
        return base

    def join(self, model: ModelConfig, trained: Any, base: Any) -> Any:
        return trained

    def flops(self, model: ModelConfig, tokens: int) -> int:
        return 0


@dataclass(frozen=True)
class Only(Adaptation):
    """The weights that a pattern matches, from where the base has them; ("*bias",) is BitFit (Zaken et al. 2021)."""

    names: tuple[str, ...] = ("*bias",)  # patterns of paths such as block_0/attention/qkv; * is any text

    def __post_init__(self) -> None:
        typed(self, "train.trains")

    def weights(self, model: ModelConfig) -> WeightTree:
        return of_paths(chosen(model, self.names, "train.trains.names"))

    def begun(self, model: ModelConfig, base: Any) -> Any:
        return of_paths({path: at(base, path) for path in chosen(model, self.names, "train.trains.names")})

    def join(self, model: ModelConfig, trained: Any, base: Any) -> Any:
        return replaced(base, {path: at(trained, path) for path in chosen(model, self.names, "train.trains.names")})
