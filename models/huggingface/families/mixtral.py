"""Mixtral (Jiang et al. 2024): Mistral with eight experts in every block, of which two serve a token."""

from models.huggingface.families import llama
from models.huggingface.family import Family, Names, block_names
from models.huggingface.parts import RMS, SHAPE, Activation, Experts, Windows
from models.huggingface.rope import Rope

EXPERTS: Names = {
    "feedforward/router": "block_sparse_moe.gate.weight",
    "feedforward/gate_up": (
        "block_sparse_moe.experts.{expert}.w1.weight",
        "block_sparse_moe.experts.{expert}.w3.weight",
    ),
    "feedforward/down": "block_sparse_moe.experts.{expert}.w2.weight",
}

FAMILY = Family(
    "mixtral",
    "MixtralForCausalLM",
    names=block_names("layers.{}.", llama.NORMS | llama.ATTENTION | EXPERTS, llama.MODEL),
    parts=(*SHAPE, Activation(), Windows(), Rope(), Experts("num_local_experts", "intermediate_size")),
    defaults=llama.DEFAULTS | {
        "intermediate_size": 14_336, "num_key_value_heads": 8, "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5, "rope_theta": 1e6, "sliding_window": None, "num_local_experts": 8,
        "num_experts_per_tok": 2, "router_aux_loss_coef": 0.001,
    },
    fixed=RMS,
)  # fmt: skip
