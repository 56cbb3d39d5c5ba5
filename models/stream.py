"""Stream: what a part of a layer is told of the model around it; fields that a part leaves None it takes from here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.rotary import Rotary
from models.weight import Weight

NormKind = Literal["rmsnorm", "layernorm"]
Activation = Literal["swiglu", "geglu", "gelu", "geglu_exact", "gelu_exact", "relu2", "swiglu_clipped"]
Bias = Literal["none", "qkv", "attention", "all"]
NormedOver = Literal["head", "all"]
Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Stream:
    """The residual stream of a model: its width, depth and numerics, and what its layers have in common."""

    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    activation: Activation
    bias: Bias
    norm: NormKind
    norm_eps: float
    norm_plus_one: bool
    norm_bias: bool  # of LayerNorms
    rotary: Rotary | None  # None: positions are not told by rotation
    qk_norm: bool
    qk_norm_over: NormedOver
    query_pre_attn_scalar: float | None
    softcap: float | None
    init_std: float | None
    mup_base_width: int | None
    mup_base_head_dim: int | None
    dtype: Dtype
    param_dtype: Dtype

    def hidden_std(self, fan_in: int) -> float:
        """Initial standard deviation of a hidden matrix: fan_in^-1/2, or init_std, which in muP falls as width^-1/2."""
        if self.init_std is None:
            return fan_in**-0.5
        return self.init_std * ((self.mup_base_width or self.d_model) / self.d_model) ** 0.5

    def norm_weights(self, size: int, axis: str) -> dict[str, Weight]:
        """Gain (and for a LayerNorm with biases the bias) of one norm over `size` features."""
        weights = {"gain": Weight((size,), (axis,), "vector", std=0.0 if self.norm_plus_one else 1.0)}
        if self.norm == "layernorm" and self.norm_bias:
            weights["bias"] = Weight((size,), (axis,), "vector")
        return weights

    @property
    def residual_scale(self) -> float:
        """Factor on the initial values of what is added to the stream, once by each half of a layer."""
        return (2 * self.n_layers) ** -0.5
