"""The Hugging Face model families that a ModelConfig can express: their config.json and the names of their tensors.

Each family is data: the keys of its config.json with the defaults of `transformers`, the ModelConfig fields that all
its models share, and one table of tensor names. The same data reads and writes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal

from models.attention import attention_scale
from models.config import ModelConfig, RopeScaling
from models.errors import ConfigError, nearest, require
from models.transformer import embedding_multiplier, output_multiplier

Json = Mapping[str, Any]
Names = Mapping[str, str | tuple[str, ...]]  # our path -> tensor of the family, or one for each part of a fused weight


@dataclass(frozen=True)
class Family:
    """One `model_type`.

    prefix: of the tensors of the base model. defaults: what `transformers` takes for a key that config.json lacks; a
    key that is not among them is none of the family's. fixed: the ModelConfig fields that all its models share.
    """

    model_type: str
    architecture: str
    prefix: str
    names: Names
    defaults: Json
    fixed: Json

    def prefixed(self, path: str, layer: int) -> tuple[str, ...]:
        """The tensors of one of our weights (its path inside a block, or in the model) in one layer."""
        names = self.names[path]
        names = (names,) if isinstance(names, str) else names
        return tuple(name if path == "head" else self.prefix + name.format(layer) for name in names)

    def knows(self, key: str) -> bool:
        """Whether the family's config.json may have the key."""
        return key in self.defaults


GATED = {"swiglu": "silu", "geglu": "gelu_pytorch_tanh", "geglu_exact": "gelu"}
PLAIN = {"gelu": "gelu_new", "gelu_exact": "gelu"}
ALIASES = {"swish": "silu", "gelu_new": "gelu_pytorch_tanh"}
LAYER_TYPES: dict[str, Literal["sliding", "full"]] = {"sliding_attention": "sliding", "full_attention": "full"}
# ModelConfig fields that say how to compute, not what: a checkpoint has none of them
NUMERICS = {"dtype", "param_dtype", "scan_layers", "remat", "context", "init_std", "mup_base_head_dim"}
ROTARY = {"rope_theta", "rope_theta_local", "rope_scaling", "partial_rotary_factor"}


def _names(norms: Json) -> Names:
    block = {
        **norms,
        "attention/qkv": tuple(f"self_attn.{x}_proj.weight" for x in "qkv"),
        "attention/qkv_bias": tuple(f"self_attn.{x}_proj.bias" for x in "qkv"),
        "attention/out": "self_attn.o_proj.weight",
        "attention/out_bias": "self_attn.o_proj.bias",
        "attention/q_norm/gain": "self_attn.q_norm.weight",
        "attention/k_norm/gain": "self_attn.k_norm.weight",
        "feedforward/gate_up": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
        "feedforward/gate_up_bias": ("mlp.gate_proj.bias", "mlp.up_proj.bias"),
        "feedforward/down": "mlp.down_proj.weight",
        "feedforward/down_bias": "mlp.down_proj.bias",
    }
    return {
        "tokens": "embed_tokens.weight",
        "final_norm/gain": "norm.weight",
        "head": "lm_head.weight",
        **{path: _prefixed(names, "layers.{}.") for path, names in block.items()},
    }


def _prefixed(names: str | tuple[str, ...], prefix: str) -> str | tuple[str, ...]:
    return prefix + names if isinstance(names, str) else tuple(prefix + name for name in names)


