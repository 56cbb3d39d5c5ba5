"""Qwen3-Next (Qwen 2025): three layers of Gated DeltaNet to one of gated attention, experts after each."""

import dataclasses
from types import NoneType
from typing import Any

from models.channels.experts import Experts
from models.config import ModelConfig
from models.huggingface.families import llama, qwen2, qwen2_moe, qwen3_moe
from models.huggingface.family import Family, Names, block_names
from models.huggingface.files import Keys
from models.huggingface.parts import RMS, SHAPE, Activation, shortest
from models.huggingface.rope import Rope
from models.layer import Layer
from models.mixers.attention import Attention
from models.mixers.delta import Delta

SIZES = {"linear_num_key_heads": "key_heads", "linear_num_value_heads": "value_heads", "linear_key_head_dim": "key_dim",
         "linear_value_head_dim": "value_dim", "linear_conv_kernel_dim": "width"}  # fmt: skip
RECURRENT, FULL = "linear_attention", "full_attention"


class Mixers:
    """The kinds of the layers, and the experts that follow each.

    Without "layer_types" every `full_attention_interval`-th layer attends.
    """

    def read(self, keys: Keys) -> dict[str, Any]:
        """`pattern`."""
        experts = qwen2_moe.SharedExperts().read(keys)["moe"]
        delta = Delta(**{field: keys.get(key, int) for key, field in SIZES.items()})
        kinds = {RECURRENT: Layer(delta, experts), FULL: Layer(Attention(gated=True), experts)}
        types, n_layers = keys.get("layer_types", list, NoneType), keys.get("num_hidden_layers", int)
        if types is None:
            every = max(1, keys.get("full_attention_interval", int))
            types = [RECURRENT if (i + 1) % every else FULL for i in range(n_layers)]
        unknown = [kind for kind in types if kind not in kinds]
        if unknown or len(types) != n_layers:
            given = f"names {unknown[0]!r}" if unknown else f"has {len(types)} entries for {n_layers} layers"
            raise keys.error("layer_types", given, f"give one of {', '.join(kinds)} for each layer")
        return {"pattern": shortest([kinds[kind] for kind in types])}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The keys: of the first recurrent layer, and of the first experts."""
        layers, stream = config.layers, config.stream
        delta = next((layer.mixer for layer in layers if isinstance(layer.mixer, Delta)), Delta())
        experts = next((layer.channel for layer in layers if isinstance(layer.channel, Experts)), None)
        written: dict[str, Any] = dict(zip(SIZES, (*delta.sizes(stream), delta.width), strict=True))
        written["layer_types"] = [RECURRENT if isinstance(layer.mixer, Delta) else FULL for layer in layers]
        if experts is None:
            return written
        routed = dataclasses.replace(config, pattern=(), prologue=(), moe=experts.resolved(stream))
        return written | qwen2_moe.SharedExperts().write(routed)


DELTA: Names = {
    "delta_norm/gain": "input_layernorm.weight",
    "delta/qkvz": "linear_attn.in_proj_qkvz.weight",
    "delta/ba": "linear_attn.in_proj_ba.weight",
    "delta/conv_qk": "linear_attn.conv1d.weight",
    "delta/conv_v": "linear_attn.conv1d.weight",
    "delta/decay": "linear_attn.A_log",
    "delta/decay_bias": "linear_attn.dt_bias",
    "delta/gain": "linear_attn.norm.weight",
    "delta/out": "linear_attn.out_proj.weight",
}

FAMILY = Family(
    "qwen3_next",
    "Qwen3NextForCausalLM",
    names=block_names(
        "layers.{}.", llama.NORMS | llama.ATTENTION | DELTA | qwen3_moe.EXPERTS | qwen2_moe.SHARED, llama.MODEL
    ),
    parts=(*SHAPE, Activation(), Rope(partial="partial_rotary_factor"), Mixers()),
    defaults=qwen2.DEFAULTS | {
        "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 48, "num_attention_heads": 16,
        "num_key_value_heads": 2, "head_dim": 256, "partial_rotary_factor": 0.25, "attention_bias": False,
        "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_key_head_dim": 128,
        "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "layer_types": None, "full_attention_interval": 4,
        "moe_intermediate_size": 512, qwen2_moe.WIDTH: 512, "num_experts": 512, "num_experts_per_tok": 10,
        "norm_topk_prob": True, "router_aux_loss_coef": 0.001,
    },
    fixed={**RMS, "qk_norm": True, "norm_plus_one": True},
    neutral={"decoder_sparse_step": (1,), "mlp_only_layers": ([], None), "attention_bias": (False,)},
    aliases={"num_local_experts": "num_experts"},
)  # fmt: skip
