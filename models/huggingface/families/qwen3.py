"""Qwen 3 (Yang et al. 2025): Qwen 2 with norms on q and k in place of their biases."""

from models.huggingface.families import llama, qwen2
from models.huggingface.family import Family
from models.huggingface.parts import RMS, SHAPE, Activation, Biases
from models.huggingface.rope import Rope

FAMILY = Family(
    "qwen3",
    "Qwen3ForCausalLM",
    names=llama.NAMES,
    parts=(*SHAPE, Activation(), Biases(), qwen2.WINDOWS, Rope()),
    defaults=qwen2.DEFAULTS | {"head_dim": 128, "attention_bias": False},
    fixed={**RMS, "qk_norm": True},
)
