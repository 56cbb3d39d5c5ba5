"""Seed-OSS (ByteDance 2025): Llama with biases on q, k and v."""

from models.huggingface.families import llama
from models.huggingface.family import Family
from models.huggingface.parts import RMS, SHAPE, Activation, QkvBiases
from models.huggingface.rope import Rope

FAMILY = Family(
    "seed_oss",
    "SeedOssForCausalLM",
    names=llama.NAMES,
    parts=(*SHAPE, Activation(), QkvBiases(out="attention_out_bias", mlp="mlp_bias"), Rope()),
    defaults=llama.DEFAULTS | {
        "vocab_size": 155_136, "intermediate_size": 27_648, "num_hidden_layers": 64, "num_attention_heads": 80,
        "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 524_288, "attention_bias": True,
        "attention_out_bias": False, "mlp_bias": False,
    },
    fixed=RMS,
)  # fmt: skip
