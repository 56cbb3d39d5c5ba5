"""What families' config.json files say, in parts: keys <-> ModelConfig fields."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Literal, TypeVar

from models.config import ModelConfig, MoEConfig
from models.huggingface.files import Json, Keys
from models.layer import Layer
from models.mixers.attention import Attention
from models.rotary import Rotary
from models.wiring import Parallel

T = TypeVar("T")
GATED = {"swiglu": "silu", "geglu": "gelu_pytorch_tanh", "geglu_exact": "gelu"}
PLAIN = {"gelu": "gelu_new", "gelu_exact": "gelu"}
SQUARED = {"relu2": "relu2"}
UNROTATED = Layer(Attention(rotary=Rotary(share=0.0)))  # a layer without positions
ALIASES = {"swish": "silu", "gelu_new": "gelu_pytorch_tanh"}
LAYER_TYPES: dict[str, Literal["sliding", "full"]] = {"sliding_attention": "sliding", "full_attention": "full"}


@dataclass(frozen=True)
class Same:
    """A key that is a field: a number of type `kind`, or None where the family's default is None."""

    key: str
    field: str
    kind: type = int

    def read(self, keys: Keys) -> dict[str, Any]:
        """The field."""
        kinds = (int, float) if self.kind is float else (self.kind,)
        value = keys.get(self.key, *kinds)
        return {self.field: None if value is None else self.kind(value)}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The key."""
        return {self.key: getattr(config, self.field)}


@dataclass(frozen=True)
class Optional:
    """A positive number, or None to leave out what it limits."""

    key: str
    field: str

    def read(self, keys: Keys) -> dict[str, Any]:
        """The field."""
        value = keys.get(self.key, int, float, NoneType)
        return {self.field: None if value is None else float(value)}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The key."""
        return {self.key: getattr(config, self.field)}


@dataclass(frozen=True)
class Scale:
    """A positive factor; 1 leaves the field None. inverse: the key is what is divided by."""

    key: str
    field: str
    inverse: bool = False

    def read(self, keys: Keys) -> dict[str, Any]:
        """The field."""
        value = keys.number(self.key)
        if value <= 0:
            raise keys.error(self.key, f"is {value}", "give a positive number")
        return {self.field: None if value == 1 else 1 / value if self.inverse else value}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The key; of an inverse the shortest number that gives it."""
        value = getattr(config, self.field) or 1.0
        return {self.key: float(f"{1 / value:.12g}") if self.inverse else value}


@dataclass(frozen=True)
class ParallelResidual:
    """Whether both halves of a block read the same stream. shared: they read one norm of it."""

    key: str = "use_parallel_residual"
    shared: bool = False

    def read(self, keys: Keys) -> dict[str, Any]:
        """`wiring`, where they do."""
        return {"wiring": Parallel(self.shared)} if keys.get(self.key, bool) else {}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The key."""
        return {self.key: isinstance(config.wiring, Parallel)}


@dataclass(frozen=True)
class Activation:
    """The name of the nonlinearity. names: ours -> theirs; aliases: further names of theirs in this family alone."""

    key: str = "hidden_act"
    names: Mapping[str, str] = field(default_factory=lambda: GATED)
    aliases: Mapping[str, str] = field(default_factory=dict)

    def read(self, keys: Keys) -> dict[str, Any]:
        """`activation`."""
        given = keys.get(self.key, str)
        value = self.aliases.get(given, given)
        for ours, theirs in self.names.items():
            if ALIASES.get(value, value) == ALIASES.get(theirs, theirs):
                return {"activation": ours}
        raise keys.error(self.key, f"is {given!r}", f"use a checkpoint with one of {', '.join(self.names.values())}")

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The key; an activation that the family lacks becomes its first."""
        return {self.key: self.names.get(config.activation, next(iter(self.names.values())))}


@dataclass(frozen=True)
class Biases:
    """Which products have a bias: those of attention, and with `mlp` those of the feed-forward block too."""

    attention: str = "attention_bias"
    mlp: str | None = None

    def read(self, keys: Keys) -> dict[str, Any]:
        """`bias`, where there is one."""
        attention = keys.get(self.attention, bool)
        if self.mlp is not None and keys.get(self.mlp, bool):
            if not attention:
                problem = f"is true without {self.attention}"
                raise keys.error(self.mlp, problem, "use a checkpoint with both or neither")
            return {"bias": "all"}
        return {"bias": "attention"} if attention else {}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The keys."""
        keys: dict[str, Any] = {self.attention: config.bias in ("attention", "all")}
        return keys | ({self.mlp: config.bias == "all"} if self.mlp is not None else {})


