"""ModelConfig: the shape and the numerics of one decoder-only transformer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from models.errors import require


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched so that a model reads further than it was trained.

    kind: "linear" divides every frequency by `factor` (Chen et al. 2023); "dynamic" raises theta with the longest
    position of the row beyond `original_max_seq_len` (bloc97 2023), so it depends on what is read together; "llama3"
    divides the slow frequencies only (Dubey et al. 2024); "yarn" ramps between both and scales attention (Peng et
    al. 2023).
    """

    kind: Literal["linear", "dynamic", "llama3", "yarn"]
    factor: float
    original_max_seq_len: int | None = None  # context of pre-training; "linear" does not use it
    low_freq_factor: float = 1.0  # llama3: wavelengths above original_max_seq_len / this are divided by `factor`
    high_freq_factor: float = 4.0  # llama3: wavelengths below original_max_seq_len / this stay
    beta_fast: float = 32.0  # yarn: frequencies that turn more often than this in the original context stay
    beta_slow: float = 1.0  # yarn: frequencies that turn less often than this are divided by `factor`
    truncate: bool = True  # yarn: round the ends of the ramp to whole dims
    attention_factor: float | None = None  # yarn: factor on cos and sin; None: 0.1 ln(factor) + 1

    def __post_init__(self) -> None:
        for field in ("factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow"):
            value = getattr(self, field)
            require(value > 0, f"rope_scaling.{field}", f"is {value}", "give a positive number")
        require(
            self.kind == "linear" or (self.original_max_seq_len or 0) >= 1,
            "rope_scaling.original_max_seq_len",
            f"is {self.original_max_seq_len}, but {self.kind} scaling needs it",
            "give the context length of pre-training",
        )
        require(
            self.low_freq_factor < self.high_freq_factor,
            "rope_scaling.high_freq_factor",
            f"is {self.high_freq_factor}, not above low_freq_factor {self.low_freq_factor}",
            "give a larger one",
        )
        factor = self.attention_factor
        fix = "give a positive number, or None"
        require(factor is None or factor > 0, "rope_scaling.attention_factor", f"is {factor}", fix)


