"""DeepSeek-V3 and R1 (DeepSeek-AI 2024): V2 with experts chosen by biased sigmoids; without layers that guess on."""

from models.huggingface.families import deepseek_v2, llama
from models.huggingface.family import Family, Names, block_names
from models.huggingface.parts import WIDTHS, Activation

BIAS: Names = {"feedforward/router_bias": "mlp.gate.e_score_correction_bias"}

FAMILY = Family(
    "deepseek_v3",
    "DeepseekV3ForCausalLM",
    names=block_names("layers.{}.", deepseek_v2.NAMES | BIAS, llama.MODEL),
    parts=(*WIDTHS, Activation(), deepseek_v2.Mixers("rope_interleave", biased=True)),
    defaults=deepseek_v2.DEFAULTS | {
        "vocab_size": 129_280, "hidden_size": 7168, "intermediate_size": 18_432, "num_hidden_layers": 61,
        "num_attention_heads": 128, "max_position_embeddings": 4096, "first_k_dense_replace": 3,
        "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
        "routed_scaling_factor": 2.5, "n_group": 8, "topk_group": 4, "norm_topk_prob": True, "rope_interleave": True,
        "topk_method": "noaux_tc",
    },
    fixed=deepseek_v2.FIXED,
    neutral={**deepseek_v2.NEUTRAL, "scoring_func": ("sigmoid",), "topk_method": ("noaux_tc",)},
    aliases={"num_local_experts": "n_routed_experts"},
    beyond="layers.",
)  # fmt: skip