@dataclass(frozen=True)
class QkvBiases:
    """Biases of q, k and v, with `out` of attention's output too, and with `mlp` of the feed-forward block as well."""

    attention: str = "attention_bias"
    out: str | None = None
    mlp: str | None = None

    def read(self, keys: Keys) -> dict[str, Any]:
        """`bias`, where there is one."""
        given = [key is not None and keys.get(key, bool) for key in (self.attention, self.out, self.mlp)]
        found = {(False, False, False): "none", (True, False, False): "qkv", (True, True, False): "attention",
                 (True, True, True): "all"}.get((given[0], given[1], given[2]))  # fmt: skip
        if found is None:
            named = ", ".join(key for key in (self.attention, self.out, self.mlp) if key is not None)
            raise keys.error(named, f"are {given}", "use a checkpoint in which none comes without those before it")
        return {"bias": found}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The keys."""
        kinds = ((self.attention, ("qkv", "attention", "all")), (self.out, ("attention", "all")), (self.mlp, ("all",)))
        return {key: config.bias in having for key, having in kinds if key is not None}


@dataclass(frozen=True)
class Experts:
    """Experts in place of every feed-forward block; in `transformers` none of their tokens is dropped.

    count, width: keys of their number and of the width of one. normalize: the key that lets the chosen ones' weights
    sum to one (None: they always do).
    """

    count: str
    width: str
    normalize: str | None = None
    top_k: str = "num_experts_per_tok"
    balance: str = "router_aux_loss_coef"

    def read(self, keys: Keys) -> dict[str, Any]:
        """`moe`."""
        return {"moe": MoEConfig(
            experts=keys.get(self.count, int), top_k=keys.get(self.top_k, int), d_ff=keys.get(self.width, int),
            normalize=self.normalize is None or keys.get(self.normalize, bool), dispatch="dropless",
            balance_coefficient=keys.number(self.balance), z_coefficient=0.0,
        )}  # fmt: skip

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The keys; none without experts."""
        return {} if config.moe is None else self.said(config.moe)

    def said(self, moe: MoEConfig) -> dict[str, Any]:
        """The keys of experts."""
        keys: dict[str, Any] = {self.count: moe.experts, self.top_k: moe.top_k, self.width: moe.d_ff}
        keys |= {self.balance: moe.balance_coefficient}
        return keys | ({} if self.normalize is None else {self.normalize: moe.normalize})


@dataclass(frozen=True)
class RotatingWindows:
    """Sliding layers rotate, the full ones among them have no positions; without `sliding_window` all rotate.

    Where "layer_types" is absent every `period`-th layer is full.
    """

    period: str = "sliding_window_pattern"

    def read(self, keys: Keys) -> dict[str, Any]:
        """`pattern`, where there are windows."""
        fields = Windows(types=True, pattern=self.period).read(keys)
        if not fields:
            return {}
        kinds = {"sliding": Layer(Attention(window=fields["sliding_window"])), "full": UNROTATED}
        return {"pattern": tuple(kinds[kind] for kind in fields["layer_types"])}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The keys."""
        window = next((w for layer in config.layers if (w := getattr(layer.mixer, "window", None))), None)
        return Windows(types=True).write(config) | {"sliding_window": window}


@dataclass(frozen=True)
class QueryScale:
    """What scores are divided by the square root of, in place of head_dim."""

    key: str = "query_pre_attn_scalar"

    def read(self, keys: Keys) -> dict[str, Any]:
        """The field."""
        return {"query_pre_attn_scalar": keys.number(self.key)}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The key; an integer where it is one, as published files have it."""
        scale = Attention().scale(config.stream) ** -2
        return {self.key: round(scale) if math.isclose(scale, round(scale), rel_tol=1e-12) else scale}


