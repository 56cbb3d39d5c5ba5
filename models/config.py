"""ModelConfig: the shape and the numerics of one decoder-only transformer."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from models.channels.dense import Dense, is_gated
from models.channels.experts import Experts
from models.errors import ConfigError, divisors, require, require_sizes
from models.layer import Layer, Repeats
from models.mixers.attention import Attention
from models.mixers.chunk_experts import ChunkExperts
from models.rotary import RopeScaling, Rotary
from models.serialize import added
from models.stream import Activation, Bias, Dtype, NormedOver, NormKind, Stream
from models.wiring import Wiring
from models.wiring.prenorm import PreNorm

MoEConfig = Experts  # what `model.moe` is

DEEPEST = 2**12  # layers: beyond them a number is a slip

__all__ = ["Layer", "MoEConfig", "ModelConfig", "RopeScaling", "Rotary"]


@contextmanager
def _placed(path: str) -> Iterator[None]:
    """Give errors of a part the dotted name that its field has at `path`."""
    try:
        yield
    except ConfigError as error:
        field = error.field if error.field.startswith("model.") else f"{path}.{error.field}"
        raise ConfigError(field, error.problem, error.fix) from None


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer; GPT-2, Llama, Mistral, Qwen and Gemma shapes are all one of these.

    Fields that default to None are derived from the others by `resolved()`, so that overriding `d_model`
    alone gives a consistent shape. Without a `pattern` the layers are attention and a feed-forward block (or experts),
    as `sliding_window`, `layer_types` and `moe` say; parts of a pattern take from here what they leave None.
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
    norm: NormKind = "rmsnorm"
    norm_eps: float = 1e-5
    norm_plus_one: bool = False  # every norm multiplies by 1 + gain (Gemma)
    post_norms: bool = False  # norms also after attention and feed-forward, before the residual sum (Gemma 2)
    activation: Activation = "swiglu"  # plain GELU is the tanh one; relu2: squared ReLU; clipped: gpt-oss
    bias: Bias = "none"  # "qkv": Qwen 2; "all": GPT-2 (norm biases included)
    tied_embeddings: bool = True
    scale_embeddings: bool = False  # token embeddings times sqrt(d_model) (Gemma)
    qk_norm: bool = False
    query_pre_attn_scalar: float | None = None  # scores are scaled by this^-1/2; None: head_dim
    sliding_window: int | None = None  # a query sees this many keys, its own included, in the sliding layers
    layer_types: tuple[Literal["sliding", "full"], ...] = ("sliding",)  # repeats over the layers; needs sliding_window
    attention_softcap: float | None = None  # scores s become c tanh(s / c) before the mask (Gemma 2)
    logit_softcap: float | None = None  # the same for the logits
    moe: Experts | None = None  # experts instead of one feed-forward block
    init_std: float | None = None  # None: 1/sqrt(fan_in); residual outputs are divided by sqrt(2 n_layers) either way
    mup_base_width: int | None = None  # None: standard parametrisation; else the d_model at which muP equals it
    mup_base_head_dim: int | None = None  # muP with growing heads: the head_dim of the base model
    dtype: Dtype = "float32"  # of the computation; accumulation is always float32
    param_dtype: Dtype = "float32"
    scan_layers: bool = False  # one scanned block (fast compile, accelerators) or unrolled blocks (fast CPU steps)
    remat: Literal["none", "full", "dots", "offload"] = "none"  # recomputed backwards; offload: products to the host
    context: Literal["gather", "ring"] = "gather"  # how keys and values travel over the mesh axis `context`
    pattern: tuple[Layer, ...] = added(())  # repeats over the layers; (): as the fields above say
    prologue: tuple[Layer, ...] = added(())  # layers before the pattern's first (DeepSeek's dense ones)
    wiring: Wiring | None = added(None)  # how layers read and write the stream; None: norms before, and post_norms
    norm_bias: bool | None = added(None)  # LayerNorms have biases; None: those of bias "all" have
    qk_norm_over: NormedOver = added("head")  # what qk_norm norms: every head, or all heads together (OLMo 2)
    embedding_scale: float | None = added(None)  # factor on the token embeddings (Granite)
    logit_scale: float | None = added(None)  # factor on the logits, before their soft-cap (Cohere; Granite: 1 / it)
    embedding_gradient: float = added(1.0)  # factor on the token table's gradient, tied logits included (GLM-130B: 0.1)

    def __post_init__(self) -> None:
        require_sizes(self, "model")
        for field in ("vocab_size", "d_model", "n_layers", "n_heads", "max_seq_len"):
            value = getattr(self, field)
            require(value >= 1, f"model.{field}", f"is {value}", "give a positive integer")
        require(self.n_layers <= DEEPEST, "model.n_layers", f"is {self.n_layers}", f"give at most {DEEPEST}")
        for field in ("n_kv_heads", "head_dim", "d_ff", "mup_base_width", "mup_base_head_dim", "sliding_window"):
            value = getattr(self, field)
            require(value is None or value >= 1, f"model.{field}", f"is {value}", "give a positive integer or None")
        require(
            self.head_dim is not None or self.d_model % self.n_heads == 0,
            "model.n_heads",
            f"{self.n_heads} heads do not divide d_model {self.d_model}",
            f"use one of {divisors(self.d_model)} heads, or set model.head_dim",
        )
        self._check_numbers()
        self._check_fields()
        self._check_pattern()
        self._check_layers()

    def _check_numbers(self) -> None:
        fix = "give a positive number, or None"
        optional = "init_std query_pre_attn_scalar attention_softcap logit_softcap rope_theta_local embedding_scale"
        for field in (*optional.split(), "logit_scale"):
            value = getattr(self, field)
            require(value is None or value > 0, f"model.{field}", f"is {value}", fix)
        share = self.embedding_gradient
        require(0 < share <= 1, "model.embedding_gradient", f"is {share}", "give a share in (0, 1]")
        eps = self.norm_eps
        require(0 < eps <= 1, "model.norm_eps", f"is {eps}", "give a positive number such as 1e-5, at most 1")
        require(self.rope_theta > 0, "model.rope_theta", f"is {self.rope_theta}", "give a positive number such as 1e4")

    def _check_fields(self) -> None:
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
        factor = self.partial_rotary_factor
        fix = "give a share in (0, 1]"
        require(0 < factor <= 1, "model.partial_rotary_factor", f"is {factor}", fix)
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

    def _check_layers(self) -> None:
        stream = self.stream
        for name, layers in (("prologue", self.prologue), ("pattern", self.period)):
            for i, layer in enumerate(layers):
                for kind, part in (("mixer", layer.mixer), ("channel", layer.channel)):
                    with _placed(f"model.{name}[{i}].{kind}"):
                        if part is not None:
                            part.resolved(stream)
                with _placed("model.wiring"):
                    self.wired.check(stream, layer)
        self.wired.check_order(stream, self.layers)

    def _check_pattern(self) -> None:
        lead, fix = len(self.prologue), "raise model.n_layers, or shorten it"
        require(not self.prologue or bool(self.pattern), "model.prologue", "is set without a pattern",
                "set model.pattern too")  # fmt: skip
        require(lead <= self.n_layers, "model.prologue", f"has {lead} of {self.n_layers} layers", fix)
        if not self.pattern:
            return
        for field, nothing in (("sliding_window", None), ("moe", None), ("layer_types", ("sliding",))):
            fix = "say it in the layers of model.pattern, or leave the pattern out"
            require(getattr(self, field) == nothing, f"model.{field}", "is set beside model.pattern", fix)
        fix = "use norms of model.wiring, or leave the wiring out"
        require(self.wiring is None or not self.post_norms, "model.post_norms", "is set beside model.wiring", fix)

    @property
    def gated(self) -> bool:
        """Whether the feed-forward block multiplies by a gate (SwiGLU, GeGLU)."""
        return is_gated(self.activation)

    @functools.cached_property
    def stream(self) -> Stream:
        """What the parts of a layer are told of the model."""
        rotary = Rotary(self.rope_theta, self.rope_scaling, self.partial_rotary_factor)
        return Stream(
            d_model=self.d_model, n_layers=self.n_layers, n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads or self.n_heads, head_dim=self.head_dim or self.d_model // self.n_heads,
            d_ff=self.d_ff or (-(-8 * self.d_model // 24) * 8 if self.gated else 4 * self.d_model),
            activation=self.activation, bias=self.bias, norm=self.norm, norm_eps=self.norm_eps,
            norm_plus_one=self.norm_plus_one,
            norm_bias=self.bias == "all" if self.norm_bias is None else self.norm_bias,
            rotary=rotary if self.positions == "rope" else None,
            qk_norm=self.qk_norm, qk_norm_over=self.qk_norm_over,
            query_pre_attn_scalar=self.query_pre_attn_scalar, softcap=self.attention_softcap,
            init_std=self.init_std, mup_base_width=self.mup_base_width, mup_base_head_dim=self.mup_base_head_dim,
            dtype=self.dtype, param_dtype=self.param_dtype,
        )  # fmt: skip

    @functools.cached_property
    def period(self) -> tuple[Layer, ...]:
        """The layers that repeat after the prologue: `pattern`, or what the other fields say."""
        if self.pattern:
            return self.pattern
        channel = self.moe or Dense()
        if self.sliding_window is None:
            return (Layer(Attention(), channel),)
        local = None
        if self.rope_theta_local is not None:  # of the sliding layers, which are then not scaled
            local = Rotary(self.rope_theta_local, None, self.partial_rotary_factor)
        kinds = {"sliding": Layer(Attention(window=self.sliding_window, rotary=local), channel),
                 "full": Layer(Attention(), channel)}  # fmt: skip
        layers = tuple(kinds[kind] for kind in self.layer_types)
        return layers[:1] if len(set(layers)) == 1 else layers

    @functools.cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer in order."""
        period, rest = self.period, self.n_layers - len(self.prologue)
        return self.prologue + tuple(period[i % len(period)] for i in range(rest))

    @property
    def sliding(self) -> tuple[bool, ...]:
        """Whether each layer attends within a window."""
        return tuple(getattr(layer.mixer, "window", None) is not None for layer in self.layers)

    @property
    def wired(self) -> Wiring:
        """How the layers are wired."""
        return self.wiring or PreNorm(after=self.post_norms)

    @property
    def repeats(self) -> Repeats:
        """Which layers a scan runs over: none where layers are unrolled."""
        first, period = len(self.prologue), len(self.period)
        if not self.scan_layers:
            return Repeats(0, 1, 0, False)
        stream, wired = self.stream, self.wired
        declared = [wired.weights(stream, layer) for layer in dict.fromkeys((*self.prologue, *self.period))]
        together = all(tree == declared[0] for tree in declared)
        return Repeats(first, period, (self.n_layers - first) // period, together)

    @property
    def routed(self) -> bool:
        """Whether any part routes tokens to experts."""
        return any(isinstance(part, Experts | ChunkExperts) for layer in self.layers for part in layer.parts)

    def resolved(self) -> ModelConfig:
        """The same config with every derived field filled in (idempotent)."""
        return self._resolved

    @functools.cached_property
    def _resolved(self) -> ModelConfig:
        stream = self.stream
        return dataclasses.replace(
            self,
            n_kv_heads=stream.n_kv_heads,
            head_dim=stream.head_dim,
            d_ff=stream.d_ff,
            norm_bias=None if self.norm_bias == (self.bias == "all") else self.norm_bias,  # one config of a model
            moe=self.moe and dataclasses.replace(self.moe, d_ff=self.moe.d_ff or stream.d_ff),
        )
