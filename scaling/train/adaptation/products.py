"""What is trained around frozen matrices: low ranks (LoRA), gains ((IA)^3), bottlenecks (adapters)."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from models.adapted import Adapted, merged
from models.config import ModelConfig
from models.errors import require
from models.weight import Weight, WeightTree
from scaling.train.adaptation.adaptation import (
    Adaptation,
    Path,
    at,
    beside,
    chosen,
    of_paths,
    one_layer,
    per_layer,
    replaced,
)
from scaling.typed import typed

NAMES = "train.trains.names"


@dataclass(frozen=True)
class Around(Adaptation):
    """Trained parts around the matrices that a pattern matches."""

    def parts(self, path: Path, weight: Weight) -> dict[str, Weight]:
        """The declarations of what is trained around one weight of one layer, by the fields of `Adapted`."""
        raise NotImplementedError

    def scale_at(self, path: Path) -> float:
        """`Adapted.scale` there."""
        return 1.0

    def of(self, model: ModelConfig) -> dict[Path, Weight]:
        """The weights that parts are put around."""
        return chosen(model, getattr(self, "names", ()), NAMES, products=True)

    def weights(self, model: ModelConfig) -> WeightTree:
        found = self.of(model).items()
        return of_paths(dict(p for path, w in found for p in beside(path, w, self.parts(path, one_layer(w)))))

    def join(self, model: ModelConfig, trained: Any, base: Any) -> Any:
        changes = {p: Adapted(at(base, p), **at(trained, p), scale=self.scale_at(p)) for p in self.of(model)}
        return replaced(base, changes)

    def merge(self, model: ModelConfig, trained: Any, base: Any) -> Any:
        joined, found = self.join(model, trained, base), self.of(model)
        return replaced(base, {path: per_layer(merged, weight, at(joined, path)) for path, weight in found.items()})


@dataclass(frozen=True)
class LowRank(Around):
    """LoRA (Hu et al. 2021): W + (alpha / rank) A B beside a frozen W; A is drawn, B starts at 0.

    ranks gives patterns ranks of their own, where matrices differ in how low their rank is (WeLore, Jaiswal et al.
    2024).
    """

    names: tuple[str, ...] = ("*/attention/*", "*/feedforward/*")  # patterns of the matrices' paths
    rank: int = 8  # of A B
    alpha: float = 16.0  # times A B, over the rank
    ranks: dict[str, int] | None = None  # pattern of paths -> its rank; the first that matches

    def __post_init__(self) -> None:
        typed(self, "train.trains")
        for rank in (self.rank, *(self.ranks or {}).values()):
            require(1 <= rank <= 2**16, "train.trains.rank", f"is {rank}", "give a rank from 1 to 65,536")

    def __hash__(self) -> int:
        return hash((self.names, self.rank, self.alpha, tuple((self.ranks or {}).items())))

    def rank_at(self, path: Path) -> int:
        """The rank of the product beside the weight at `path`."""
        own = (rank for pattern, rank in (self.ranks or {}).items() if fnmatchcase("/".join(path), pattern))
        return next(own, self.rank)

    def scale_at(self, path: Path) -> float:
        return self.alpha / self.rank_at(path)

    def parts(self, path: Path, weight: Weight) -> dict[str, Weight]:
        n, rank = weight.inputs, self.rank_at(path)
        down = Weight((*weight.shape[:n], rank), (*weight.axes[:n], "rank"), "matrix", inputs=n)
        return {"down": down, "up": Weight((rank, *weight.shape[n:]), ("rank", *weight.axes[n:]), "matrix", std=0.0)}


@dataclass(frozen=True)
class Gains(Around):
    """(IA)^3 (Liu et al. 2022): gains on what a matrix gives, or on what it reads, that start at 1.

    The defaults are gains on keys, values (and queries, which are one product with them) and on what the feed-forward
    block is about to project down.
    """

    names: tuple[str, ...] = ("*/attention/qkv", "*/feedforward/down")  # patterns of the matrices' paths
    reading: tuple[str, ...] = ("*/down",)  # of those, the ones whose inputs are scaled

    def __post_init__(self) -> None:
        typed(self, "train.trains")

    def parts(self, path: Path, weight: Weight) -> dict[str, Weight]:
        n = weight.inputs
        if any(fnmatchcase("/".join(path), pattern) for pattern in self.reading):
            return {"gain_in": Weight(weight.shape[:n], weight.axes[:n], "vector", std=1.0)}
        return {"gain_out": Weight(weight.shape[n:], weight.axes[n:], "vector", std=1.0)}


@dataclass(frozen=True)
class Bottleneck(Around):
    """Adapters (Houlsby et al. 2019): y + gelu(y A) B behind what a part writes to the stream; B starts at 0.

    What is trained is no model of the same config, so the trial keeps it beside the base and cannot be served alone.
    """

    names: tuple[str, ...] = ("*/attention/out", "*/feedforward/down")  # patterns of the matrices' paths
    width: int = 8  # of A's result

    linear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        typed(self, "train.trains")
        require(1 <= self.width <= 2**16, "train.trains.width", f"is {self.width}", "give a width from 1 to 65,536")

    def parts(self, path: Path, weight: Weight) -> dict[str, Weight]:
        shape, axes = weight.shape[weight.inputs :], weight.axes[weight.inputs :]
        squeeze = Weight((*shape, self.width), (*axes, "rank"), "matrix", inputs=len(shape))
        return {"squeeze": squeeze, "expand": Weight((self.width, *shape), ("rank", *axes), "matrix", std=0.0)}
