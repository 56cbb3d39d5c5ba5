"""Every weight, with products of few bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from models import transformer
from models.config import ModelConfig
from models.errors import require
from models.rounded import Format, Rounded
from models.weight import WeightTree
from scaling.train.adaptation.adaptation import Adaptation, at, chosen, replaced
from scaling.typed import typed

FIELD = "train.trains"


@dataclass(frozen=True)
class LowPrecision(Adaptation):
    """All weights of the model; products of the chosen hidden matrices are rounded as models.rounded says, in training
    and where the model is scored. The defaults are DeepSeek-V3's FP8; 8 exponent bits, 7 of the mantissa and no block
    are bfloat16."""

    names: tuple[str, ...] = ("*/attention/*", "*/feedforward/*")  # patterns of the matrices' paths
    exponent: int = 4  # bits, 2 to 8
    mantissa: int = 3  # bits, 0 to 23
    block: int = 128  # numbers that share a scale; 0: no scales

    based: ClassVar[bool] = False
    linear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        typed(self, FIELD)
        for field, low, high in (("exponent", 2, 8), ("mantissa", 0, 23), ("block", 0, 2**20)):
            value = getattr(self, field)
            require(low <= value <= high, f"{FIELD}.{field}", f"is {value}", f"give {low} to {high:,}")

    def weights(self, model: ModelConfig) -> WeightTree:
        chosen(model, self.names, f"{FIELD}.names", products=True)
        return transformer.weights(model)

    def begun(self, model: ModelConfig, base: Any) -> Any:
        return base

    def join(self, model: ModelConfig, trained: Any, base: Any) -> Any:
        found = chosen(model, self.names, f"{FIELD}.names", products=True)
        format = Format(self.exponent, self.mantissa, self.block)
        return replaced(trained, {path: Rounded(at(trained, path), format) for path in found})

    def flops(self, model: ModelConfig, tokens: int) -> int:
        return 0
