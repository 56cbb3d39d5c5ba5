"""Kept: one array that a layer keeps of the past, declared once; caches, bytes and shardings follow from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Kept:
    """What a layer keeps per token, or per row however many tokens it has read.

    shape, axes: dims of one token's (or row's) share and their logical names. Of a token: (heads, features), stored as
        `[..., heads, length, features]`.
    dtype: None for the compute dtype. int8: whether it may be kept in 8 bits, with a float32 scale per vector (the last
        dim): keys and values may, states that add up over thousands of tokens may not.
    window: of a token, how many of the last ones are read; None: all.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    per: Literal["token", "row"] = "token"
    dtype: Literal["float32", "bfloat16"] | None = None
    int8: bool = True
    window: int | None = None

    def __post_init__(self) -> None:
        assert len(self.shape) == len(self.axes), f"{self.shape} has other dims than {self.axes}"
        assert self.per == "row" or len(self.shape) == 2, "a token keeps (heads, features)"

    @property
    def size(self) -> int:
        """Numbers per token or row."""
        return math.prod(self.shape)

    def bytes(self, dtype: str, quantized: bool = False) -> int:
        """Bytes per token or row, computing in `dtype`; quantized: in int8 where it may be."""
        if quantized and self.int8 and self.per == "token":
            return self.size + 4 * (self.size // self.shape[-1])
        return self.size * (2 if (self.dtype or dtype) == "bfloat16" else 4)