LLAMA_NAMES = _names(
    {
        "attention_norm/gain": "input_layernorm.weight",
        "feedforward_norm/gain": "post_attention_layernorm.weight",
    }
)
GEMMA2_NAMES = _names(
    {
        "attention_norm/gain": "input_layernorm.weight",
        "post_attention_norm/gain": "post_attention_layernorm.weight",
        "feedforward_norm/gain": "pre_feedforward_layernorm.weight",
        "post_feedforward_norm/gain": "post_feedforward_layernorm.weight",
    }
)
GPT2_NAMES: Names = {
    "tokens": "wte.weight",
    "positions": "wpe.weight",
    "final_norm/gain": "ln_f.weight",
    "final_norm/bias": "ln_f.bias",
    "head": "lm_head.weight",
    "attention_norm/gain": "h.{}.ln_1.weight",
    "attention_norm/bias": "h.{}.ln_1.bias",
    "attention/qkv": "h.{}.attn.c_attn.weight",
    "attention/qkv_bias": "h.{}.attn.c_attn.bias",
    "attention/out": "h.{}.attn.c_proj.weight",
    "attention/out_bias": "h.{}.attn.c_proj.bias",
    "feedforward_norm/gain": "h.{}.ln_2.weight",
    "feedforward_norm/bias": "h.{}.ln_2.bias",
    "feedforward/up": "h.{}.mlp.c_fc.weight",
    "feedforward/up_bias": "h.{}.mlp.c_fc.bias",
    "feedforward/down": "h.{}.mlp.c_proj.weight",
    "feedforward/down_bias": "h.{}.mlp.c_proj.bias",
}

_COMMON = {
    "num_key_value_heads": None, "head_dim": None, "hidden_act": "silu", "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "rope_theta": 1e4,
}  # fmt: skip
_QWEN = _COMMON | {
    "max_position_embeddings": 32_768, "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28,
    "layer_types": None,
}  # fmt: skip
_GEMMA = _COMMON | {
    "head_dim": 256, "hidden_act": "gelu_pytorch_tanh", "max_position_embeddings": 8192, "tie_word_embeddings": True,
    "attention_bias": False,
}  # fmt: skip
_GEMMA2 = {key: value for key, value in _GEMMA.items() if key != "hidden_act"} | {
    "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0, "sliding_window": 4096, "sliding_window_pattern": 2, "layer_types": None,
}  # fmt: skip
_GEMMA3 = _GEMMA2 | {
    "max_position_embeddings": 131_072, "attn_logit_softcapping": None, "final_logit_softcapping": None,
    "sliding_window_pattern": 6, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
}  # fmt: skip
_GPT2 = {
    "n_positions": 1024, "n_inner": None, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}  # fmt: skip
_RMS: dict[str, Any] = {"positions": "rope", "norm": "rmsnorm"}
_RMS_GEMMA = _RMS | {"norm_plus_one": True, "scale_embeddings": True}

# in the order in which an export tries them: the simplest family that can express a config wins
FAMILIES = {
    family.model_type: family
    for family in (
        Family(
            "llama", "LlamaForCausalLM", "model.", LLAMA_NAMES,
            _COMMON | {"attention_bias": False, "mlp_bias": False}, _RMS,
        ),
        Family(
            "mistral", "MistralForCausalLM", "model.", LLAMA_NAMES,
            _COMMON | {"num_key_value_heads": 8, "max_position_embeddings": 131_072, "sliding_window": 4096}, _RMS,
        ),
        Family("qwen2", "Qwen2ForCausalLM", "model.", LLAMA_NAMES, _QWEN, _RMS | {"bias": "qkv"}),
        Family(
            "qwen3", "Qwen3ForCausalLM", "model.", LLAMA_NAMES,
            _QWEN | {"head_dim": 128, "attention_bias": False}, _RMS | {"qk_norm": True},
        ),
        Family("gemma", "GemmaForCausalLM", "model.", LLAMA_NAMES, _GEMMA, _RMS_GEMMA),
        Family("gemma2", "Gemma2ForCausalLM", "model.", GEMMA2_NAMES, _GEMMA2, _RMS_GEMMA | {"post_norms": True}),
        Family(
            "gemma3_text", "Gemma3ForCausalLM", "model.", GEMMA2_NAMES, _GEMMA3,
            _RMS_GEMMA | {"post_norms": True, "qk_norm": True},
        ),
        Family(
            "gpt2", "GPT2LMHeadModel", "transformer.", GPT2_NAMES, _GPT2,
            {"positions": "learned", "norm": "layernorm", "bias": "all"},
        ),
    )
}  # fmt: skip
# keys that change what is computed, with the values that leave it as this package computes it
_NEUTRAL: Json = {
    "use_bidirectional_attention": (None, False), "quantization_config": (None,),
    "partial_rotary_factor": (None, 1, 1.0), "add_cross_attention": (False,), "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
}  # fmt: skip