@dataclass(frozen=True)
class MoEConfig:
    """Experts in place of every feed-forward block: a router sends each token to `top_k` of them (models.moe)."""

    experts: int = 8
    top_k: int = 2
    d_ff: int | None = None  # width of one expert; None: the model's d_ff
    shared: int = 0  # experts of that width that every token passes through (Dai et al. 2024)
    dispatch: Literal["capacity", "dropless"] = "capacity"  # fixed slots per expert, or products over ragged groups
    capacity_factor: float = 1.25  # slots per expert over its even share; what finds no slot is dropped
    capacity_tokens: int = 1024  # tokens that compete for slots: a longer sequence is cut into equal stretches
    groups: int = 1  # of experts; a token may use `top_groups` of them (DeepSeek-V2's device-limited routing)
    top_groups: int = 1
    score: Literal["softmax", "sigmoid"] = "softmax"  # what turns router logits into scores
    normalize: bool = True  # the chosen experts' weights sum to one (Mixtral); else they are the scores (Switch)
    scale: float = 1.0  # factor on the weights
    balance_coefficient: float = 0.01  # of the load-balance loss (Fedus et al. 2022)
    z_coefficient: float = 0.001  # of the router z-loss (Zoph et al. 2022)

    def __post_init__(self) -> None:
        for field in ("experts", "top_k", "capacity_tokens", "groups", "top_groups"):
            value = getattr(self, field)
            require(value >= 1, f"moe.{field}", f"is {value}", "give a positive integer")
        require(self.d_ff is None or self.d_ff >= 1, "moe.d_ff", f"is {self.d_ff}", "give a positive integer or None")
        require(self.shared >= 0, "moe.shared", f"is {self.shared}", "give a number of experts, or 0 for none")
        for field in ("capacity_factor", "scale"):
            value = getattr(self, field)
            require(value > 0, f"moe.{field}", f"is {value}", "give a positive number")
        for field in ("balance_coefficient", "z_coefficient"):
            value = getattr(self, field)
            require(value >= 0, f"moe.{field}", f"is {value}", "give a factor, or 0 to leave this loss out")
        fix = f"use one of {divisors(self.experts)}"
        problem = f"{self.groups} groups do not divide {self.experts} experts"
        require(self.experts % self.groups == 0, "moe.groups", problem, fix)
        problem = f"is {self.top_groups} of {self.groups} groups"
        require(self.top_groups <= self.groups, "moe.top_groups", problem, f"use at most {self.groups}")
        reachable = self.experts // self.groups * self.top_groups
        problem = f"is {self.top_k}, but a token reaches {reachable} experts"
        require(self.top_k <= reachable, "moe.top_k", problem, f"use at most {reachable}")


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer; GPT-2, Llama, Mistral, Qwen and Gemma shapes are all one of these.

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
    rope_theta_local: float | None = None  # of the sliding layers, which are then not scaled (Gemma 3)
    rope_scaling: RopeScaling | None = None
    partial_rotary_factor: float = 1.0  # share of each head that rotates: its first dims
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_eps: float = 1e-5
    norm_plus_one: bool = False  # every norm multiplies by 1 + gain (Gemma)
    post_norms: bool = False  # norms also after attention and feed-forward, before the residual sum (Gemma 2)
    activation: Literal["swiglu", "geglu", "gelu", "geglu_exact", "gelu_exact"] = "swiglu"  # plain GELU is the tanh one
    bias: Literal["none", "qkv", "attention", "all"] = "none"  # "qkv": Qwen 2; "all": GPT-2 (norm biases included)
    tied_embeddings: bool = True
    scale_embeddings: bool = False  # token embeddings times sqrt(d_model) (Gemma)
    qk_norm: bool = False
    query_pre_attn_scalar: float | None = None  # scores are scaled by this^-1/2; None: head_dim
    sliding_window: int | None = None  # a query sees this many keys, its own included, in the sliding layers
    layer_types: tuple[Literal["sliding", "full"], ...] = ("sliding",)  # repeats over the layers; needs sliding_window
    attention_softcap: float | None = None  # scores s become c tanh(s / c) before the mask (Gemma 2)
    logit_softcap: float | None = None  # the same for the logits
    moe: MoEConfig | None = None  # experts instead of one feed-forward block
    init_std: float | None = None  # None: 1/sqrt(fan_in); residual outputs are divided by sqrt(2 n_layers) either way
    mup_base_width: int | None = None  # None: standard parametrisation; else the d_model at which muP equals it
    mup_base_head_dim: int | None = None  # muP with growing heads: the head_dim of the base model
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation; accumulation is always float32
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    scan_layers: bool = False  # one scanned block (fast compile, accelerators) or unrolled blocks (fast CPU steps)
    remat: Literal["none", "full", "dots", "offload"] = "none"  # recomputed backwards; offload: products to the host
    context: Literal["gather", "ring"] = "gather"  # how keys and values travel over the mesh axis `context`

    def __post_init__(self) -> None:
        for field in ("vocab_size", "d_model", "n_layers", "n_heads", "max_seq_len"):
            value = getattr(self, field)
            require(value >= 1, f"model.{field}", f"is {value}", "give a positive integer")
        for field in ("n_kv_heads", "head_dim", "d_ff", "mup_base_width", "mup_base_head_dim", "sliding_window"):
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
        self._check_numbers()
        self._check_attention(head_dim)
        require(
            self.moe is None or self.bias != "all",
            "model.bias",
            "'all' asks for biases that experts do not have",
            "use 'none', 'qkv' or 'attention' with model.moe",
        )

    def _check_numbers(self) -> None:
        fix = "give a positive number, or None"
        optional = "init_std query_pre_attn_scalar attention_softcap logit_softcap rope_theta_local"
        for field in optional.split():
            value = getattr(self, field)
            require(value is None or value > 0, f"model.{field}", f"is {value}", fix)
        require(self.norm_eps > 0, "model.norm_eps", f"is {self.norm_eps}", "give a positive number such as 1e-5")
        require(self.rope_theta > 0, "model.rope_theta", f"is {self.rope_theta}", "give a positive number such as 1e4")

    def _check_attention(self, head_dim: int) -> None:
        require(
            self.mup_base_head_dim is None or self.mup_base_width is not None,
            "model.mup_base_head_dim",
            "is set, but muP is off",
            "set model.mup_base_width too",
        )
        require(
            self.mup_base_head_dim is None or self.query_pre_attn_scalar is None,
            "model.query_pre_attn_scalar",
            "and mup_base_head_dim both set the scale of the scores",
            "leave one of them None",
        )
        rotated = head_dim * self.partial_rotary_factor
        require(
            0 < self.partial_rotary_factor <= 1
            and (self.positions != "rope" or int(rotated) in range(2, head_dim + 1, 2)),
            "model.partial_rotary_factor",
            f"is {self.partial_rotary_factor}, which rotates {rotated:g} of {head_dim} dims",
            "give a share in (0, 1] that rotates an even number of dims",
        )
        require(len(self.layer_types) > 0, "model.layer_types", "is empty", "name at least one layer type")
        require(
            self.rope_theta_local is None or (self.sliding_window is not None and self.positions == "rope"),
            "model.rope_theta_local",
            "is set, but no layer is sliding and rotary",
            "set model.sliding_window and positions='rope' too",
        )
        require(
            self.rope_scaling is None or self.positions == "rope",
            "model.rope_scaling",
            f"is set, but positions are {self.positions}",
            "use positions='rope'",
        )
        dynamic = self.rope_scaling is not None and self.rope_scaling.kind == "dynamic"
        problem = f"is dynamic, but only {int(rotated)} dims of a head rotate"
        require(not dynamic or int(rotated) > 2, "model.rope_scaling", problem, "use more, or another kind")

    @property
    def gated(self) -> bool:
        """Whether the feed-forward block multiplies by a gate (SwiGLU, GeGLU)."""
        return self.activation not in ("gelu", "gelu_exact")

    @property
    def sliding(self) -> tuple[bool, ...]:
        """Whether each layer's attention is over a sliding window."""
        types = self.layer_types
        windowed = self.sliding_window is not None
        return tuple(windowed and types[i % len(types)] == "sliding" for i in range(self.n_layers))

    def resolved(self) -> ModelConfig:
        """The same config with every derived field filled in (idempotent)."""
        d_ff = self.d_ff or (-(-8 * self.d_model // 24) * 8 if self.gated else 4 * self.d_model)
        return dataclasses.replace(
            self,
            n_kv_heads=self.n_kv_heads or self.n_heads,
            head_dim=self.head_dim or self.d_model // self.n_heads,
            d_ff=d_ff,
            moe=self.moe and dataclasses.replace(self.moe, d_ff=self.moe.d_ff or d_ff),
        )


def divisors(n: int) -> list[int]:
    """All divisors of n, ascending."""
    return [k for k in range(1, n + 1) if n % k == 0]
