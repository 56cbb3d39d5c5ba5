"""Low rank plus sparse, trained from scratch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from models import transformer
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

FIELD = "train.trains.names"


@dataclass(frozen=True)
class SparseLowRank(Adaptation):
    """SLTrain (Han et al. 2024): every hidden matrix is A B (alpha / rank) plus `density` of its entries, from scratch.

    Where those entries lie is drawn once and is not trained. All other weights train too. Both A and B are drawn, so
    that A B starts with the deviation of the matrix: two matrices in a row that start at 0 would have no gradient.
    """

    names: tuple[str, ...] = ("*/attention/*", "*/feedforward/*")  # patterns of the matrices' paths
    rank: int = 8  # of A B
    alpha: float = 16.0  # times A B, over the rank
    density: float = 0.03  # share of entries that are trained by themselves; 0: low rank alone

    based: ClassVar[bool] = False

    def __post_init__(self) -> None:
        typed(self, "train.trains")
        require(1 <= self.rank <= 2**16, "train.trains.rank", f"is {self.rank}", "give a rank from 1 to 65,536")
        problem = f"is {self.density}"
        require(0 <= self.density < 1, "train.trains.density", problem, "give a share of at least 0 and below 1")

    def of(self, model: ModelConfig) -> dict[Path, Weight]:
        """The matrices that are made of parts."""
        return chosen(model, self.names, FIELD, products=True)

    def weights(self, model: ModelConfig) -> WeightTree:
        changes = {path: of_paths(dict(beside((), w, self._parts(one_layer(w))))) for path, w in self.of(model).items()}
        return replaced(transformer.weights(model), changes)

    def _parts(self, weight: Weight) -> dict[str, Weight]:
        n, count = weight.inputs, round(self.density * weight.size)
        std = weight.std if weight.std is not None else weight.fan_in**-0.5
        start = std * (weight.fan_in / self.rank) ** 0.5 / (self.alpha / self.rank)
        down = Weight((*weight.shape[:n], self.rank), (*weight.axes[:n], "rank"), "matrix", inputs=n)
        up = Weight((self.rank, *weight.shape[n:]), ("rank", *weight.axes[n:]), "matrix", std=start)
        entries = Weight((count,), ("rank",), "vector", draw=partial(_normal, std))
        return {"down": down, "up": up} | ({"entries": entries} if count else {})

    def join(self, model: ModelConfig, trained: Any, base: Any) -> Any:
        found = self.of(model)
        return replaced(trained, {p: per_layer(self._whole(w), w, at(trained, p)) for p, w in found.items()})

    def _whole(self, weight: Weight) -> Callable[[Any], jax.Array]:
        """Of one layer: the matrix, of its parts. Its support is the same in all layers of a stack."""
        one = one_layer(weight)
        count = round(self.density * one.size)
        places = jax.random.permutation(jax.random.key(one.size), one.size)[:count]

        def whole(parts: Any) -> jax.Array:
            low = (self.alpha / self.rank) * jnp.tensordot(parts["down"], parts["up"], 1)
            if not count:
                return low
            return low + jnp.zeros(one.size, low.dtype).at[places].set(parts["entries"]).reshape(one.shape)

        return whole

    def flops(self, model: ModelConfig, tokens: int) -> int:
        return 0  # the products are those of whole matrices; making them is once a step


def _normal(std: float, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return std * jax.random.normal(key, shape)