class Keys:
    """The keys of a config.json, typed; every error names the file and the key."""

    def __init__(self, data: Json, file: str, defaults: Json):
        self.data, self.file, self.defaults = data, file, defaults

    def error(self, key: str, problem: str, fix: str) -> ConfigError:
        """An error at one key."""
        return ConfigError(self.file, f"{key} {problem}", fix)

    def get(self, key: str, *kinds: type) -> Any:
        """Value or default; an error when the key is missing without default, or its value is of no kind."""
        if key not in self.data and key not in self.defaults:
            raise self.error(key, "is missing", "copy the config.json of the model again")
        value = self.data.get(key, self.defaults.get(key))
        if value is None and self.defaults.get(key, 0) is None:
            return None
        if (isinstance(value, bool) and bool not in kinds) or not isinstance(value, kinds):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise self.error(key, f"is {value!r}", f"give a value of type {names}")
        return value

    def number(self, key: str) -> float:
        """A float; integers count as such."""
        return float(self.get(key, int, float))


def family_of(data: Json, file: str) -> tuple[Family, Json]:
    """The family of a config.json and its part that describes the text model."""
    kind = data.get("model_type")
    if kind == "gemma3" and isinstance(data.get("text_config"), Mapping):  # with a vision tower, which is left out
        return FAMILIES["gemma3_text"], data["text_config"]
    if kind not in FAMILIES:
        guess = nearest(str(kind), FAMILIES)
        hint = f"did you mean {guess!r}? " if guess else ""
        raise ConfigError(
            file, f"model_type {kind!r} is none that can be read", f"{hint}use one of {', '.join(FAMILIES)}"
        )
    return FAMILIES[kind], data


def read_config(family: Family, data: Json, file: str) -> ModelConfig:
    """The ModelConfig of a config.json, in float32; ConfigError names the file and the key that cannot be read."""
    keys = Keys(data, file, family.defaults)
    for key, values in _NEUTRAL.items():
        if data.get(key, values[0]) not in values:
            raise keys.error(key, f"is {data[key]!r}, which is not supported", "use a checkpoint without it")
    try:
        return _read_gpt2(keys, family) if family.model_type == "gpt2" else _read_rms(keys, family)
    except ConfigError as error:
        if error.field == file:
            raise
        raise ConfigError(file, f"{error.field} {error.problem}", error.fix) from None  # our check of a value in it
    except (AttributeError, TypeError, ValueError) as error:  # a group that is no group, a number that is text
        raise ConfigError(file, f"cannot be read ({error})", "copy the config.json of the model again") from None


def _read_gpt2(keys: Keys, family: Family) -> ModelConfig:
    return ModelConfig(
        vocab_size=keys.get("vocab_size", int),
        d_model=keys.get("n_embd", int),
        n_layers=keys.get("n_layer", int),
        n_heads=keys.get("n_head", int),
        d_ff=keys.get("n_inner", int) or 4 * keys.get("n_embd", int),
        max_seq_len=keys.get("n_positions", int),
        norm_eps=keys.number("layer_norm_epsilon"),
        activation=_activation(keys, "activation_function", PLAIN),
        tied_embeddings=keys.get("tie_word_embeddings", bool),
        **family.fixed,
    ).resolved()


