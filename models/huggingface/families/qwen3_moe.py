"""Qwen 3 with experts (Yang et al. 2025)."""

from models.huggingface.families import llama, qwen2
from models.huggingface.family import Family, Names, block_names
from models.huggingface.parts import RMS, SHAPE, Activation, Biases, Experts, Windows
from models.huggingface.rope import Rope

EXPERTS: Names = {
    "feedforward/router": "mlp.gate.weight",
    "feedforward/gate_up": ("mlp.experts.{expert}.gate_proj.weight", "mlp.experts.{expert}.up_proj.weight"),
    "feedforward/down": "mlp.experts.{expert}.down_proj.weight",
}

FAMILY = Family(
    "qwen3_moe",
    "Qwen3MoeForCausalLM",
    names=block_names("layers.{}.", llama.NORMS | llama.ATTENTION | EXPERTS, llama.MODEL),
    parts=(
        *SHAPE, Activation(), Biases(), Windows(switch="use_sliding_window"), Rope(),
        Experts("num_experts", "moe_intermediate_size", "norm_topk_prob"),
    ),
    defaults=qwen2.DEFAULTS | {
        "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 24, "num_key_value_heads": 4,
        "attention_bias": False, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8,
        "norm_topk_prob": False, "router_aux_loss_coef": 0.001,
    },
    fixed={**RMS, "qk_norm": True},
    neutral={"decoder_sparse_step": (1,), "mlp_only_layers": ([], None)},
    aliases={"num_local_experts": "num_experts"},
)  # fmt: skip
