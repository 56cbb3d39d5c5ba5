"""gpt-oss (OpenAI 2025), dequantised: sinks, windows in every other layer, experts of clipped SwiGLU, biases."""

import dataclasses
from typing import Any

from models.channels.experts import Experts
from models.config import ModelConfig
from models.huggingface import parts
from models.huggingface.families import llama
from models.huggingface.family import Family, Names, block_names
from models.huggingface.files import Keys
from models.huggingface.parts import RMS, SHAPE, Windows, shortest
from models.huggingface.rope import Rope
from models.layer import Layer
from models.mixers.sinks import Sinks
from models.routers.top_k import TopK

ROUTED = parts.Experts("num_local_experts", "intermediate_size")
WINDOWS = Windows(types=True, pattern="sliding_window_pattern")


class Layers:
    """The windows of the layers, and the experts after each; the chosen ones' scores are a softmax of their own, which
    is that over all experts, normalised."""

    def read(self, keys: Keys) -> dict[str, Any]:
        """`pattern`."""
        experts = dataclasses.replace(ROUTED.read(keys)["moe"], router=TopK(offset=True))
        fields = WINDOWS.read(keys)
        kinds = {"sliding": Layer(Sinks(window=fields.get("sliding_window")), experts), "full": Layer(Sinks(), experts)}
        return {"pattern": shortest([kinds[kind] for kind in fields.get("layer_types", ("full",))])}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The keys: of the first window, and of the first experts."""
        layers = config.layers
        window = next((w for layer in layers if (w := getattr(layer.mixer, "window", None))), None)
        experts = next((layer.channel for layer in layers if isinstance(layer.channel, Experts)), None)
        written = {**WINDOWS.write(config), "sliding_window": window}
        return written | ({} if experts is None else ROUTED.said(experts.resolved(config.stream)))


BLOCK: Names = {
    **llama.NORMS,
    **llama.ATTENTION,
    "attention/sinks": "self_attn.sinks",
    "feedforward/router": "mlp.router.weight",
    "feedforward/router_offset": "mlp.router.bias",
    "feedforward/gate_up": "mlp.experts.gate_up_proj",
    "feedforward/gate_up_bias": "mlp.experts.gate_up_proj_bias",
    "feedforward/down": "mlp.experts.down_proj",
    "feedforward/down_bias": "mlp.experts.down_proj_bias",
}

FAMILY = Family(
    "gpt_oss",
    "GptOssForCausalLM",
    names=block_names("layers.{}.", BLOCK, llama.MODEL),
    parts=(*SHAPE, Rope(), Layers()),
    defaults=llama.DEFAULTS | {
        "vocab_size": 201_088, "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 36,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5, "rope_theta": 150_000.0, "sliding_window": 128, "sliding_window_pattern": 2,
        "layer_types": None, "num_local_experts": 128, "num_experts_per_tok": 4, "router_aux_loss_coef": 0.001,
        "rope_scaling": {
            "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
            "original_max_position_embeddings": 4096,
        },
    },
    before_5={"router_aux_loss_coef": 0.9},
    fixed={**RMS, "bias": "all", "activation": "swiglu_clipped"},
    neutral={
        "attention_bias": (True,), "hidden_act": ("silu",), "swiglu_alpha": (1.702,), "swiglu_limit": (7.0,),
    },
    aliases={"num_experts": "num_local_experts"},
)  # fmt: skip