def _read_rms(keys: Keys, family: Family) -> ModelConfig:
    fields: dict[str, Any] = dict(family.fixed)
    if family.knows("attention_bias") and keys.get("attention_bias", bool):
        fields["bias"] = "attention"
    if family.knows("mlp_bias") and keys.get("mlp_bias", bool):
        if "bias" not in fields:
            raise keys.error("mlp_bias", "is true without attention_bias", "use a checkpoint with both or neither")
        fields["bias"] = "all"
    act = "hidden_activation" if family.knows("hidden_activation") else "hidden_act"
    fields["activation"] = _activation(keys, act, GATED)
    if family.model_type == "gemma":  # its legacy "gelu" means the tanh approximation
        fields["activation"] = fields["activation"].removesuffix("_exact")
    if family.knows("query_pre_attn_scalar"):
        fields["query_pre_attn_scalar"] = keys.number("query_pre_attn_scalar")
        fields["logit_softcap"] = keys.get("final_logit_softcapping", int, float, NoneType)
        fields["attention_softcap"] = keys.get("attn_logit_softcapping", int, float, NoneType)
    if family.model_type == "gemma3_text" and fields["attention_softcap"] is not None:
        raise keys.error("attn_logit_softcapping", "is set, but Gemma 3 does not use it", "set it to null")
    n_layers = keys.get("num_hidden_layers", int)
    windows = _read_windows(keys, family, n_layers)
    return ModelConfig(
        vocab_size=keys.get("vocab_size", int),
        d_model=keys.get("hidden_size", int),
        n_layers=n_layers,
        n_heads=keys.get("num_attention_heads", int),
        n_kv_heads=keys.get("num_key_value_heads", int, NoneType),
        head_dim=keys.get("head_dim", int),
        d_ff=keys.get("intermediate_size", int),
        max_seq_len=keys.get("max_position_embeddings", int),
        norm_eps=keys.number("rms_norm_eps"),
        tied_embeddings=keys.get("tie_word_embeddings", bool),
        **windows,
        **_read_rope(keys, family, bool(windows)),
        **fields,
    ).resolved()


def _activation(keys: Keys, key: str, names: dict[str, str]) -> Any:
    value = keys.get(key, str)
    for ours, theirs in names.items():
        if ALIASES.get(value, value) == ALIASES.get(theirs, theirs):
            return ours
    raise keys.error(key, f"is {value!r}", f"use a checkpoint with one of {', '.join(names.values())}")


def _read_windows(keys: Keys, family: Family, n_layers: int) -> dict[str, Any]:
    if not family.knows("sliding_window") or (window := keys.get("sliding_window", int, NoneType)) is None:
        return {}
    if not family.knows("layer_types"):  # Mistral
        return {"sliding_window": window, "layer_types": ("sliding",)}
    if family.knows("use_sliding_window") and not keys.get("use_sliding_window", bool):
        return {}
    types = keys.get("layer_types", list)
    if types is None:
        if family.knows("max_window_layers"):
            windowed = [i >= keys.get("max_window_layers", int) for i in range(n_layers)]
        else:
            windowed = [(i + 1) % keys.get("sliding_window_pattern", int) != 0 for i in range(n_layers)]
        types = ["sliding_attention" if w else "full_attention" for w in windowed]
    unknown = [kind for kind in types if kind not in LAYER_TYPES]
    if unknown or len(types) != n_layers:
        given = f"names {unknown[0]!r}" if unknown else f"has {len(types)} entries for {n_layers} layers"
        raise keys.error("layer_types", given, f"give one of {', '.join(LAYER_TYPES)} for each layer")
    return {"sliding_window": window, "layer_types": _shortest([LAYER_TYPES[kind] for kind in types])}


def _shortest(types: list[Literal["sliding", "full"]]) -> tuple[Literal["sliding", "full"], ...]:
    """The shortest pattern that repeats to `types`."""
    for n in range(1, len(types)):
        if all(kind == types[i % n] for i, kind in enumerate(types)):
            return tuple(types[:n])
    return tuple(types)


