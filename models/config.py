"""ModelConfig: the shape and the numerics of one decoder-only transformer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from models.errors import require


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer; GPT-2 and Llama shapes are both one of these.

    Fields that default to None are derived from the others by `resolved()`, so that overriding `d_model`
    alone gives a consistent shape.
    """

    vocab_size: int = 256
    d_model: int = 128
    n_layers: int = 4
    n_heads: int = 4
    n_kv_heads: int | None = None  # None: n_heads (no grouped-query attention)
    head_dim: int | None = None  # None: d_model / n_heads
    d_ff: int | None = None  # None: 4 d_model (GELU) or 8/3 d_model rounded up to a multiple of 8 (gated)
    max_seq_len: int = 1024  # rows of the learned position table; rotary positions do not use it
    positions: Literal["rope", "learned", "none"] = "rope"
    rope_theta: float = 10_000.0
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_eps: float = 1e-5
    activation: Literal["swiglu", "geglu", "gelu"] = "swiglu"
    bias: Literal["none", "qkv", "all"] = "none"  # "qkv": Qwen; "all": GPT-2 (norm biases included)
    tied_embeddings: bool = True
    qk_norm: bool = False
    init_std: float | None = None  # None: 1/sqrt(fan_in); residual outputs are divided by sqrt(2 n_layers) either way
    mup_base_width: int | None = None  # None: standard parametrisation; else the d_model at which muP equals it
    mup_base_head_dim: int | None = None  # muP with growing heads: the head_dim of the base model
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation; accumulation is always float32
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    scan_layers: bool = False  # one scanned block (fast compile, accelerators) or unrolled blocks (fast CPU steps)
    remat: Literal["none", "full", "dots"] = "none"  # what the backward pass recomputes

    def __post_init__(self) -> None:
        for field in ("vocab_size", "d_model", "n_layers", "n_heads", "max_seq_len"):
            value = getattr(self, field)
            require(value >= 1, f"model.{field}", f"is {value}", "give a positive integer")
        for field in ("n_kv_heads", "head_dim", "d_ff", "mup_base_width", "mup_base_head_dim"):
            value = getattr(self, field)
            require(value is None or value >= 1, f"model.{field}", f"is {value}", "give a positive integer or None")
        require(
            self.head_dim is not None or self.d_model % self.n_heads == 0,
            "model.n_heads",
            f"{self.n_heads} heads do not divide d_model {self.d_model}",
            f"use one of {divisors(self.d_model)} heads, or set model.head_dim",
        )
        kv = self.n_kv_heads or self.n_heads
        require(
            self.n_heads % kv == 0,
            "model.n_kv_heads",
            f"{kv} key-value heads do not divide {self.n_heads} heads",
            f"use one of {divisors(self.n_heads)}",
        )
        head_dim = self.head_dim or self.d_model // self.n_heads
        require(
            self.positions != "rope" or head_dim % 2 == 0,
            "model.head_dim",
            f"is {head_dim}, but rotary positions rotate pairs",
            "use an even head_dim or positions='learned'",
        )
        require(
            self.mup_base_head_dim is None or self.mup_base_width is not None,
            "model.mup_base_head_dim",
            "is set, but muP is off",
            "set model.mup_base_width too",
        )
        std = self.init_std
        require(std is None or std > 0, "model.init_std", f"is {std}", "give a positive number, or None")
        require(self.norm_eps > 0, "model.norm_eps", f"is {self.norm_eps}", "give a positive number such as 1e-5")
        require(self.rope_theta > 0, "model.rope_theta", f"is {self.rope_theta}", "give a positive number such as 1e4")

    @property
    def gated(self) -> bool:
        """Whether the feed-forward block multiplies by a gate (SwiGLU, GeGLU)."""
        return self.activation != "gelu"

    def resolved(self) -> ModelConfig:
        """The same config with every derived field filled in (idempotent)."""
        d_ff = self.d_ff or (-(-8 * self.d_model // 24) * 8 if self.gated else 4 * self.d_model)
        return dataclasses.replace(
            self,
            n_kv_heads=self.n_kv_heads or self.n_heads,
            head_dim=self.head_dim or self.d_model // self.n_heads,
            d_ff=d_ff,
        )


def divisors(n: int) -> list[int]:
    """All divisors of n, ascending."""
    return [k for k in range(1, n + 1) if n % k == 0]