@dataclass(frozen=True)
class Windows:
    """Sliding windows: their width, and which layers have them.

    switch: a key that turns them off. types: whether "layer_types" may name the layers' kinds. Where it does not, the
    layers from the number in `leading` on have windows, or all but every `pattern`-th (from the first on with
    `first_full`), or without either all of them.
    """

    switch: str | None = None
    types: bool = False
    leading: str | None = None
    pattern: str | None = None
    first_full: bool = False

    def read(self, keys: Keys) -> dict[str, Any]:
        """`sliding_window` and `layer_types`, where there are windows."""
        window = keys.get("sliding_window", int, NoneType)
        if window is None or (self.switch is not None and not keys.get(self.switch, bool)):
            return {}
        if not self.types and self.leading is None:
            return {"sliding_window": window, "layer_types": ("sliding",)}
        n_layers = keys.get("num_hidden_layers", int)
        types = keys.get("layer_types", list) if self.types else None
        if types is None:
            types = ["sliding_attention" if windowed else "full_attention" for windowed in self._by_rule(keys)]
        unknown = [kind for kind in types if kind not in LAYER_TYPES]
        if unknown or len(types) != n_layers:
            given = f"names {unknown[0]!r}" if unknown else f"has {len(types)} entries for {n_layers} layers"
            raise keys.error("layer_types", given, f"give one of {', '.join(LAYER_TYPES)} for each layer")
        return {"sliding_window": window, "layer_types": shortest([LAYER_TYPES[kind] for kind in types])}

    def _by_rule(self, keys: Keys) -> list[bool]:
        layers = range(keys.get("num_hidden_layers", int))
        if self.leading is not None:
            return [i >= keys.get(self.leading, int) for i in layers]
        if self.pattern is not None:
            return [(i + (not self.first_full)) % keys.get(self.pattern, int) != 0 for i in layers]
        return [True for _ in layers]

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The keys."""
        windowed = any(config.sliding)
        written: dict[str, Any] = {"sliding_window": config.sliding_window if windowed else None}
        if self.switch is not None:
            written[self.switch] = windowed
        if self.leading is not None:
            written[self.leading] = next((i for i, sliding in enumerate(config.sliding) if sliding), config.n_layers)
        if self.types:
            names = {ours: theirs for theirs, ours in LAYER_TYPES.items()}
            written["layer_types"] = [names["sliding" if sliding else "full"] for sliding in config.sliding]
        return written


def shortest(types: list[T]) -> tuple[T, ...]:
    """The shortest pattern that repeats to `types`."""
    for n in range(1, len(types)):
        if all(kind == types[i % n] for i, kind in enumerate(types)):
            return tuple(types[:n])
    return tuple(types)


WIDTHS = (
    Same("vocab_size", "vocab_size"),
    Same("hidden_size", "d_model"),
    Same("num_hidden_layers", "n_layers"),
    Same("num_attention_heads", "n_heads"),
    Same("intermediate_size", "d_ff"),
    Same("max_position_embeddings", "max_seq_len"),
    Same("tie_word_embeddings", "tied_embeddings", bool),
)
KV_HEADS = Same("num_key_value_heads", "n_kv_heads")
HEAD_DIM = Same("head_dim", "head_dim")
RMS_EPS = Same("rms_norm_eps", "norm_eps", float)
SHAPE = (*WIDTHS, KV_HEADS, HEAD_DIM, RMS_EPS)
RMS: Json = {"positions": "rope", "norm": "rmsnorm"}