def _read_rope(keys: Keys, family: Family, windowed: bool) -> dict[str, Any]:
    """Rotary fields from `rope_theta` and `rope_scaling`, or from the newer `rope_parameters`."""
    given = keys.data.get("rope_parameters") or {}
    local: Json = {}
    if nested := LAYER_TYPES.keys() & given.keys():
        if not family.knows("rope_local_base_freq"):
            raise keys.error(
                "rope_parameters", f"differ by layer type ({', '.join(sorted(nested))})", "use one for all"
            )
        given, local = given.get("full_attention") or {}, given.get("sliding_attention") or {}
        if local.get("rope_type", "default") != "default":
            raise keys.error("rope_parameters", "scale the sliding layers", "scale full_attention only")
    fields: dict[str, Any] = {"rope_theta": float(given.get("rope_theta") or keys.number("rope_theta"))}
    if family.knows("rope_local_base_freq") and windowed:
        fields["rope_theta_local"] = float(local.get("rope_theta") or keys.number("rope_local_base_freq"))
    scaling = keys.data.get("rope_scaling") or given
    if scaling.get("partial_rotary_factor", 1) != 1:
        raise keys.error(
            "partial_rotary_factor", f"is {scaling['partial_rotary_factor']}", "use a checkpoint without it"
        )
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return fields
    return fields | {"rope_scaling": _read_scaling(keys, kind, scaling)}


def _read_scaling(keys: Keys, kind: str, scaling: Json) -> RopeScaling:
    length = keys.get("max_position_embeddings", int)
    original = keys.data.get("original_max_position_embeddings") or scaling.get("original_max_position_embeddings")
    original = original or length
    factor = scaling.get("factor") or (length / original if kind == "yarn" else None)
    if factor is None:
        raise keys.error("rope_scaling", "has no factor", "copy the config.json of the model again")
    if kind == "linear":
        return RopeScaling("linear", float(factor))
    if kind == "dynamic":
        return RopeScaling("dynamic", float(factor), length)
    if kind == "llama3":
        low, high = (float(scaling.get(f"{end}_freq_factor") or default) for end, default in (("low", 1), ("high", 4)))
        return RopeScaling("llama3", float(factor), original, low, high)
    if kind != "yarn":
        raise keys.error("rope_scaling", f"is of type {kind!r}", "use one of linear, dynamic, llama3, yarn")
    fast, slow = float(scaling.get("beta_fast") or 32), float(scaling.get("beta_slow") or 1)
    gain, scales = scaling.get("attention_factor"), (scaling.get("mscale"), scaling.get("mscale_all_dim"))
    if gain is None and all(scales) and factor > 1:  # DeepSeek's form
        over, under = (0.1 * float(scale or 0) * math.log(factor) + 1 for scale in scales)
        gain = over / under
    return RopeScaling(
        "yarn", float(factor), original, beta_fast=fast, beta_slow=slow, truncate=scaling.get("truncate", True),
        attention_factor=None if gain is None else float(gain),
    )  # fmt: skip


def write_config(config: ModelConfig, model_type: str | None = None) -> tuple[Family, dict[str, Any]]:
    """The family that expresses a config (the first of FAMILIES, or the given one) and its config.json.

    Raises:
      ConfigError: no family can; names the field that keeps the nearest family from it.
    """
    if model_type is not None:
        fix = f"use one of {', '.join(FAMILIES)}"
        require(model_type in FAMILIES, "model_type", f"{model_type!r} is no family that can be written", fix)
    c = config.resolved()
    failures: list[tuple[list[str], str]] = []
    for family in FAMILIES.values() if model_type is None else [FAMILIES[model_type]]:
        written = _write_gpt2(c) if family.model_type == "gpt2" else _write_rms(c, family)
        written = {"architectures": [family.architecture], "model_type": family.model_type, **written}
        differ = _differences(c, family, written)
        if not differ:
            return family, written
        failures.append((differ, family.model_type))
    differ, nearest_family = min(failures, key=lambda failure: len(failure[0]))
    field = differ[0]
    if model_type is None:
        by, fix = f"{nearest_family}, the nearest of {', '.join(FAMILIES)}", "train the model without it"
    else:
        by, fix = model_type, "leave the family open, or train the model without it"
    raise ConfigError(f"model.{field}", f"{getattr(c, field)!r} cannot be expressed by {by}", fix)


