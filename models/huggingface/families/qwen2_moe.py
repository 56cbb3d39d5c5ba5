"""Qwen 1.5 and 2 with experts (Yang et al. 2024), and a shared expert that a gate scales."""

import dataclasses
from typing import Any

from models.config import ModelConfig
from models.huggingface.families import llama, qwen2, qwen3_moe
from models.huggingface.family import Family, Names, block_names
from models.huggingface.files import Keys
from models.huggingface.parts import RMS, SHAPE, Activation, Experts
from models.huggingface.rope import Rope

ROUTED = Experts("num_experts", "moe_intermediate_size", "norm_topk_prob")
WIDTH = "shared_expert_intermediate_size"


class SharedExperts:
    """Experts, and a shared one whose width is that of several of them."""

    def read(self, keys: Keys) -> dict[str, Any]:
        """`moe`."""
        moe, width = ROUTED.read(keys)["moe"], keys.get(WIDTH, int)
        if width == 0 or width % moe.d_ff:
            problem = f"is {width}, no multiple of moe_intermediate_size {moe.d_ff}"
            raise keys.error(WIDTH, problem, "use a checkpoint in which it is one")
        return {"moe": dataclasses.replace(moe, shared=width // moe.d_ff, shared_gate=True)}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The keys; none without experts."""
        moe = config.moe
        return ROUTED.write(config) | ({} if moe is None else {WIDTH: moe.shared * (moe.d_ff or 0)})


SHARED: Names = {
    "feedforward/shared_gate_up": ("mlp.shared_expert.gate_proj.weight", "mlp.shared_expert.up_proj.weight"),
    "feedforward/shared_down": "mlp.shared_expert.down_proj.weight",
    "feedforward/shared_gate": "mlp.shared_expert_gate.weight",
}

FAMILY = Family(
    "qwen2_moe",
    "Qwen2MoeForCausalLM",
    names=block_names("layers.{}.", llama.NORMS | llama.ATTENTION | qwen3_moe.EXPERTS | SHARED, llama.MODEL),
    parts=(*SHAPE, Activation(), Rope(), SharedExperts()),
    defaults=qwen2.DEFAULTS | {
        "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24, "num_attention_heads": 16,
        "num_key_value_heads": 16, "moe_intermediate_size": 1408, WIDTH: 5632, "num_experts": 60,
        "num_experts_per_tok": 4, "norm_topk_prob": False, "router_aux_loss_coef": 0.001,
    },
    fixed={**RMS, "bias": "qkv"},
    neutral={
        "decoder_sparse_step": (1,), "mlp_only_layers": ([], None), "use_sliding_window": (False,), "qkv_bias": (True,)
    },
    aliases={"num_local_experts": "num_experts"},
)  # fmt: skip
