"""config.json <-> ModelConfig: which family a file is of, and the fields that it sets."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from typing import Any

from models.config import ModelConfig, MoEConfig
from models.errors import ConfigError, require
from models.huggingface.families import FAMILIES, MISSING
from models.huggingface.family import Family
from models.huggingface.files import Json, Keys
from models.layer import Layer
from models.mixers.attention import Attention
from models.mixers.delta import Delta
from models.mixers.latent import Latent
from models.transformer import embedding_multiplier, output_multiplier

# ModelConfig fields that say how to compute, not what: a checkpoint has none of them
NUMERICS = {"dtype", "param_dtype", "scan_layers", "remat", "context", "init_std", "mup_base_head_dim",
            "embedding_gradient"}  # fmt: skip
# model types that see and read, with the text model that is meant where theirs is not named
SEEING = {"gemma3": "gemma3_text"}
# fields that say something of layers that attend, and of those that transform tokens alone
ATTENDING = {"n_heads", "n_kv_heads", "head_dim", "qk_norm", "query_pre_attn_scalar", "attention_softcap"}
ALONE = {"d_ff", "activation"}
# of experts, slots and losses are of training
EXPERTS = ("experts", "top_k", "d_ff", "shared", "groups", "top_groups", "score", "normalize", "scale",
           "group_score", "shared_gate", "router", "free", "bottleneck")
ROTARY = {"rope_theta", "rope_theta_local", "rope_scaling", "partial_rotary_factor"}
# keys that change what is computed in any family, with the values that leave it as this package computes it
NEUTRAL: dict[str, Any] = {"use_bidirectional_attention": (None, False), "quantization_config": (None,)}
VERSION = "transformers_version"  # the release that wrote a file: what the file leaves out is what that one took for it


def family_of(data: Json, file: str) -> tuple[Family, Json]:
    """The family of a config.json and its part that describes the text model."""
    kind, text = data.get("model_type"), data.get("text_config")
    if kind in SEEING and isinstance(text, Mapping):  # with a vision tower, which is left out
        outer = {key: data[key] for key in (*NEUTRAL, VERSION) if key in data}  # what holds for the whole model
        kind, data = text.get("model_type", SEEING[kind]), {**outer, **text}
    if kind in MISSING:
        problem = f"model_type {kind!r} needs {MISSING[kind]}, which no model here has"
        raise ConfigError(file, problem, f"use one of {', '.join(FAMILIES)}")
    if kind not in FAMILIES:
        guess = _misspelt(str(kind))
        hint = f"did you mean {guess!r}? " if guess else ""
        problem = f"model_type {kind!r} is none that can be read"
        raise ConfigError(file, problem, f"{hint}use one of {', '.join(FAMILIES)}")
    return FAMILIES[kind], data


def _misspelt(kind: str) -> str | None:
    """The family whose name `kind` misspells, in case, signs or a letter; names as near as mixtral's are others'."""
    plain = {re.sub(r"[^a-z0-9]", "", family): family for family in FAMILIES}
    name = re.sub(r"[^a-z0-9]", "", kind.lower())
    found = difflib.get_close_matches(name, plain, n=1, cutoff=0.89)
    return plain[found[0]] if found and found[0][-1:] == name[-1:] else None


def read_config(family: Family, data: Json, file: str) -> ModelConfig:
    """The ModelConfig of a config.json, in float32; ConfigError names the file and the key that cannot be read."""
    data = {family.aliases.get(key, key): value for key, value in data.items()}
    old = re.match(r"[0-4]\.", str(data.get(VERSION)))
    keys = Keys(data, file, {**family.defaults, **family.before_5} if old else family.defaults)
    for key, values in {**NEUTRAL, **family.neutral}.items():
        value = data.get(key, keys.defaults.get(key, values[0]))
        if key == "quantization_config" and isinstance(value, Mapping):
            fix = "load it with transformers, dequantised, and save_pretrained to another folder"
            raise keys.error(key, f"says that its tensors are quantised ({value.get('quant_method')})", fix)
        if value not in values:
            raise keys.error(key, f"is {value!r}, which is not supported", "use a checkpoint without it")
    try:
        fields = dict(family.fixed)
        for part in family.parts:
            fields |= part.read(keys)
        if fields.get("sliding_window") is None:  # a theta of sliding layers where there are none
            fields.pop("rope_theta_local", None)
        return ModelConfig(**fields).resolved()
    except ConfigError as error:
        if error.field == file:
            raise
        raise ConfigError(file, f"{error.field} {error.problem}", error.fix) from None  # our check of a value in it
    except (AttributeError, TypeError, ValueError) as error:  # a group that is no group, a number that is text
        raise ConfigError(file, f"cannot be read ({error})", "copy the config.json of the model again") from None


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
        written: dict[str, Any] = {"architectures": [family.architecture], "model_type": family.model_type}
        for part in family.parts:
            written |= part.write(c)
        for key, values in family.neutral.items():
            if family.defaults.get(key, values[0]) not in values:  # what is left out is something else
                written[key] = values[0]
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
    uneven = family.divided_heads and config.d_model % config.n_heads
    uneven = uneven or (family.whole_heads and config.d_model != config.n_heads * (config.head_dim or 0))
    return [field for field in ours if ours[field] != theirs[field]] + (["n_heads"] if uneven else [])


def computation(config: ModelConfig) -> dict[str, Any]:
    """Field -> what the field makes the model compute: equal for configs that compute the same."""
    c = config.resolved()
    values = {f.name: getattr(c, f.name) for f in dataclasses.fields(c) if f.name not in NUMERICS}
    values |= dict.fromkeys(ROTARY) if c.positions != "rope" else {}
    windowed = any(c.sliding)
    local = (c.rope_scaling, c.rope_theta) if c.rope_theta_local is None else (None, c.rope_theta_local)
    if c.moe is not None:  # the dense width is unused
        values |= {"d_ff": None, "moe": _routing(c.moe)}
    values |= {
        "layer_types": c.sliding,
        "sliding_window": c.sliding_window if windowed else None,
        "rope_theta_local": local if windowed else None,
        "query_pre_attn_scalar": round(Attention().scale(c.stream), 12),
        "mup_base_width": (round(output_multiplier(c), 12), embedding_multiplier(c)),
        "logit_scale": round(c.logit_scale or 1.0, 12),
        "embedding_scale": c.embedding_scale or 1.0,
        "norm_bias": c.norm == "layernorm" and c.stream.norm_bias,
        "qk_norm_over": c.qk_norm and c.qk_norm_over == "all",
        "pattern": tuple(_resolved(c, layer) for layer in c.layers) if c.pattern else (),
        "prologue": None,
    }
    # other mixers have heads and positions of their own, which the pattern shows
    unused = set() if any(isinstance(layer.mixer, Attention) for layer in c.layers) else ATTENDING | ROTARY
    unused = unused if any(layer.channel for layer in c.layers) else unused | ALONE
    unused = unused | {"max_seq_len"} if c.positions == "none" else unused
    used = {field: value for field, value in values.items() if field not in unused}
    return used | dict.fromkeys(field for field in values if field in unused)  # last: what differs first is named


def _resolved(config: ModelConfig, layer: Layer) -> Layer:
    channel, mixer = layer.channel and layer.channel.resolved(config.stream), layer.mixer.resolved(config.stream)
    if isinstance(mixer, Latent):
        mixer = dataclasses.replace(mixer, gain=round(mixer.gain, 9))
    if isinstance(mixer, Delta):  # which no file says
        mixer = dataclasses.replace(mixer, block=1)
    return Layer(mixer, _routing(channel) if isinstance(channel, MoEConfig) else channel)


def _routing(experts: MoEConfig) -> MoEConfig:
    """The experts with nothing said that only training asks for; whether the router has biases is of the weights."""
    said = dataclasses.replace(MoEConfig(), **{field: getattr(experts, field) for field in EXPERTS})
    if said.top_groups == said.groups:  # all are in reach
        said = dataclasses.replace(said, groups=1, top_groups=1, group_score="max")
    return dataclasses.replace(said, bias_rate=float(bool(experts.bias_rate)))