def _differences(config: ModelConfig, family: Family, written: dict[str, Any]) -> list[str]:
    """The fields whose computation the written config.json does not give back."""
    ours = computation(config)
    try:
        theirs = computation(read_config(family, written, "config.json"))
    except ConfigError:  # such a shape makes no model of this family at all: the farthest of all
        return [*(field for field, value in family.fixed.items() if getattr(config, field) != value), *ours]
    # the newer `transformers` refuses these shapes, whatever head_dim says
    uneven = family.model_type in ("llama", "gemma2", "gemma3_text") and config.d_model % config.n_heads
    return [field for field in ours if ours[field] != theirs[field]] + (["n_heads"] if uneven else [])


def computation(config: ModelConfig) -> dict[str, Any]:
    """Field -> what the field makes the model compute: equal for configs that compute the same."""
    c = config.resolved()
    values = {f.name: getattr(c, f.name) for f in dataclasses.fields(c) if f.name not in NUMERICS}
    values |= dict.fromkeys(ROTARY) if c.positions != "rope" else {}
    windowed = any(c.sliding)
    local = (c.rope_scaling, c.rope_theta) if c.rope_theta_local is None else (None, c.rope_theta_local)
    return values | {
        "layer_types": c.sliding,
        "sliding_window": c.sliding_window if windowed else None,
        "rope_theta_local": local if windowed else None,
        "query_pre_attn_scalar": round(attention_scale(c), 12),
        "mup_base_width": (output_multiplier(c), embedding_multiplier(c)),
    }


def _write_gpt2(c: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": c.vocab_size, "n_embd": c.d_model, "n_layer": c.n_layers, "n_head": c.n_heads, "n_inner": c.d_ff,
        "n_positions": c.max_seq_len, "layer_norm_epsilon": c.norm_eps,
        "activation_function": PLAIN.get(c.activation, "gelu_new"), "tie_word_embeddings": c.tied_embeddings,
    }  # fmt: skip


def _write_rms(c: ModelConfig, family: Family) -> dict[str, Any]:
    act = "hidden_activation" if family.knows("hidden_activation") else "hidden_act"
    leading = next((i for i, windowed in enumerate(c.sliding) if windowed), c.n_layers)
    scale = attention_scale(c) ** -2
    written = {
        "vocab_size": c.vocab_size,
        "hidden_size": c.d_model,
        "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads,
        "intermediate_size": c.d_ff,
        "num_key_value_heads": c.n_kv_heads,
        "head_dim": c.head_dim,
        "max_position_embeddings": c.max_seq_len,
        "rms_norm_eps": c.norm_eps,
        "tie_word_embeddings": c.tied_embeddings,
        "attention_bias": c.bias in ("attention", "all"),
        "mlp_bias": c.bias == "all",
        act: GATED.get(c.activation, "silu"),
        "sliding_window": c.sliding_window if any(c.sliding) else None,
        "use_sliding_window": any(c.sliding),
        "max_window_layers": leading,
        "layer_types": ["sliding_attention" if windowed else "full_attention" for windowed in c.sliding],
        "query_pre_attn_scalar": round(scale) if math.isclose(scale, round(scale), rel_tol=1e-12) else scale,
        "attn_logit_softcapping": c.attention_softcap if family.model_type == "gemma2" else None,
        "final_logit_softcapping": c.logit_softcap,
        "rope_theta": c.rope_theta,
        "rope_local_base_freq": c.rope_theta_local or c.rope_theta,
    }
    written = {key: value for key, value in written.items() if key not in _OPTIONAL or family.knows(key)}
    return written | ({"rope_scaling": _write_scaling(c.rope_scaling)} if c.rope_scaling else {})


_OPTIONAL = {key for family in FAMILIES.values() for key in family.defaults}


def _write_scaling(scaling: RopeScaling) -> dict[str, Any]:
    written: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind in ("llama3", "yarn"):
        written["original_max_position_embeddings"] = scaling.original_max_seq_len
    if scaling.kind == "llama3":
        written |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    if scaling.kind == "yarn":
        written |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow, "truncate": scaling.truncate}
        written |= {} if scaling.attention_factor is None else {"attention_factor": scaling.attention_factor}
    return written
