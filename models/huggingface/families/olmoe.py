"""OLMoE (Muennighoff et al. 2024): 64 experts in every block, and norms of all heads of q and k together."""

from models.huggingface.families import llama, qwen3_moe
from models.huggingface.family import Family
from models.huggingface.parts import RMS, SHAPE, Activation, Biases, Experts
from models.huggingface.rope import Rope

FAMILY = Family(
    "olmoe",
    "OlmoeForCausalLM",
    names=qwen3_moe.FAMILY.names,
    parts=(*SHAPE, Activation(), Biases(), Rope(), Experts("num_experts", "intermediate_size", "norm_topk_prob")),
    defaults=llama.DEFAULTS | {
        "vocab_size": 50_304, "hidden_size": 2048, "intermediate_size": 2048, "num_hidden_layers": 16,
        "num_attention_heads": 16, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "attention_bias": False,
        "num_experts": 64, "num_experts_per_tok": 8, "norm_topk_prob": False, "router_aux_loss_coef": 0.01,
    },
    fixed={**RMS, "qk_norm": True, "qk_norm_over": "all"},
    neutral={"clip_qkv": (None,)},
    aliases={"num_local_experts": "num_experts"},
)  # fmt: skip
