"""Shape rules: how depth, width and length share a factor of compute, and what a sequence then keeps for its gradient.

After Dollar, Singh & Girshick 2021, Fast and accurate model scaling (arXiv:2103.06877), with the length of a sequence
in the place of an image's resolution.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from models.config import ModelConfig
from models.errors import require
from models.sharding import MeshConfig
from scaling.train.config import TrainConfig
from scaling.train.memory import Share, residual_bytes


@dataclass(frozen=True)
class ShapeRule:
    """The shares of the logarithm of a factor of FLOPs that go to depth, width and length; their sum is 1.

    A block's matrices cost layers x width^2 x length, and what they keep is layers x width x length: a factor s of
    FLOPs makes the kept bytes grow as s^(1 - width / 2).
    """

    depth: float = 0.0
    width: float = 0.0
    length: float = 0.0

    def __post_init__(self) -> None:
        shares = (self.depth, self.width, self.length)
        fix = "give three shares of 0 or more whose sum is 1"
        require(min(shares) >= 0 and abs(sum(shares) - 1) < 1e-9, "shape", f"has shares {shares}", fix)

    @classmethod
    def fast(cls, width: float = 0.8) -> ShapeRule:
        """The paper's: most of the factor goes to the width, the rest to depth and length alike."""
        return cls((1 - width) / 2, width, (1 - width) / 2)

    @property
    def growth(self) -> float:
        """The exponent of kept bytes in FLOPs, where matrices are all there is."""
        return 1 - self.width / 2

    def scaled(self, model: ModelConfig, length: int, factor: float) -> tuple[ModelConfig, int]:
        """(model, length of its sequences) with about `factor` times the FLOPs a sequence: layers, heads of the same
        size and tokens are rounded to whole numbers.

        Raises ConfigError for a feed-forward width or key heads that would not follow.
        """
        require(factor > 0, "factor", f"is {factor}", "give a positive number")
        fix = "leave it None, so that it follows the width"
        require(model.d_ff is None and model.n_kv_heads is None, "model.d_ff, n_kv_heads", "are fixed", fix)
        heads = max(1, round(model.n_heads * factor ** (self.width / 2)))
        size = model.d_model // model.n_heads
        layers = max(1, round(model.n_layers * factor**self.depth))
        wider = dataclasses.replace(model, n_layers=layers, n_heads=heads, d_model=size * heads)
        return wider, max(1, round(length * factor**self.length))


def kept_bytes(model: ModelConfig, length: int) -> int:
    """Bytes that the blocks keep of one sequence for the backward pass, by the shapes of each layer's vjp."""
    share = Share.of(model, TrainConfig(batch_size=1, seq_len=length), MeshConfig())
    return sum(residual_bytes(share, layer) for layer in share.model.layers)
