"""Mistral (Jiang et al. 2023): Llama with sliding windows."""

from models.huggingface.families import llama
from models.huggingface.family import Family
from models.huggingface.parts import RMS, SHAPE, Activation, Windows
from models.huggingface.rope import Rope

FAMILY = Family(
    "mistral",
    "MistralForCausalLM",
    names=llama.NAMES,
    parts=(*SHAPE, Activation(), Windows(), Rope()),
    defaults=llama.DEFAULTS | {
        "intermediate_size": 14_336, "num_key_value_heads": 8, "max_position_embeddings": 131_072,
        "sliding_window": 4096,
    },
    fixed=RMS,
)  # fmt: skip
